// The strip of layers. Names come from files, so they only ever become text, never HTML.

// What a block shows. Blocks stay in place while their names do: one that is replaced between
// mouse-down and mouse-up never hears of the click.
function dress(button, model, layer) {
  const [body, name] = button.children;
  button.title = layer.tip;
  button.dataset.state = layer.state;
  button.setAttribute("aria-pressed", String(layer.state !== "trained"));
  button.setAttribute("aria-label", `${layer.name}: ${layer.state}`);
  button.style.setProperty("--ls-fill", layer.colour);
  button.style.setProperty("--ls-ink", layer.ink);
  button.style.setProperty("--ls-share", layer.share);
  button.classList.toggle("ls-selected", model.get("selected").includes(layer.name));
  body.textContent = layer.badge;
  name.textContent = layer.short;
}

function block(model, layer, press) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "ls-block";
  button.tabIndex = -1;
  button.dataset.name = layer.name;
  const body = document.createElement("span");
  body.className = "ls-body";
  const name = document.createElement("span");
  name.className = "ls-name";
  button.append(body, name);
  button.addEventListener("click", (event) => press(layer.name, event));
  dress(button, model, layer);
  return button;
}

function group(caption, kind) {
  const box = document.createElement("div");
  box.className = `ls-${kind}`;
  if (kind === "stage" && caption) {
    const title = document.createElement("div");
    title.className = "ls-caption";
    title.textContent = caption;
    box.append(title);
  }
  const inside = document.createElement("div");
  inside.className = "ls-inside";
  box.append(inside);
  return [box, inside];
}

function render({ model, el }) {
  let seq = 0;
  let current = null;
  el.classList.add("ls-strip");
  const list = document.createElement("div");
  list.className = "ls-list";
  list.setAttribute("role", "toolbar");
  list.setAttribute("aria-label", model.get("label"));
  el.append(list);

  const press = (name, event) => {
    current = name;
    const how = event.shiftKey ? "range" : event.ctrlKey || event.metaKey ? "select" : "toggle";
    model.send({ kind: how, name, seq: ++seq });
  };

  const places = (layers) => JSON.stringify(layers.map((l) => [l.name, l.stage, l.block]));
  let drawn = null;

  const draw = () => {
    const layers = model.get("blocks");
    const buttons = list.querySelectorAll(".ls-block");
    if (drawn === places(layers)) {
      layers.forEach((layer, at) => dress(buttons[at], model, layer));
    } else {
      build(layers);
      drawn = places(layers);
    }
  };

  const build = (layers) => {
    const had = el.contains(document.activeElement);
    list.dataset.size = layers.length <= 12 ? "large" : layers.length <= 60 ? "medium" : "small";
    const boxes = [];
    let stage, inside, row, last = null;
    const sizes = new Map();
    for (const layer of layers) sizes.set(layer.stage, (sizes.get(layer.stage) || 0) + 1);
    // A caption over a single layer would only say its name again.
    const named = (layer) => (sizes.get(layer.stage) > 1 ? layer.stage : "");
    for (const layer of layers) {
      if (!last || named(last) !== named(layer)) {
        [stage, inside] = group(named(layer), "stage");
        boxes.push(stage);
        last = null;
      }
      if (!last || last.block !== layer.block || !layer.block) {
        const [box, within] = group("", "module");
        inside.append(box);
        row = within;
      }
      row.append(block(model, layer, press));
      last = layer;
    }
    list.replaceChildren(...boxes);
    const all = [...list.querySelectorAll(".ls-block")];
    const at = all.find((each) => each.dataset.name === current) || all[0];
    if (at) at.tabIndex = 0;
    if (at && had) at.focus();
  };

  list.addEventListener("keydown", (event) => {
    const all = [...list.querySelectorAll(".ls-block")];
    const at = all.indexOf(event.target.closest(".ls-block"));
    const to = {
      ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + 1, ArrowUp: at - 1,
      Home: 0, End: all.length - 1,
    }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      model.send({ kind: "clear", name: all[at].dataset.name, seq: ++seq });
    } else if (to === undefined || !all[to]) {
      return;
    } else {
      all[at].tabIndex = -1;
      all[to].tabIndex = 0;
      all[to].focus();
      current = all[to].dataset.name;
    }
    event.preventDefault();
    event.stopPropagation();
  });

  const acknowledge = () => { el.dataset.acknowledged = model.get("acknowledged"); };
  model.on("change:blocks change:selected", draw);
  model.on("change:acknowledged", acknowledge);
  draw();
  acknowledge();
  return () => model.off(null, draw);
}

export default { render };
