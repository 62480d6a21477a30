// States that were given a name. Names come from outside, so they only ever become text.

function render({ model, el }) {
  let seq = 0;
  el.classList.add("ls-kept");
  const send = (kind, name) => model.send({ kind, name, seq: ++seq });
  const cell = (kind, text, name = "") => {
    const made = document.createElement(kind);
    made.className = name;
    made.textContent = text;
    return made;
  };
  const press = (text, label, act, name = "") => {
    const made = cell("button", text, name);
    made.type = "button";
    made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };
  const within = (...parts) => {
    const made = document.createElement("td");
    made.append(...parts);
    return made;
  };
  const head = (...titles) => {
    const line = document.createElement("tr");
    for (const title of titles) {
      const made = cell("th", title);
      made.scope = "col";
      line.append(made);
    }
    const top = document.createElement("thead");
    top.append(line);
    return top;
  };
  const bar = (share) => {
    const made = cell("div", "", "ls-bar");
    const inside = document.createElement("i");
    inside.style.width = `${100 * share}%`;
    made.append(inside);
    return made;
  };

  const line = (row) => {
    const made = document.createElement("tr");
    made.dataset.name = row.name;
    made.dataset.now = String(row.now);
    const choice = document.createElement("input");
    choice.type = "checkbox";
    choice.checked = model.get("chosen").includes(row.name);
    choice.setAttribute("aria-label", `compare ${row.name}`);
    choice.addEventListener("change", () => send("choose", row.name));
    const back = press(row.name, `return to ${row.name}: ${row.state}`, () => send("return", row.name), "ls-return");
    back.title = row.state;
    made.append(within(choice), within(back), cell("td", row.value, "ls-number"),
      cell("td", row.change, "ls-number"), within(bar(row.share)),
      within(press("delete", `delete ${row.name}`, () => send("delete", row.name))));
    return made;
  };

  const kept = (rows) => {
    const table = document.createElement("table");
    const body = document.createElement("tbody");
    body.append(...rows.map(line));
    table.append(cell("caption", "kept states"),
      head("compare", "state", model.get("metric"), "against trained", "", ""), body);
    return table;
  };

  const compared = ({ names, rows }) => {
    const table = document.createElement("table");
    table.className = "ls-compared";
    const body = document.createElement("tbody");
    for (const row of rows) {
      const made = document.createElement("tr");
      made.append(...row.map((text, at) => cell("td", text, at ? "ls-number" : "")));
      body.append(made);
    }
    table.append(cell("caption", "compared"), head("", ...names, "difference"), body);
    return table;
  };

  const draw = () => {
    const focused = el.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : "";
    const [rows, comparison] = [model.get("rows"), model.get("comparison")];
    el.replaceChildren(...(rows.length ? [kept(rows)] : []), ...(comparison.names ? [compared(comparison)] : []));
    if (focused) [...el.querySelectorAll("[aria-label]")].find((each) => each.getAttribute("aria-label") === focused)?.focus();
  };
  // Keys are the table's: the notebook has commands on letters.
  el.addEventListener("keydown", (event) => event.stopPropagation());
  model.on("change:rows change:chosen change:comparison change:metric", draw);
  draw();
  return () => model.off(null, draw);
}

export default { render };
