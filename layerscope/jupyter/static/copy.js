// A button that copies a text, and says so; screen readers hear it, too.

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without a secure address, or where the page may not: as before there was a clipboard to write to.
    const field = document.createElement("textarea");
    field.value = text;
    field.style.position = "fixed";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

function copyButton(text, what) {
  const box = document.createElement("span");
  const button = document.createElement("button");
  const said = document.createElement("span");
  button.type = "button";
  button.className = "ls-plain";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${what}`);
  said.className = "ls-said-aloud";
  said.setAttribute("role", "status");
  let over;
  button.addEventListener("click", async () => {
    const done = await toClipboard(text());
    button.textContent = done ? "Copied" : "Not copied";
    said.textContent = done ? `${what} copied` : `${what} could not be copied; select it and press Ctrl+C`;
    button.focus();
    clearTimeout(over);
    over = setTimeout(() => { button.textContent = "Copy"; said.textContent = ""; }, 2500);
  });
  // In a notebook's command mode letters are commands.
  button.addEventListener("keydown", (event) => event.stopPropagation());
  box.className = "ls-copy";
  box.append(button, said);
  return box;
}
