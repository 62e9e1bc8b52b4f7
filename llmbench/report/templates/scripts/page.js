// The page is complete without its scripts: they sort, filter, zoom, copy, download, and remember the theme.
// Each part adds to `actions` (of buttons), `state` (kept in the address) and `shows` (called when the address changes).
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
  print: () => window.print(),
  copy,
};

// What the hash keeps, so that a link shows the same.
const state = {};
const shows = [];
const readState = () => {
  const hash = new URLSearchParams(location.hash.slice(1));
  if ([...hash.keys()].some((key) => key in state)) for (const key in state) state[key] = hash.get(key) || "";
};
const writeState = () => {
  const kept = Object.entries(state).filter(([, value]) => value);
  history.replaceState(null, "", kept.length ? `#${new URLSearchParams(kept)}` : location.pathname + location.search);
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

const setUps = [];
document.addEventListener("DOMContentLoaded", () => {
  showTheme();
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) actions[button.dataset.do](button);
  });
  readState();
  setUps.forEach((setUp) => setUp());
  window.addEventListener("hashchange", () => {
    readState();
    shows.forEach((show) => show());
    openTarget();
  });
  openTarget();
});
