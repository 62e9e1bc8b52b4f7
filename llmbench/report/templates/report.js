"use strict";
// The page is complete without this script: it sorts, filters, copies, downloads, and remembers the theme.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Theme: auto -> light -> dark. A page on file:// may have no storage; then it is not remembered.
  const themes = ["auto", "light", "dark"];
  const stored = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("llmbench-theme", value);
      return localStorage.getItem("llmbench-theme");
    } catch {
      return null;
    }
  };
  let theme = themes.includes(stored()) ? stored() : "auto";
  const showTheme = () => {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    all("[data-do=theme]").forEach((button) => (button.textContent = `Theme: ${theme}`));
  };
  showTheme();

  const download = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  // The data as JSON; of a run it is carried as gzip in base64.
  const data = async () => {
    const { type, textContent } = document.getElementById("data");
    if (type === "application/json") return textContent;
    const bytes = Uint8Array.from(atob(textContent), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const fileName = (text, ending) => {
    const run = JSON.parse(text).run;
    return `${(run ? run.id : "doctor").replace(/[^\w.-]+/g, "-") || "llmbench"}.${ending}`;
  };

  // Nested objects as dotted keys, the same as the page shows them.
  const flatten = (value, prefix = "", flat = {}) => {
    for (const [key, item] of Object.entries(value)) {
      if (item && typeof item === "object" && !Array.isArray(item)) flatten(item, `${prefix}${key}.`, flat);
      else flat[prefix + key] = Array.isArray(item) ? JSON.stringify(item) : item;
    }
    return flat;
  };
  const csvField = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    // A spreadsheet would run text that begins like a formula.
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  // The records of the rows that the filter leaves, in the order of the table.
  const csv = (text) => {
    const records = JSON.parse(text).records;
    const rows = all("#cases-table tbody tr[data-record]")
      .filter((row) => !row.hidden)
      .flatMap((row) => row.dataset.record.split(" ").map((number) => flatten(records[Number(number)])));
    const keys = [...new Set(rows.flatMap(Object.keys))];
    return [keys, ...rows.map((row) => keys.map((key) => row[key]))]
      .map((fields) => fields.map(csvField).join(",") + "\r\n")
      .join("");
  };

  const copy = async (button) => {
    const source = button.parentElement.querySelector("code");
    let done = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Press Ctrl-C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  };

  const actions = {
    theme: () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      stored(theme);
      showTheme();
    },
    json: () => data().then((text) => download(fileName(text, "json"), "application/json", text)),
    csv: () => data().then((text) => download(fileName(text, "csv"), "text/csv", csv(text))),
    print: () => window.print(),
    copy,
  };

  // Sorting and filtering; the hash keeps them, so that a link shows the same rows.
  const state = { q: "", problems: "", sort: "" };
  const readState = () => {
    const hash = new URLSearchParams(location.hash.slice(1));
    if ([...hash.keys()].some((key) => key in state)) for (const key in state) state[key] = hash.get(key) || "";
  };
  const writeState = () => {
    const kept = Object.entries(state).filter(([, value]) => value);
    history.replaceState(null, "", kept.length ? `#${new URLSearchParams(kept)}` : location.pathname + location.search);
  };
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
    all(`[data-count=${table.id}]`).forEach((note) => (note.textContent = shown));
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
    const search = document.querySelector(`[data-filter=${table.id}]`);
    const problems = document.querySelector(`[data-problems=${table.id}]`);
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
      search.value = state.q;
      problems.checked = Boolean(state.problems);
      applyFilter(table);
      applySort(table);
    };
    search.addEventListener("input", () => {
      state.q = search.value;
      writeState();
      applyFilter(table);
    });
    problems.addEventListener("change", () => {
      state.problems = problems.checked ? "1" : "";
      writeState();
      applyFilter(table);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea")) return;
      event.preventDefault();
      search.focus();
    });
    show();
    return show;
  };

  // A link to a case opens it.
  const openTarget = () => {
    let id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch {
      return; // not an id of ours
    }
    const details = document.getElementById(id)?.closest("details");
    if (!details) return;
    details.open = true;
    details.scrollIntoView();
  };

  document.addEventListener("DOMContentLoaded", () => {
    showTheme();
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button) actions[button.dataset.do](button);
    });
    readState();
    const tables = all("table[data-sortable]").map(setUpTable);
    window.addEventListener("hashchange", () => {
      readState();
      tables.forEach((show) => show());
      openTarget();
    });
    openTarget();
  });
})();
