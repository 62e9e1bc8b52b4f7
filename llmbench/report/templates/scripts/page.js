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
  print: () => window.print(),
  copy,
};

// What the hash keeps, so that a link shows the same: `#q=gpt&sort=2d&case=gpt-tiny/eager/ws1`. A hash without "=" is the
// id of a case or a section.
const state = { case: "" };
const shows = [];
const readState = () => {
  const hash = location.hash.slice(1);
  if (!hash.includes("=")) return;
  const kept = new URLSearchParams(hash);
  for (const key in state) state[key] = kept.get(key) ?? "";
};
// As short as a hash may be written: slashes, commas, colons and semicolons need no escape in it.
const inHash = (value) =>
  encodeURIComponent(value)
    .replace(/%(2F|2C|3A|3B)/g, decodeURIComponent)
    .replaceAll("%20", "+");
const writeState = () => {
  const { case: id, ...rest } = state;
  const kept = Object.entries({ ...rest, case: id }).filter(([, value]) => value);
  const hash = kept.map(([key, value]) => `${key}=${inHash(value)}`).join("&");
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
};

// A link to a case opens it, and what the hash kept before stays there.
const namedInHash = () => {
  const hash = location.hash.slice(1);
  if (hash.includes("=")) return state.case;
  try {
    return decodeURIComponent(hash);
  } catch {
    return ""; // no id of ours
  }
};
const openTarget = () => {
  const id = namedInHash();
  const details = document.getElementById(id)?.closest("details");
  state.case = details ? id : "";
  if (details) {
    details.open = true;
    details.scrollIntoView();
  }
  if (!location.hash.includes("=") && Object.entries(state).some(([key, value]) => key !== "case" && value)) writeState();
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
