// Curves by step, drawn into an element: what is given to it is plain numbers, what comes back are scales and the marks
// that move with a cursor.
const svg = (name, attributes, ...children) => {
  const made = document.createElementNS(document.querySelector("svg").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const between = (low, value, high) => Math.max(low, Math.min(high, value));

// A curve as it is embedded (charts/decimate.py, `buckets`): point i stands for `every` steps from `first + i * every` on.
const readCurve = ({ steps, mean, every = 1, first = 0, unit, below, above, lost = [] }) => ({
  mean,
  every,
  end: first + steps,
  low: below ? mean.map((value, i) => (value === null ? null : value - unit * below[i])) : mean,
  high: above ? mean.map((value, i) => (value === null ? null : value + unit * above[i])) : mean,
  lost: lost.map(([from, to]) => [from + first, to + first]),
  at: (i) => first + i * every + (Math.min(every, steps - i * every) - 1) / 2,
  index: (step) => between(0, Math.floor((step - first) / every), mean.length - 1),
  span: (i) => [first + i * every, first + Math.min((i + 1) * every, steps) - 1],
});

const median = (values) => {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
};
// The median of each value and its neighbours; at the ends of as many as there are on both sides.
const runningMedian = (values, window) =>
  values.map((value, i) => {
    const near = Math.min(window >> 1, i, values.length - 1 - i);
    return value === null ? null : median(values.slice(i - near, i + near + 1));
  });

// Ticks: the same rules as charts/scale.py.
const linearTicks = (low, high, count) => {
  const raw = (high - low) / count;
  if (!(raw > 1e-300 && raw < Infinity)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) ticks.push(i * step);
  return ticks;
};
const logTicks = (low, high, count) => {
  const first = Math.floor(Math.log10(low));
  const decades = Math.ceil(Math.log10(high)) - first;
  const every = Math.max(1, Math.round(decades / count));
  const factors = decades <= 2 ? [1, 2, 5] : decades <= 3 ? [1, 3] : [1];
  const ticks = [];
  for (let power = first; power <= first + decades; power += every)
    ticks.push(...factors.map((factor) => factor * 10 ** power).filter((tick) => tick >= low && tick <= high));
  return ticks.length > 1 ? ticks : linearTicks(low, high, count);
};

// Least and greatest value of the points in view, and the least positive one.
const extremes = (curves, [from, to]) => {
  let [low, high, positive] = [Infinity, -Infinity, Infinity];
  for (const curve of curves)
    for (let i = curve.index(from); i <= curve.index(to); i++) {
      if (curve.mean[i] === null) continue;
      low = Math.min(low, curve.low[i]);
      high = Math.max(high, curve.high[i]);
      for (const value of [curve.low[i], curve.mean[i]]) if (value > 0) positive = Math.min(positive, value);
    }
  return { low, high, positive };
};
// The ends of the axis of values, with some air. Halved, for the difference of two finite numbers can be infinite.
const axisEnds = ({ low, high, positive }, log) => {
  if (!(low <= high)) return [0, 1];
  if (log) return low === high ? [low / 2, high * 2] : [positive / (high / positive) ** 0.04, high * (high / positive) ** 0.04];
  const air = low === high ? 0.5 : 0.08 * (high / 2 - low / 2);
  return [low - air, high + air];
};

// Path data through the points; a null breaks the line.
const throughPoints = (points) => {
  let [path, pen] = ["", "M"];
  for (const point of points) {
    if (point) path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = point ? "L" : "M";
  }
  return path;
};
// Closed areas between two lines; a null in either breaks them.
const betweenLines = (upper, lower) => {
  let [path, run] = ["", []];
  upper.forEach((point, i) => {
    if (point && lower[i]) run.push([point, lower[i]]);
    if (run.length && (!point || !lower[i] || i === upper.length - 1)) {
      path += `${throughPoints([...run.map((pair) => pair[0]), ...run.map((pair) => pair[1]).reverse()])}Z`;
      run = [];
    }
  });
  return path;
};

// Returns how many steps the bold line is the median of.
const drawCurve = (curve, view, x, y, into) => {
  // A point more on either side, so that lines run to the edges.
  const from = Math.max(0, curve.index(view[0]) - 1);
  const to = Math.min(curve.mean.length - 1, curve.index(view[1]) + 1);
  const points = (values) =>
    values.slice(from, to + 1).map((value, i) => {
      const height = value === null ? null : y(value);
      return height === null ? null : [x(curve.at(from + i)), height];
    });
  const line = (values, look) =>
    into.append(svg("path", { d: throughPoints(points(values)), fill: "none", class: `line c${curve.slot}`, ...look }));
  const window = to - from < 60 ? 1 : Math.floor((to - from) / 20) | 1;
  if (curve.every > 1) {
    const middle = points(curve.mean);
    // Where a logarithmic axis has no place for the lower edge, the band ends at the mean.
    const lower = points(curve.low).map((point, i) => point ?? middle[i]);
    const d = betweenLines(points(curve.high), lower);
    into.append(svg("path", { d, class: `band c${curve.slot}`, "fill-opacity": 0.16 }));
  } else if (window > 1) line(curve.mean, { "stroke-opacity": 0.35 });
  const bold = window > 1 ? runningMedian(curve.mean, window) : curve.mean;
  line(bold, { "stroke-width": 2, "stroke-dasharray": curve.dash, "stroke-linejoin": "round" });
  return window * curve.every;
};
// A cross at the top for each stretch of steps that are not finite.
const drawLost = (curve, view, x, into) => {
  const seen = curve.lost.filter(([from, to]) => to >= view[0] && from <= view[1]).slice(0, 20);
  for (const [from] of seen) {
    const d = `M${(x(Math.max(from, view[0])) - 3).toFixed(1)} 2l6 6m0 -6l-6 6`;
    into.append(svg("path", { d, fill: "none", class: `line c${curve.slot}`, "stroke-width": 2 }));
  }
};

// Draws the curves ({...readCurve(...), slot, dash}) between two steps. `words` writes a value with some digits.
const plotCurves = (plot, curves, view, { log, words }) => {
  const [width, height] = [Math.max(240, plot.clientWidth), Math.max(160, plot.clientHeight)];
  const [low, high] = axisEnds(extremes(curves, view), log);
  const ticks = (log ? logTicks : linearTicks)(low, high, 6).map((tick) => [tick, words(tick, 4)]);
  const left = 14 + 7 * Math.max(3, ...ticks.map(([, text]) => text.length));
  const [right, top, bottom] = [width - 24, 10, height - 26];
  const x = (step) => left + ((step - view[0]) / (view[1] - view[0])) * (right - left);
  const share = log
    ? (value) => Math.log(value / low) / Math.log(high / low)
    : (value) => (value / 2 - low / 2) / (high / 2 - low / 2);
  const y = (value) => (log && value <= 0 ? null : bottom - share(value) * (bottom - top));

  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", "font-size": 12 });
  const rule = (class_, x1, y1, x2, y2) => picture.append(svg("line", { x1, y1, x2, y2, class: class_ }));
  const label = (text, attributes) => picture.append(svg("text", { class: "muted", ...attributes }, text));
  for (const [tick, text] of ticks) {
    rule("rule", left, y(tick), right, y(tick));
    label(text, { x: left - 6, y: y(tick) + 4, "text-anchor": "end" });
  }
  rule("axis", left, bottom, right, bottom);
  const steps = linearTicks(view[0], view[1], Math.max(2, Math.round(width / 130))).filter(Number.isInteger);
  for (const step of steps) {
    rule("axis", x(step), bottom, x(step), bottom + 4);
    label(step === steps.at(-1) ? `step ${step}` : String(step), { x: x(step), y: bottom + 18, "text-anchor": "middle" });
  }

  const frame = svg("rect", { x: left, y: 0, width: right - left, height: bottom + 1 });
  const lines = svg("g", { "clip-path": "url(#plot-frame)" });
  picture.append(svg("clipPath", { id: "plot-frame" }, frame), lines);
  const smoothed = Math.max(0, ...curves.map((curve) => drawCurve(curve, view, x, y, lines)));
  curves.forEach((curve) => drawLost(curve, view, x, lines));

  const unseen = { visibility: "hidden" };
  const hair = svg("line", { y1: top, y2: bottom, class: "cursor", ...unseen });
  const dots = curves.map((curve) => svg("circle", { r: 4, class: `fill c${curve.slot}`, ...unseen }));
  const selection = svg("rect", { y: top, height: bottom - top, class: "selection", "fill-opacity": 0.15, ...unseen });
  picture.append(hair, ...dots, selection);
  plot.replaceChildren(picture);
  return { x, y, left, right, hair, dots, selection, smoothed };
};
