// Sorting, searching, and what a printed page shows. Without it the page is whole: tables then keep their order.
"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // The value that a cell is sorted by: its number, else its text; nothing sorts last, in both directions.
  const valueOf = (cell) => {
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    const text = cell.textContent.trim();
    return text === "\u2013" || text === "" ? null : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true, sensitivity: "base" });
  };
  const sortBy = (table, heading, descending) => {
    const at = heading.cellIndex;
    const rows = all("tr", table.tBodies[0]).map((row) => [valueOf(row.cells[at]), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return descending ? compare(b, a) : compare(a, b);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  for (const table of all("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const now = heading.getAttribute("aria-sort");
        const first = heading.classList.contains("number") ? "descending" : "ascending";
        sortBy(table, heading, now ? now === "ascending" : first === "descending");
      });
    }
  }

  for (const controls of all(".controls")) {
    const table = document.getElementById(controls.dataset.for);
    if (!table) continue;
    const rows = all("tr", table.tBodies[0]);
    const texts = new Map(rows.map((row) => [row, row.textContent.toLocaleLowerCase()]));
    const [search, choice] = [controls.querySelector("input"), controls.querySelector("select")];
    const found = controls.querySelector(".found");
    const show = () => {
      const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
      const wanted = choice ? choice.value : "";
      let shown = 0;
      for (const row of rows) {
        const fits = words.every((word) => texts.get(row).includes(word));
        const chosen = !wanted || all("td", row).some((cell) => cell.dataset.label === "change" && cell.textContent.trim() === wanted);
        row.hidden = !(fits && chosen);
        shown += !row.hidden;
      }
      found.textContent = `${shown} of ${rows.length} shown`;
    };
    search.addEventListener("input", show);
    if (choice) choice.addEventListener("change", show);
    controls.hidden = false;
    show();
  }

  // A link may lead into a table that is folded.
  const unfold = () => {
    const target = document.getElementById(location.hash.slice(1));
    const closed = target ? all("details:not([open])").filter((one) => one.contains(target)) : [];
    for (const one of closed) one.open = true;
    if (closed.length) target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  unfold();

  // Paper has no clicks: long tables and where things come from are printed, and closed again afterwards.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
