// Python, to be copied. It only ever becomes text, never HTML.

function render({ model, el }) {
  const text = document.createElement("pre");
  text.className = "ls-code";
  text.tabIndex = 0;
  text.setAttribute("aria-label", "Python that measures this state");
  text.setAttribute("role", "region");
  el.classList.add("ls-copied");
  el.append(text, copyButton(() => model.get("text"), "Python"));
  const draw = () => {
    text.textContent = model.get("text");
    el.toggleAttribute("hidden", !model.get("text"));
  };
  model.on("change:text", draw);
  draw();
  return () => model.off(null, draw);
}

export default { render };
