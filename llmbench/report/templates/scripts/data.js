// What the page carries. Lists of records may stand column by column (llmbench/report/columns.py): told so they weigh a
// fifth. Nothing is read before it is asked for.
const columnReaders = {
  same: ({ same }, n) => Array(n).fill(same),
  each: ({ each }) => each,
  kinds: ({ kinds, of }) => [...of].map((digit) => kinds[parseInt(digit, 36)]),
  there: ({ there, of }) => {
    const values = readColumn(of, there.split("+").length - 1);
    let next = 0;
    return [...there].map((mark) => (mark === "+" ? values[next++] : mark === "n" ? null : undefined));
  },
  keys: ({ keys }, n) => {
    const objects = Array.from({ length: n }, () => ({}));
    for (const [name, column] of Object.entries(keys))
      readColumn(column, n).forEach((value, index) => {
        // Not by assignment: the name may be __proto__.
        if (value !== undefined)
          Object.defineProperty(objects[index], name, { value, enumerable: true, configurable: true, writable: true });
      });
    return objects;
  },
  lengths: ({ lengths, items }, n) => {
    const long = readColumn(lengths, n);
    const all = readColumn(items, long.reduce((sum, length) => sum + length, 0));
    let next = 0;
    return long.map((length) => all.slice(next, (next += length)));
  },
};
const readColumn = (column, n) => columnReaders[Object.keys(column)[0]](column, n);

// An integer that a double cannot hold, such as a seed of 64 bits, stays as it is written where the browser can do so.
const exact = (name, value, context) =>
  typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "") && JSON.rawJSON
    ? JSON.rawJSON(context.source)
    : value;

// The whole document; its lists of records written out.
const carried = () => {
  const element = document.getElementById("data");
  const whole = JSON.parse(element.textContent, exact);
  for (const path of (element.dataset.columns ?? "").split(" ").filter(Boolean)) {
    const names = path.split(".");
    const last = names.pop();
    const holder = names.reduce((value, name) => value[name], whole);
    holder[last] = readColumn(holder[last].columns, Number(holder[last].n));
  }
  return whole;
};
const fileName = (whole, ending) => {
  const page = location.pathname.split("/").pop().replace(/\.html?$/, "");
  return `${String(whole.run?.id ?? page).replace(/[^\w.-]+/g, "-") || "llmbench"}.${ending}`;
};
const download = (name, type, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
actions.json = () => {
  const whole = carried();
  download(fileName(whole, "json"), "application/json", JSON.stringify(whole));
};

// Nested objects as dotted names, the same as the page shows them.
const flatten = (value, prefix = "", flat = {}) => {
  for (const [key, item] of Object.entries(value)) {
    if (JSON.isRawJSON?.(item)) flat[prefix + key] = item.rawJSON;
    else if (item && typeof item === "object" && !Array.isArray(item)) flatten(item, `${prefix}${key}.`, flat);
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
// The records of the rows that the filter leaves, in the order of the table. A table whose rows stand for the items of
// another list than `records` names it: `data-records=checks`.
const csv = (whole) => {
  const rows = all("table[data-sortable] tbody tr[data-record]")
    .filter((row) => !row.hidden)
    .flatMap((row) => {
      const records = whole[row.closest("table").dataset.records ?? "records"];
      return row.dataset.record.split(" ").map((number) => flatten(records[Number(number)]));
    });
  const keys = [...new Set(rows.flatMap(Object.keys))];
  return [keys, ...rows.map((row) => keys.map((key) => row[key]))]
    .map((fields) => fields.map(csvField).join(",") + "\r\n")
    .join("");
};
actions.csv = () => {
  const whole = carried();
  download(fileName(whole, "csv"), "text/csv", csv(whole));
};
setUps.push(() => {
  const rows = document.querySelector("table[data-sortable] tr[data-record]");
  all("[data-do=csv]").forEach((button) => (button.hidden = !rows));
});
