// The legend: what stands for what, in the words of the figures.

function drawLegend(list, entries) {
  list.className = "ls-legend";
  list.setAttribute("aria-label", "Legend");
  list.replaceChildren(...entries.map((entry) => {
    const item = document.createElement("li");
    item.dataset.kind = entry.kind;
    if (entry.kind === "sign") {
      item.textContent = entry.text;
      return item;
    }
    const mark = document.createElement("i");
    mark.setAttribute("aria-hidden", "true");
    if (entry.kind === "colour") {
      const ends = entry.ends.map((end) => {
        const text = document.createElement("span");
        text.textContent = end;
        return text;
      });
      mark.style.background = `linear-gradient(to right, ${entry.colours.join(", ")})`;
      item.append(ends[0], mark, ends[1]);
    } else {
      item.append(mark);
    }
    item.append(document.createTextNode(entry.text));
    return item;
  }));
}
