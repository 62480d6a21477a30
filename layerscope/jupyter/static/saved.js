// What is being saved, and where it is then. Paths only ever become text, never HTML.

function render({ model, el }) {
  const text = document.createElement("span");
  const bar = document.createElement("progress");   // without a value: it goes on
  const copy = copyButton(() => model.get("path"), "path");
  text.setAttribute("role", "status");
  bar.setAttribute("aria-hidden", "true");
  el.classList.add("ls-saved");
  el.append(text, bar, copy);
  const draw = () => {
    el.dataset.kind = model.get("kind");
    text.textContent = model.get("text");
    bar.hidden = model.get("kind") !== "busy";
    copy.hidden = !model.get("path");
  };
  model.on("change:text change:kind change:path", draw);
  draw();
  return () => model.off(null, draw);
}

export default { render };
