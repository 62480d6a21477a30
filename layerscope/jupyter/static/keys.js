// What all parts share: keys that never reach the notebook, names for controls, one tab stop.

const ready = (el, then) => {
  const wait = () => (el.isConnected ? then() : requestAnimationFrame(wait));
  wait();
};

// In a notebook's command mode "d d" deletes the cell: what is pressed in here stays in here, but
// for what has a modifier, such as to save or to run the cell, and for Escape.
const stays = (event) =>
  !(event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape" ||
    (event.shiftKey && event.key === "Enter"));

function shield(box) {
  if (box.dataset.shielded) return;
  box.dataset.shielded = "true";
  box.addEventListener("keydown", (event) => { if (stays(event)) event.stopPropagation(); });
}

// Jupyter Notebook hears of a key before the part that has the focus does. It heeds this attribute.
if (!window.layerscopeShields) {
  window.layerscopeShields = true;
  window.addEventListener("keydown", (event) => {
    if (!event.target.closest?.("[data-shielded]")) return;
    event.target.toggleAttribute("data-lm-suppress-shortcuts", stays(event));
  }, true);
}

// Controls of ipywidgets that a screen reader would say nothing of.
function nameControls(box) {
  const name = (part, text) => {
    if (text && part.getAttribute("aria-label") !== text) part.setAttribute("aria-label", text);
  };
  for (const part of box.querySelectorAll(".noUi-handle, .noUi-connects")) {
    const line = part.closest(".widget-inline-hbox");
    if (part.matches(".noUi-handle")) {
      name(part, line?.querySelector(".widget-label")?.textContent || "value");
    }
  }
  for (const part of box.querySelectorAll("input, textarea")) {
    const label = part.closest(".widget-inline-hbox")?.querySelector(".widget-label")?.textContent;
    if (!part.labels?.length && !part.ariaLabel) name(part, label || part.placeholder || part.title);
  }
  for (const part of box.querySelectorAll(".widget-hprogress > div")) {
    part.setAttribute("role", "progressbar");
    name(part, "progress of the sweep");
  }
  for (const part of box.querySelectorAll(".widget-toggle-buttons")) {
    part.setAttribute("role", "group");
    name(part, part.previousElementSibling?.textContent || "what a click does");
    for (const each of part.querySelectorAll("button")) {
      each.setAttribute("aria-pressed", String(each.classList.contains("mod-active")));
    }
  }
}

// The boxes of a notebook that could scroll and do not: in them nothing would stay in view.
function letThrough(box) {
  const cell = box.closest(".jp-Cell");
  for (let at = box.parentElement; cell && at !== cell.parentElement; at = at.parentElement) {
    if (at.classList.contains("jp-mod-outputsScrolled")) return;
    at.classList.add("ls-through");
  }
}

// Once for the whole explorer, whichever of its parts comes first.
function settle(el) {
  shield(el);
  ready(el, () => {
    const box = el.closest(".ls-explorer");
    if (!box || box.dataset.settled) return;
    box.dataset.settled = "true";
    shield(box);
    box.closest(".jp-OutputArea")?.classList.add("ls-live");
    letThrough(box);
    let due = false;
    const again = () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; nameControls(box); });
    };
    new MutationObserver(again).observe(box, {
      childList: true, subtree: true, attributes: true, attributeFilter: ["class"],
    });
    again();
  });
}

// What the page around an explorer is scrolled by.
function scroller(el) {
  for (let at = house(el).parentElement; at; at = at.parentElement) {
    if (at.scrollHeight > at.clientHeight + 1 && /auto|scroll/.test(getComputedStyle(at).overflowY)) return at;
  }
  return document.scrollingElement;
}

// Words between parts of one explorer, in the page alone.
const house = (el) => el.closest(".ls-explorer") || el.parentElement || el;
const tell = (el, kind, detail) => house(el).dispatchEvent(new CustomEvent(kind, { detail }));
const hear = (el, kind, act) =>
  ready(el, () => house(el).addEventListener(kind, (event) => act(event.detail)));

// Of parts that can be reached by arrow keys one is reached by the tabulator: the last that was.
function rove(from, to) {
  if (from && from !== to) from.tabIndex = -1;
  if (to) to.tabIndex = 0;
  return to;
}
