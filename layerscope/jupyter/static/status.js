// What is going on, or came out. Texts come from outside, so they only ever become text.

function render({ model, el }) {
  const line = document.createElement("div");
  const text = document.createElement("span");
  const bar = document.createElement("progress");
  // One element that stays: one that comes with its text is not announced. Of what changes with
  // every batch only the beginning is, and then the result.
  const said = document.createElement("div");
  said.className = "ls-said-aloud";
  said.setAttribute("role", "status");
  said.setAttribute("aria-live", "polite");
  bar.max = 1;
  bar.setAttribute("aria-hidden", "true");
  line.append(text, bar);
  el.append(line, said);

  let kind = "";
  const draw = () => {
    const share = model.get("share");
    line.className = "ls-status";
    line.dataset.kind = model.get("kind");
    text.textContent = model.get("text");
    bar.hidden = share < 0;
    if (share >= 0) bar.value = share;
    const busy = model.get("kind") === "busy";
    if (!busy || kind !== "busy") said.textContent = busy ? "measuring" : model.get("text");
    kind = model.get("kind");
  };
  model.on("change:text change:kind change:share", draw);
  draw();
  return () => model.off(null, draw);
}

export default { render };
