// The heat map. Names come from files, so they only ever become text, never HTML.

function render({ model, el }) {
  let seq = 0;
  el.classList.add("ls-grid");
  const table = document.createElement("table");
  el.append(table);

  const heading = (text, scope) => {
    const cell = document.createElement("th");
    cell.scope = scope;
    cell.textContent = text;
    return cell;
  };

  const dress = (button, known) => {
    const { row, column } = button.dataset;
    button.dataset.known = String("text" in known);
    button.textContent = known.text || "";
    button.title = known.tip || `${row}, ${column}: not computed yet`;
    button.style.background = known.colour || "";
    button.style.color = known.ink || "";
    button.classList.toggle("ls-refused", Boolean(known.refused));
    button.classList.toggle("ls-crossed", Boolean(known.crossed));
  };

  const line = (name, columns) => {
    const row = document.createElement("tr");
    row.append(heading(name, "row"));
    for (const column of columns) {
      const cell = document.createElement("td");
      const button = document.createElement("button");
      button.type = "button";
      Object.assign(button.dataset, { row: name, column });
      button.addEventListener("click", () =>
        model.send({ kind: "cell", row: name, column, seq: ++seq }));
      cell.append(button);
      row.append(cell);
    }
    return row;
  };

  const build = (rows, columns) => {
    const body = document.createElement("tbody");
    body.append(...rows.map((name) => line(name, columns)));
    const head = document.createElement("thead");
    const top = document.createElement("tr");
    top.append(heading("", "col"), ...columns.map((column) => heading(column, "col")));
    head.append(top);
    table.replaceChildren(head, body);
  };

  // Cells stay in place while their names do: one that is replaced between mouse-down and
  // mouse-up, as by a sweep that fills its neighbour, never hears of the click.
  let drawn = null;
  const draw = () => {
    const rows = model.get("rows");
    const columns = model.get("columns");
    const names = JSON.stringify([rows, columns]);
    if (names !== drawn) build(rows, columns);
    drawn = names;
    const marked = new Set(model.get("marked").map(([row, column]) => `${row}\n${column}`));
    const cells = model.get("cells");
    table.querySelectorAll("button").forEach((button, at) => {
      const place = [Math.floor(at / columns.length), at % columns.length];
      dress(button, (cells[place[0]] || [])[place[1]] || {});
      const name = `${button.dataset.row}\n${button.dataset.column}`;
      button.classList.toggle("ls-marked", marked.has(name));
    });
    table.setAttribute("aria-label", model.get("label"));
  };

  model.on("change:cells change:rows change:columns change:marked change:label", draw);
  draw();
  return () => model.off(null, draw);
}

export default { render };
