// Tables that sort and filter.
Object.assign(state, { q: "", problems: "", sort: "" });

const applyFilter = (table) => {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = all("tbody tr[data-tone]", table);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const problem = ["bad", "warn"].includes(row.dataset.tone);
    row.hidden = !words.every((word) => text.includes(word)) || (Boolean(state.problems) && !problem);
  }
  // A row can stand for several cases.
  const cases = (some) => some.reduce((sum, row) => sum + Number(row.dataset.cases || 1), 0);
  const shown = `${cases(rows.filter((row) => !row.hidden))} of ${cases(rows)}`;
  all(`[data-count="${table.id}"]`).forEach((note) => (note.textContent = shown));
};
const applySort = (table) => {
  const heads = all("thead th", table);
  const column = parseInt(state.sort, 10);
  const down = state.sort.endsWith("d");
  heads.forEach((head, index) => {
    if (index === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  if (!heads[column]) return;
  const key = (row) => {
    const cell = row.cells[column];
    if (!cell) return null; // of a row that tells a reason instead
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return heads[column].classList.contains("number") || cell.colSpan > 1 ? null : cell.textContent.trim();
  };
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null); // what has no value stays last
    const difference = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return down ? -difference : difference;
  };
  const body = table.tBodies[0];
  all("tr[data-tone]", body)
    .map((row) => [key(row), row])
    .sort((a, b) => order(a[0], b[0]))
    .forEach(([, row]) => body.append(row));
};

const setUpTable = (table) => {
  const search = document.querySelector(`[data-filter="${table.id}"]`);
  const problems = document.querySelector(`[data-problems="${table.id}"]`);
  all("thead th", table).forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numbers = head.classList.contains("number");
      const first = `${index}${numbers ? "d" : "a"}`;
      state.sort = state.sort === first ? `${index}${numbers ? "a" : "d"}` : first;
      writeState();
      applySort(table);
    });
  });
  const show = () => {
    if (search) search.value = state.q;
    if (problems) problems.checked = Boolean(state.problems);
    applyFilter(table);
    applySort(table);
  };
  search?.addEventListener("input", () => {
    state.q = search.value;
    writeState();
    applyFilter(table);
  });
  problems?.addEventListener("change", () => {
    state.problems = problems.checked ? "1" : "";
    writeState();
    applyFilter(table);
  });
  document.addEventListener("keydown", (event) => {
    if (!search || event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea")) return;
    event.preventDefault();
    search.focus();
  });
  show();
  shows.push(show);
};
setUps.push(() => all("table[data-sortable]").forEach(setUpTable));
