// The heat map. Names come from files, so they only ever become text, never HTML.

function render({ model, el }) {
  let seq = 0;
  let cells = [];   // of each row its buttons
  let lines = [];
  let at = [0, 0];
  let laid = "";
  el.classList.add("ls-grid");
  const part = (kind, name) => {
    const made = document.createElement(kind);
    made.className = name;
    return made;
  };
  const title = part("div", "ls-gridtitle");
  const box = part("div", "ls-scroll");
  const table = part("table", "");
  const list = part("ul", "ls-legend");
  table.setAttribute("role", "grid");
  box.append(table);
  el.append(title, box, list);
  settle(el);

  const heading = (text, scope) => {
    const cell = document.createElement("th");
    cell.scope = scope;
    cell.textContent = text;
    return cell;
  };

  const button = (row, column, place) => {
    const made = document.createElement("button");
    made.type = "button";
    made.tabIndex = -1;
    made.dataset.row = row;
    made.dataset.column = column;
    made.dataset.place = place;
    return made;
  };

  // Anew where there are other rows or columns; else cells are kept, and with them the focus.
  const lay = () => {
    const [rows, columns] = [model.get("rows"), model.get("columns")];
    const notes = model.get("notes") || {};
    const wanted = JSON.stringify([rows, columns, model.get("heads"), model.get("axis"), notes]);
    if (wanted === laid) return;
    laid = wanted;
    const head = document.createElement("thead");
    const axis = document.createElement("tr");
    const named = heading(model.get("axis"), "colgroup");
    named.colSpan = columns.length;
    named.className = "ls-axis";
    axis.append(document.createElement("td"), named);
    const top = document.createElement("tr");
    const corner = heading("layer", "col");
    top.append(corner, ...columns.map((column) => {
      const made = heading(column in notes ? `⊘ ${column}` : column, "col");
      if (column in notes) {
        made.className = "ls-torn";
        made.title = notes[column];
        made.setAttribute("aria-label", `${column}, ${notes[column]}`);
      }
      return made;
    }));
    if (columns.length) head.append(axis, top);
    const body = document.createElement("tbody");
    lines = rows.map((name, row) => {
      const line = document.createElement("tr");
      const first = heading((model.get("heads") || [])[row] || name, "row");
      first.title = name;
      line.append(first);
      return line;
    });
    cells = rows.map((name, row) => columns.map((column, place) => {
      const cell = document.createElement("td");
      const made = button(name, column, `${row},${place}`);
      cell.append(made);
      lines[row].append(cell);
      return made;
    }));
    body.append(...lines);
    table.replaceChildren(head, body);
    at = [Math.min(at[0], Math.max(rows.length - 1, 0)), Math.min(at[1], Math.max(columns.length - 1, 0))];
    rove(null, cells[at[0]]?.[at[1]]);
  };

  const fill = (made, known) => {
    const now = JSON.stringify(known);
    if (made.known === now) return;
    made.known = now;
    made.dataset.known = String("text" in known);
    made.textContent = known.text || "";
    const tip = known.tip || `${made.dataset.row}, ${made.dataset.column}: not computed yet`;
    made.title = tip;
    made.setAttribute("aria-label", tip.split("\n").slice(0, 2).join("; "));
    made.style.background = known.colour || "";
    made.style.color = known.ink || "";
    for (const kind of ["refused", "crossed", "failed"]) made.classList.toggle(`ls-${kind}`, Boolean(known[kind]));
  };

  const mark = () => {
    const marked = new Set(model.get("marked").map(([row, column]) => `${row}\n${column}`));
    for (const made of cells.flat()) {
      const on = marked.has(`${made.dataset.row}\n${made.dataset.column}`);
      if (on === made.classList.contains("ls-marked")) continue;
      made.classList.toggle("ls-marked", on);
      made.toggleAttribute("aria-current", on);
    }
  };

  const draw = () => {
    lay();
    const known = model.get("cells");
    const trouble = model.get("trouble") || {};
    // What came of the present state; what was swept before stays, with what is said of both.
    const told = (made, cell) => {
      if (made.dataset.row !== trouble.row || made.dataset.column !== trouble.column) return cell;
      const tip = `${cell.tip || `${trouble.row}, ${trouble.column}`}\nnow ${trouble.why}`;
      return { ...cell, tip, [trouble.kind]: trouble.kind };
    };
    cells.forEach((row, n) => row.forEach((made, m) => fill(made, told(made, known[n]?.[m] || {}))));
    mark();
    title.textContent = model.get("title") || "";
    table.setAttribute("aria-label", model.get("title") || model.get("label"));
    const legend = model.get("legend") || [];
    const more = trouble.kind && !legend.some((each) => each.kind === trouble.kind)
      ? [{ kind: trouble.kind, text: trouble.legend }] : [];
    drawLegend(list, cells.length ? [...legend, ...more] : []);
    el.toggleAttribute("hidden", !cells.length);
  };

  const shown = (row) => lines[row] && !lines[row].hidden;
  const go = (row, column, step) => {
    while (lines[row] && !shown(row)) row += step;
    const to = cells[row]?.[column];
    if (!to) return;
    rove(cells[at[0]]?.[at[1]], to);
    at = [row, column];
    to.focus({ preventScroll: true });
    to.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  table.addEventListener("click", (event) => {
    const made = event.target.closest("button");
    if (!made) return;
    rove(cells[at[0]]?.[at[1]], made);
    at = made.dataset.place.split(",").map(Number);
    model.send({ kind: "cell", row: made.dataset.row, column: made.dataset.column, seq: ++seq });
  });

  table.addEventListener("keydown", (event) => {
    const [row, column] = at;
    const [last, end] = [cells.length - 1, (cells[0] || []).length - 1];
    const all = event.ctrlKey || event.metaKey;
    const to = {
      ArrowRight: [row, column + 1, 1], ArrowLeft: [row, column - 1, 1],
      ArrowDown: [row + 1, column, 1], ArrowUp: [row - 1, column, -1],
      Home: [all ? 0 : row, 0, 1], End: [all ? last : row, end, -1],
      PageDown: [Math.min(row + 10, last), column, -1], PageUp: [Math.max(row - 10, 0), column, 1],
    }[event.key];
    if (!to || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    go(...to);
  });

  hear(el, "ls-filter", (names) => lines.forEach((line, row) => {
    line.hidden = names !== null && !names.has(model.get("rows")[row]);
  }));
  hear(el, "ls-at", (name) => {
    const line = lines[model.get("rows").indexOf(name)];
    for (const each of table.querySelectorAll(".ls-at")) each.classList.remove("ls-at");
    if (!line) return;
    line.classList.add("ls-at");
    const [room, place] = [box.getBoundingClientRect(), line.getBoundingClientRect()];
    const top = room.top + table.tHead.offsetHeight;
    // The box alone: the page must not jump.
    if (place.top < top) box.scrollTop -= top - place.top;
    if (place.bottom > room.bottom) box.scrollTop += place.bottom - room.bottom;
  });

  model.on("change:cells change:rows change:columns change:heads change:label change:title", draw);
  model.on("change:legend change:axis change:notes change:trouble", draw);
  model.on("change:marked", mark);
  draw();
  return () => { model.off(null, draw); model.off(null, mark); };
}

export default { render };
