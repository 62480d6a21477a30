// The exported page: what the explorer draws, of what is known, with nobody to ask.

class Known {
  constructor(traits, heard) {
    this.traits = traits;
    this.heard = heard;
    this.handlers = [];
  }
  get(name) { return this.traits[name]; }
  on(names, act) { this.handlers.push([names.split(" "), act]); }
  off() { this.handlers = []; }
  send(message) { this.heard(message); }
  set(name, value) {
    this.traits[name] = value;
    for (const [names, act] of this.handlers) if (names.includes(`change:${name}`)) act();
  }
}

function open() {
  const content = JSON.parse(document.getElementById("content").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const tint = () => document.body.classList.toggle("ls-dark", dark.matches);
  dark.addEventListener("change", tint);
  tint();
  const picked = document.getElementById("picked");
  const show = (tip) => {
    const [first, ...more] = tip.split("\n");
    const parts = [first, ...more].flatMap((line, n) => {
      const at = line.indexOf(": ");
      const [name, value] = at < 0 ? ["", line] : [line.slice(0, at), line.slice(at + 2)];
      const pair = [document.createElement("dt"), document.createElement("dd")];
      pair[0].textContent = name || (!n ? "layer" : line.endsWith("parameters") ? "size" : "verdict");
      pair[1].textContent = value;
      return pair;
    });
    picked.replaceChildren(...parts);
  };
  const strip = new Known(content.strip, (message) => {
    const layer = content.strip.blocks.find((each) => each.name === message.name);
    strip.set("selected", [layer.name]);
    strip.set("acknowledged", message.seq);
    show(layer.tip);
  });
  const grid = new Known(content.grid, (message) => {
    const [row, column] = [content.grid.rows.indexOf(message.row), content.grid.columns.indexOf(message.column)];
    const cell = content.grid.cells[row]?.[column] || {};
    grid.set("marked", [[message.row, message.column]]);
    strip.set("selected", [message.row]);
    show(cell.tip || `${message.row}, ${message.column}: not computed`);
  });
  const code = document.querySelector(".ls-copied");
  code.append(copyButton(() => code.querySelector("pre").textContent, "Python"));
  Strip.render({ model: strip, el: document.getElementById("strip") });
  Grid.render({ model: grid, el: document.getElementById("grid") });
  // What is changed is in view, in its box.
  const changed = document.querySelector('.ls-block:not([data-state="trained"])');
  const list = document.querySelector(".ls-list");
  if (changed) list.scrollTop = changed.getBoundingClientRect().top - list.getBoundingClientRect().top - 60;
}

open();
