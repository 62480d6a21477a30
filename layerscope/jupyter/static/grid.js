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

  const draw = () => {
    const marked = new Set(model.get("marked").map(([row, column]) => `${row}\n${column}`));
    const columns = model.get("columns");
    const body = document.createElement("tbody");
    model.get("rows").forEach((name, at) => {
      const line = document.createElement("tr");
      line.append(heading(name, "row"));
      columns.forEach((column, place) => {
        const known = (model.get("cells")[at] || [])[place] || {};
        const cell = document.createElement("td");
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.row = name;
        button.dataset.column = column;
        button.dataset.known = String("text" in known);
        button.textContent = known.text || "";
        button.title = known.tip || `${name}, ${column}: not computed yet`;
        if (known.colour) {
          button.style.background = known.colour;
          button.style.color = known.ink;
        }
        if (known.refused) button.classList.add("ls-refused");
        if (known.crossed) button.classList.add("ls-crossed");
        if (marked.has(`${name}\n${column}`)) button.classList.add("ls-marked");
        button.addEventListener("click", () =>
          model.send({ kind: "cell", row: name, column, seq: ++seq }));
        cell.append(button);
        line.append(cell);
      });
      body.append(line);
    });
    const head = document.createElement("thead");
    const top = document.createElement("tr");
    top.append(heading("", "col"), ...columns.map((column) => heading(column, "col")));
    head.append(top);
    table.replaceChildren(head, body);
    table.setAttribute("aria-label", model.get("label"));
  };

  model.on("change:cells change:rows change:columns change:marked change:label", draw);
  draw();
  return () => model.off(null, draw);
}

export default { render };
