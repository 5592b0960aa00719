"use strict";
// The page is complete without this script, which only sorts tables and filters the examples.

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
      columns.forEach((each) => each.removeAttribute("aria-sort"));
      column.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => {
        const cell = row.cells[place];
        return { row, number: Number.parseFloat(cell.dataset.value ?? "NaN"), text: cell.textContent.trim() };
      });
      rows.sort((a, b) => (Number.isNaN(a.number - b.number) ? a.text.localeCompare(b.text, undefined, { numeric: true }) : a.number - b.number));
      if (falls) rows.reverse();
      table.tBodies[0].append(...rows.map((sorted) => sorted.row));
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
    const terms = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const { element, text, slices } of queries) {
      const fits =
        terms.every((word) => text.includes(word)) &&
        (!kind.value || element.dataset.kind === kind.value) &&
        (!slice?.value || slices.includes(slice.value)) &&
        (!found.value || element.dataset.found === found.value);
      element.hidden = !fits;
      visible += fits;
    }
    form.querySelector("output").textContent = `${visible} of ${queries.length} shown`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show(); // the browser restores the fields when a reader goes back to the page
}
