// The strip of layers. Names come from files, so they only ever become text, never HTML.

const FEW = 12, MANY = 60;

function element(kind, name, text) {
  const made = document.createElement(kind);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function makeBlock(layer) {
  const button = element("button", "ls-block ls-stop");
  button.type = "button";
  button.tabIndex = -1;
  button.dataset.name = layer.name;
  button.append(element("span", "ls-body"), element("span", "ls-name"));
  return button;
}

// What changed of a block; the block itself stays, and with it the focus and a click half done.
function patch(button, layer, selected) {
  const now = JSON.stringify(layer);
  button.classList.toggle("ls-selected", selected);
  if (button.drawn === now) return;
  button.drawn = now;
  button.classList.remove("ls-pending");
  button.title = layer.tip;
  button.dataset.state = layer.state;
  button.setAttribute("aria-pressed", String(layer.state !== "trained"));
  const verdict = layer.verdict ? `, ${layer.verdict}` : "";
  const trouble = layer.trouble ? `, ${layer.trouble}` : "";
  button.dataset.trouble = String(Boolean(layer.trouble));
  button.setAttribute("aria-label", `${layer.name}: ${layer.state}${verdict}${trouble}`);
  button.style.setProperty("--ls-fill", layer.colour);
  button.style.setProperty("--ls-ink", layer.ink);
  button.style.setProperty("--ls-share", layer.share);
  button.firstChild.textContent = layer.badge;
  button.lastChild.textContent = layer.short;
}

// A stage, or a block of several layers, that can be folded to a bar of their colours.
function makeGroup(kind, key, caption, fold) {
  const box = element("div", `ls-${kind}`);
  const inside = element("div", "ls-inside");
  box.inside = inside;
  box.layers = [];
  if (caption) {
    const head = element("button", "ls-caption ls-stop");
    head.type = "button";
    head.tabIndex = -1;
    head.dataset.fold = key;
    head.append(element("span", "ls-sign", "▾"), element("span", "ls-word", caption), element("i", "ls-bars"));
    head.addEventListener("click", () => fold(box));
    box.head = head;
    box.append(head);
  }
  box.append(inside);
  return box;
}

function paint(box, folded) {
  if (!box.head) return;
  box.classList.toggle("ls-folded", folded);
  box.head.setAttribute("aria-expanded", String(!folded));
  box.head.firstChild.textContent = folded ? "▸" : "▾";
  const count = box.layers.length;
  box.head.title = `${box.head.children[1].textContent}: ${count} rows; click to ${folded ? "unfold" : "fold"}`;
  const step = 100 / Math.max(count, 1);
  const stops = box.layers.map((layer, n) => `${layer.colour} ${n * step}% ${(n + 1) * step}%`);
  box.head.lastChild.style.background = folded ? `linear-gradient(to right, ${stops.join(", ")})` : "";
  box.head.lastChild.style.width = folded ? `${Math.max(14, Math.min(5 * count, 420))}px` : "";
  box.classList.toggle("ls-touched", folded && box.layers.some((layer) => layer.state !== "trained"));
}

function render({ model, el }) {
  let seq = 0;
  let current = null;
  let laid = "";
  let blocks = new Map();
  let groups = [];
  const folded = new Set();
  el.classList.add("ls-strip");
  settle(el);

  const find = element("div", "ls-find");
  const search = element("input", "ls-search");
  search.type = "search";
  search.placeholder = "Find a layer";
  search.setAttribute("aria-label", "Find a layer, by name, type or verdict");
  const count = element("output", "ls-count");
  count.setAttribute("aria-live", "polite");
  const foldAll = element("button", "ls-plain", "Fold all");
  foldAll.type = "button";
  find.append(search, count, foldAll);
  const map = element("canvas", "ls-map");
  map.setAttribute("aria-hidden", "true");
  const list = element("div", "ls-list");
  list.setAttribute("role", "toolbar");
  const line = element("div", "ls-read");
  line.setAttribute("aria-hidden", "true");
  const legend = element("ul", "ls-legend");
  el.append(find, map, list, line, legend);

  const read = (name) => {
    const layer = model.get("blocks").find((each) => each.name === name);
    line.textContent = layer ? layer.tip.split("\n").join(" · ") : "";
  };

  const stops = () => [...list.querySelectorAll(".ls-stop")].filter((each) => each.offsetParent);

  const go = (to) => {
    if (!to) return;
    rove(list.querySelector('.ls-stop[tabindex="0"]'), to);
    to.focus({ preventScroll: true });
    near(to);
    current = to.dataset.name || to.dataset.fold;
    read(to.dataset.name);
    if (to.dataset.name) tell(el, "ls-at", to.dataset.name);
  };

  // Scrolls the list alone, and the page around it only where the answer would cover what is there.
  const near = (to) => {
    const answer = house(el).querySelector(".ls-answer")?.getBoundingClientRect();
    const below = () => {
      const end = list.getBoundingClientRect().bottom;
      return answer && answer.top > list.getBoundingClientRect().top + 60 ? Math.min(end, answer.top) : end;
    };
    const [room, place] = [list.getBoundingClientRect(), to.getBoundingClientRect()];
    if (place.top < room.top + 4) list.scrollTop -= room.top + 4 - place.top;
    else if (place.bottom > below() - 4) list.scrollTop += place.bottom - below() + 4;
    const over = to.getBoundingClientRect().bottom - below() + 4;
    if (over > 0) scroller(el)?.scrollBy(0, over);
  };

  const fold = (box) => {
    const key = box.head.dataset.fold;
    if (!folded.delete(key)) folded.add(key);
    paint(box, folded.has(key));
    drawMap();
  };

  const press = (button, event) => {
    const name = button.dataset.name;
    const how = event.shiftKey ? "range" : event.ctrlKey || event.metaKey ? "select" : "toggle";
    rove(list.querySelector('.ls-stop[tabindex="0"]'), button);
    current = name;
    button.classList.add("ls-pending");   // seen at once; the answer takes it away
    read(name);
    tell(el, "ls-at", name);
    model.send({ kind: how, name, seq: ++seq });
  };

  const lay = (layers) => {
    const wanted = JSON.stringify(layers.map((each) => [each.name, each.stage, each.block, each.group]));
    if (wanted === laid) return;
    laid = wanted;
    blocks = new Map();
    groups = [];
    const sizes = new Map();
    for (const layer of layers) sizes.set(layer.stage, (sizes.get(layer.stage) || 0) + 1);
    // A caption over a single layer would only say its name again.
    const named = (layer) => (sizes.get(layer.stage) > 1 ? layer.stage : "");
    let stage, module, last = null;
    const open = (kind, key, caption, within) => {
      const box = makeGroup(kind, key, caption, fold);
      groups.push(box);
      within.push(box);
      return box;
    };
    const top = [];
    for (const layer of layers) {
      if (!last || named(last) !== named(layer)) {
        stage = open("stage", `stage:${layer.stage}`, named(layer), top);
        last = null;
      }
      if (!last || last.block !== layer.block || !layer.block) {
        const within = [];
        module = open("module", `block:${layer.block}`, layers.length > FEW ? layer.group : "", within);
        stage.inside.append(...within);
      }
      const button = makeBlock(layer);
      blocks.set(layer.name, button);
      module.inside.append(button);
      module.names = [...(module.names || []), layer.name];
      stage.names = [...(stage.names || []), layer.name];
      last = layer;
    }
    list.replaceChildren(...top);
    list.dataset.size = layers.length <= FEW ? "large" : layers.length <= MANY ? "medium" : "small";
    find.hidden = layers.length <= 24;
    map.hidden = layers.length <= 24;
    foldAll.hidden = !groups.some((each) => each.head);
    line.hidden = layers.length <= FEW;
  };

  const draw = () => {
    const had = el.contains(document.activeElement) && list.contains(document.activeElement);
    const layers = model.get("blocks");
    const before = laid;
    list.setAttribute("aria-label", model.get("label"));
    lay(layers);
    const chosen = new Set(model.get("selected"));
    const known = new Map(layers.map((layer) => [layer.name, layer]));
    for (const layer of layers) patch(blocks.get(layer.name), layer, chosen.has(layer.name));
    for (const box of groups) {
      box.layers = (box.names || []).map((name) => known.get(name));
      paint(box, Boolean(box.head) && folded.has(box.head.dataset.fold));
    }
    drawLegend(legend, model.get("legend") || []);
    if (before !== laid) {
      const at = blocks.get(current) || list.querySelector(".ls-stop");
      if (at) at.tabIndex = 0;
      if (at && had) at.focus();
      filter();
    }
    if (current) read(current);
    drawMap();
  };

  // Search.

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const layers = model.get("blocks");
    // "conv2" is a layer's name, and not every Conv2d.
    const about = (layer, word) =>
      /\d$/.test(word) ? layer.name : `${layer.name} ${layer.tip.split("\n")[1] || ""} ${layer.verdict || ""}`;
    const fits = (layer) => words.every((word) => about(layer, word).toLowerCase().includes(word));
    const found = new Set(layers.filter(fits).map((layer) => layer.name));
    for (const [name, button] of blocks) button.hidden = !found.has(name);
    for (const box of groups) box.hidden = !(box.names || []).some((name) => found.has(name));
    el.classList.toggle("ls-filtered", words.length > 0);   // what is found shows though folded
    count.textContent = words.length ? `${found.size} of ${layers.length}` : `${layers.length} rows`;
    tell(el, "ls-filter", words.length ? found : null);
    el.found = words.length ? found : null;
    drawMap();
  };
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "ArrowDown") {
      go(stops().find((each) => each.dataset.name));
      event.preventDefault();
    } else if (event.key === "Escape" && search.value) {
      search.value = "";
      filter();
      event.stopPropagation();
    }
  });

  foldAll.addEventListener("click", () => {
    const modules = groups.filter((box) => box.head && box.classList.contains("ls-module"));
    const those = modules.length ? modules : groups.filter((box) => box.head);
    const all = those.every((box) => folded.has(box.head.dataset.fold));
    for (const box of groups.filter((each) => each.head)) {
      if (all) folded.delete(box.head.dataset.fold);
      else if (those.includes(box)) folded.add(box.head.dataset.fold);
      paint(box, folded.has(box.head.dataset.fold));
    }
    foldAll.textContent = all ? "Fold all" : "Unfold all";
    drawMap();
  });

  // The map: all rows in one line, those that are in view framed.

  let due = false;
  const drawMap = () => {
    if (map.hidden || due) return;
    due = true;
    requestAnimationFrame(() => { due = false; paintMap(); });
  };
  const paintMap = () => {
    const layers = model.get("blocks");
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [map.clientWidth, map.clientHeight];
    if (!wide || !layers.length) return;
    [map.width, map.height] = [wide * scale, high * scale];
    const pen = map.getContext("2d");
    pen.scale(scale, scale);
    const step = wide / layers.length;
    const accent = getComputedStyle(el).getPropertyValue("--ls-accent");
    const room = list.getBoundingClientRect();
    let [first, end] = [layers.length, -1];
    layers.forEach((layer, n) => {
      pen.globalAlpha = el.found && !el.found.has(layer.name) ? 0.2 : 1;
      pen.fillStyle = layer.colour;
      pen.fillRect(Math.floor(n * step), 5, Math.ceil(step), high - 8);
      if (layer.state !== "trained") {
        pen.globalAlpha = 1;
        pen.fillStyle = accent;
        pen.fillRect(n * step, 0, Math.max(step, 3), 4);
      }
      const place = blocks.get(layer.name)?.getBoundingClientRect();
      if (place?.height && place.bottom > room.top && place.top < room.bottom) {
        first = Math.min(first, n);
        end = Math.max(end, n);
      }
    });
    pen.globalAlpha = 1;
    if (end < first || (first === 0 && end === layers.length - 1)) return;
    pen.strokeStyle = getComputedStyle(el).getPropertyValue("--ls-text");
    pen.lineWidth = 1.5;
    pen.strokeRect(first * step + 0.75, 4.25, (end - first + 1) * step - 1.5, high - 5.5);
  };
  const place = (event) => {
    const box = map.getBoundingClientRect();
    const layers = model.get("blocks");
    return layers[Math.max(0, Math.min(layers.length - 1, Math.floor(((event.clientX - box.left) / box.width) * layers.length)))];
  };
  const jump = (event) => {
    const layer = place(event);
    const button = layer && blocks.get(layer.name);
    if (!button) return;
    for (const box of groups) {
      if (box.head && folded.has(box.head.dataset.fold) && box.contains(button)) fold(box);
    }
    go(button.hidden ? null : button);
  };
  map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); jump(event); });
  map.addEventListener("pointermove", (event) => {
    if (event.buttons) jump(event);
    else read(place(event)?.name);
  });
  list.addEventListener("scroll", drawMap, { passive: true });
  new ResizeObserver(drawMap).observe(list);

  // Pointer and keys.

  list.addEventListener("click", (event) => {
    const button = event.target.closest(".ls-block");
    if (button) press(button, event);
  });
  list.addEventListener("pointerover", (event) => {
    const button = event.target.closest(".ls-block");
    if (button) read(button.dataset.name);
  });
  list.addEventListener("pointerleave", () => read(current));

  // Up and down go to what stands there, since lines break where there is no more room.
  const beside = (all, at, down) => {
    const from = at.getBoundingClientRect();
    const middle = from.left + from.width / 2;
    let best = null, least = Infinity;
    for (const each of all) {
      const box = each.getBoundingClientRect();
      const away = down ? box.top - from.bottom + 4 : from.top - box.bottom + 4;
      if (away < 0) continue;
      const far = 3 * away + Math.abs(box.left + box.width / 2 - middle);
      if (far < least) [best, least] = [each, far];
    }
    return best;
  };

  list.addEventListener("keydown", (event) => {
    const at = event.target.closest(".ls-stop");
    if (!at || event.altKey || event.metaKey) return;
    const all = stops();
    const n = all.indexOf(at);
    const heads = all.filter((each) => each.parentElement.classList.contains("ls-stage"));
    const before = (each) => each.compareDocumentPosition(at) & Node.DOCUMENT_POSITION_FOLLOWING;
    const after = (each) => each.compareDocumentPosition(at) & Node.DOCUMENT_POSITION_PRECEDING;
    let to;
    if (event.key === "ArrowRight") to = all[n + 1];
    else if (event.key === "ArrowLeft") to = all[n - 1];
    else if (event.key === "ArrowDown") to = beside(all, at, true) || all[n + 1];
    else if (event.key === "ArrowUp") to = beside(all, at, false) || all[n - 1];
    else if (event.key === "Home") to = all[0];
    else if (event.key === "End") to = all[all.length - 1];
    else if (event.key === "PageDown") to = heads.find(after) || all[all.length - 1];
    else if (event.key === "PageUp") to = heads.filter(before).pop() || all[0];
    else if (event.key === "/" && !find.hidden) search.focus();
    else if (event.key === "Delete" || event.key === "Backspace") {
      if (at.dataset.name) model.send({ kind: "clear", name: at.dataset.name, seq: ++seq });
    } else return;
    go(to);
    event.preventDefault();
    event.stopPropagation();
  });

  const acknowledge = () => {
    el.dataset.acknowledged = model.get("acknowledged");
    for (const each of list.querySelectorAll(".ls-pending")) each.classList.remove("ls-pending");
  };
  model.on("change:blocks change:selected change:label change:legend", draw);
  model.on("change:acknowledged", acknowledge);
  draw();
  acknowledge();
  return () => { model.off(null, draw); model.off(null, acknowledge); };
}

export default { render };
