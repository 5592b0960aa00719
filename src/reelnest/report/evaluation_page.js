"use strict";
// The page says all without this: it only sorts tables, and hides the searches that are not asked for.

for (const table of document.querySelectorAll("table.sortable")) {
  const columns = [...table.tHead.rows[0].cells];
  columns.forEach((column, place) => {
    if (column.classList.contains("unsorted")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...column.childNodes);
    column.append(button);
    button.addEventListener("click", () => {
      const falls = column.getAttribute("aria-sort") === "ascending";
      columns.forEach((other) => other.removeAttribute("aria-sort"));
      column.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => {
        const cell = row.cells[place];
        return { row, number: Number.parseFloat(cell.dataset.value ?? "NaN"), text: cell.textContent.trim() };
      });
      rows.sort((a, b) => (Number.isNaN(a.number - b.number) ? a.text.localeCompare(b.text, undefined, { numeric: true }) : a.number - b.number));
      if (falls) rows.reverse();
      table.tBodies[0].append(...rows.map((one) => one.row));
    });
  });
}

const form = document.querySelector("form.filters");
if (form) {
  const queries = [...document.querySelectorAll("article.query")].map((element) => ({
    element,
    text: element.textContent.toLowerCase(),
    slices: [...element.querySelectorAll(".slice")].map((slice) => slice.textContent),
  }));
  const show = () => {
    const { words, kind, slice, found } = form.elements;
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { element, text, slices } of queries) {
      const fits =
        wanted.every((word) => text.includes(word)) &&
        (!kind.value || element.dataset.kind === kind.value) &&
        (!slice?.value || slices.includes(slice.value)) &&
        (!found.value || element.dataset.found === found.value);
      element.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${queries.length} shown`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show(); // a browser that goes back to the page fills the fields in again
}
