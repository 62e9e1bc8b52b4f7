// Explore: the loss, or the time, by step of a few chosen cases. Nothing is read or drawn before it comes near the screen.
Object.assign(state, { explore: "", show: "", x: "", log: "" });

const SVG = "http://www.w3.org/2000/svg";
const svg = (name, attributes, ...children) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const between = (low, value, high) => Math.max(low, Math.min(high, value));

// Numbers for reading. Times are in seconds.
const significant = (value, digits) =>
  value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)
    ? value.toExponential(digits - 1)
    : String(Number(value.toPrecision(digits)));
const inWords = {
  loss: significant,
  seconds: (value, digits) =>
    value >= 1 ? `${significant(value, digits)} s` : value >= 1e-3 ? `${significant(1e3 * value, digits)} ms` : `${significant(1e6 * value, digits)} µs`,
};

// A curve as it is embedded (charts/decimate.py, `buckets`): point i stands for `every` steps from `first + i * every` on.
const readCurve = ({ steps, mean, every = 1, first = 0, unit, below, above, lost = [] }) => ({
  mean,
  every,
  steps: first + steps,
  low: below ? mean.map((value, i) => (value === null ? null : value - unit * below[i])) : mean,
  high: above ? mean.map((value, i) => (value === null ? null : value + unit * above[i])) : mean,
  lost: lost.map(([from, to]) => [from + first, to + first]),
  at: (i) => first + i * every + (Math.min(every, steps - i * every) - 1) / 2,
  index: (step) => between(0, Math.floor((step - first) / every), mean.length - 1),
  span: (i) => [first + i * every, first + Math.min((i + 1) * every, steps) - 1],
});

const median = (values) => {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : null;
};
// The median of each value and its neighbours; at the ends of as many as there are on both sides.
const runningMedian = (values, window) => {
  const reach = window >> 1;
  return values.map((value, i) => {
    const near = Math.min(reach, i, values.length - 1 - i);
    return value === null ? null : median(values.slice(i - near, i + near + 1));
  });
};

const linearTicks = (low, high, count) => {
  const raw = (high - low) / count;
  if (!(raw > 1e-300)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
};
const logTicks = (low, high, count) => {
  const first = Math.floor(Math.log10(low));
  const decades = Math.ceil(Math.log10(high)) - first;
  const every = Math.max(1, Math.round(decades / count));
  const factors = decades <= 2 ? [1, 2, 5] : decades <= 3 ? [1, 3] : [1];
  const ticks = [];
  for (let power = first; power <= first + decades; power += every)
    ticks.push(...factors.map((factor) => factor * 10 ** power).filter((tick) => tick >= low * 0.999 && tick <= high * 1.001));
  return ticks.length > 1 ? ticks : linearTicks(low, high, count);
};

// Path data through the points, broken where there is none.
const throughPoints = (points) => {
  let path = "";
  let pen = "M";
  for (const point of points) {
    if (point) path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = point ? "L" : "M";
  }
  return path;
};

const setUpExplore = (section) => {
  const part = (selector) => section.querySelector(selector);
  const boxes = (name) => all(`input[name=${name}]`, section);
  const [workloads, modes] = [boxes("workload"), boxes("mode")];
  const [plot, values, note, live, said] = ["[data-plot]", ".values tbody", "[data-note]", "[data-live]", "[data-said]"].map(part);
  const [metric, log, range, at] = ["[data-metric]", "[data-log]", "[data-range]", "[data-at]"].map(part);
  const most = Number(section.dataset.most);
  const dashes = section.dataset.dashes.split(",");
  const carriedCurves = JSON.parse(document.getElementById("data").textContent).curves;
  const cases = section.dataset.cases.split(" ").map((text) => {
    const [number, workload, mode] = text.split("/").map(Number);
    return { number, workload: workloads[workload], mode: modes[mode], curves: carriedCurves[number] };
  });
  const hasTimes = cases.some((one) => one.curves.seconds);
  metric.closest("label").hidden = !hasTimes;

  const choice = () => [workloads, modes].map((some) => some.filter((box) => box.checked).map((box) => box.value));
  const written = () => choice().map((keys) => keys.join(",")).join(";");
  const initial = written();
  const matching = () => cases.filter((one) => one.workload.checked && one.mode.checked);

  let shown = []; // curves
  let view = [0, 1]; // steps at the left and right edge
  let cursor = null; // step
  let frame = null; // scales and movable marks of the last drawing

  const longest = () => Math.max(1, ...shown.map((curve) => curve.steps - 1));
  const finest = () => Math.min(...shown.map((curve) => curve.every));

  // The mode's own ink as everywhere on the page; a second workload in the same mode takes another dash.
  const inked = (some) => {
    const taken = new Set();
    return some.map((one) => {
      const [slot, own] = one.mode.dataset.ink.split("/");
      const dash = [own, ...dashes].find((candidate) => !taken.has(`${slot}/${candidate}`)) ?? own;
      taken.add(`${slot}/${dash}`);
      return { slot, dash: dash || undefined };
    });
  };
  const choose = () => {
    const chosen = matching();
    const inks = inked(chosen);
    const several = workloads.length > 1;
    shown = chosen
      .map((one, i) => {
        const told = one.curves[state.show || "loss"];
        const mode = one.mode.closest("label").textContent.trim();
        const name = several ? `${one.workload.closest("label").textContent.trim()} ${mode}` : mode;
        return told && { ...readCurve(told), ...inks[i], name, number: one.number };
      })
      .filter(Boolean);
    modes.forEach((box) => {
      box.disabled = !box.checked && !cases.some((one) => one.mode === box && one.workload.checked);
    });
    const counted = `${chosen.length} of at most ${most} curves`;
    say(chosen.length ? counted : "Choose a workload and a mode.");
  };
  const say = (text, full = false) => {
    const span = document.createElement("span");
    span.className = full ? "full" : "";
    span.textContent = text;
    said.replaceChildren(span);
  };

  const readView = () => {
    const [from, to] = state.x.split("-").map(Number);
    const end = longest();
    view = state.x && from < to ? [between(0, from, end - 1), between(1, to, end)] : [0, end];
    if (!(view[0] < view[1])) view = [0, end];
  };
  const zoom = (from, to) => {
    const end = longest();
    const least = Math.min(end, 4 * finest());
    let [low, high] = [Math.max(0, Math.round(from)), Math.min(end, Math.round(to))];
    if (high - low < least) {
      low = between(0, Math.round((low + high - least) / 2), end - least);
      high = low + least;
    }
    state.x = low <= 0 && high >= end ? "" : `${low}-${high}`;
    writeState();
    readView();
    draw();
  };
  const zoomBy = (factor) => {
    const [low, high] = view;
    const middle = cursor === null ? (low + high) / 2 : cursor;
    zoom(middle - (middle - low) * factor, middle + (high - middle) * factor);
  };
  const reset = () => zoom(0, Infinity);

  // What lies in view, with a point more on either side so that lines run to the edges.
  const inView = (curve) => {
    const [from, to] = [curve.index(view[0]), curve.index(view[1])];
    return [Math.max(0, from - 1), Math.min(curve.mean.length - 1, to + 1)];
  };
  const extremes = () => {
    let [low, high, positive] = [Infinity, -Infinity, Infinity];
    for (const curve of shown)
      for (let i = curve.index(view[0]); i <= curve.index(view[1]); i++) {
        if (curve.mean[i] === null) continue;
        low = Math.min(low, curve.low[i]);
        high = Math.max(high, curve.high[i]);
        for (const value of [curve.low[i], curve.mean[i]]) if (value > 0) positive = Math.min(positive, value);
      }
    return { low, high, positive };
  };
  // Unless asked otherwise, as the panels above do: where the values span much and are all positive.
  const wantsLog = ({ low, high }) => (state.log ? state.log === "1" : low > 0 && high / low > 20);

  const draw = () => {
    const width = Math.max(240, plot.clientWidth);
    const height = Math.max(160, plot.clientHeight);
    const found = extremes();
    const isLog = wantsLog(found) && found.positive < Infinity;
    log.checked = isLog;
    metric.value = state.show || "loss";
    part("[data-zoom=all]").disabled = !state.x;
    range.hidden = shown.every((curve) => curve.every === 1);
    const words = inWords[state.show || "loss"];
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", "font-size": 12 });

    let { low, high } = found;
    if (!(low <= high)) [low, high] = [0, 1];
    if (isLog) low = found.positive;
    if (low === high) [low, high] = isLog ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
    const air = isLog ? (high / low) ** 0.04 : 0.04 * (high - low);
    [low, high] = isLog ? [low / air, high * air] : [low - air, high + air];
    const ticks = (isLog ? logTicks : linearTicks)(low, high, 6).map((tick) => [tick, words(tick, 4)]);
    const left = 14 + 7 * Math.max(3, ...ticks.map(([, text]) => text.length));
    const [right, top, bottom] = [width - 10, 10, height - 26];
    const x = (step) => left + ((step - view[0]) / (view[1] - view[0])) * (right - left);
    const share = isLog ? (value) => Math.log(value / low) / Math.log(high / low) : (value) => (value - low) / (high - low);
    const y = (value) => (isLog && value <= 0 ? null : bottom - share(value) * (bottom - top));

    for (const [tick, text] of ticks) {
      const height = y(tick);
      picture.append(
        svg("line", { x1: left, x2: right, y1: height, y2: height, class: "rule", stroke: "currentColor" }),
        svg("text", { x: left - 6, y: height + 4, "text-anchor": "end", class: "muted" }, text),
      );
    }
    picture.append(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis", stroke: "currentColor" }));
    const steps = linearTicks(view[0], view[1], Math.max(2, Math.round(width / 130))).filter(Number.isInteger);
    for (const step of steps)
      picture.append(
        svg("line", { x1: x(step), x2: x(step), y1: bottom, y2: bottom + 4, class: "axis", stroke: "currentColor" }),
        svg("text", { x: x(step), y: bottom + 18, "text-anchor": "middle", class: "muted" }, step === steps.at(-1) ? `step ${step}` : String(step)),
      );

    const clip = svg("clipPath", { id: "explore-clip" }, svg("rect", { x: left, y: 0, width: right - left, height: bottom + 1 }));
    const lines = svg("g", { "clip-path": "url(#explore-clip)" });
    picture.append(clip, lines);
    let smoothed = 0;
    for (const curve of shown) smoothed = Math.max(smoothed, drawCurve(curve, x, y, lines));
    drawLost(x, lines);

    const hair = svg("line", { y1: top, y2: bottom, class: "cursor", stroke: "currentColor", visibility: "hidden" });
    const dots = shown.map((curve) => svg("circle", { r: 4, class: `fill c${curve.slot}`, visibility: "hidden" }));
    const chosen = svg("rect", { y: top, height: bottom - top, class: "chosen", "fill-opacity": 0.15, visibility: "hidden" });
    picture.append(hair, ...dots, chosen);
    plot.replaceChildren(picture);
    frame = { x, y, left, right, hair, dots, chosen };
    const below = shown.some((curve) => isLog && curve.low.some((value) => value !== null && value <= 0));
    note.textContent = [
      smoothed > 1 ? `bold: median of ${smoothed} steps` : "",
      range.hidden ? "" : "pale: least to greatest of the steps that a point stands for",
      below ? "what is not positive has no place on a logarithmic axis" : "",
    ].filter(Boolean).join(" · ");
    list();
    moveTo(cursor, false);
  };
  // Returns how many steps the bold line is the median of.
  const drawCurve = (curve, x, y, lines) => {
    const [from, to] = inView(curve);
    const points = (some) => {
      const kept = [];
      for (let i = from; i <= to; i++) {
        const height = some[i] === null ? null : y(some[i]);
        kept.push(height === null ? null : [x(curve.at(i)), height]);
      }
      return kept;
    };
    const window = to - from < 60 ? 1 : Math.floor((to - from) / 20) | 1;
    const class_ = `line c${curve.slot}`;
    if (curve.every > 1) {
      const floor = y(Number.MIN_VALUE) ?? 0;
      const [lower, upper] = [curve.low, curve.high].map((some) => points(some));
      // Of a band that leaves a logarithmic axis, the edge is the mean.
      const middle = points(curve.mean);
      const band = upper.map((point, i) => (point && middle[i] ? [point, lower[i] ?? middle[i]] : null));
      let run = [];
      for (const pair of [...band, null]) {
        if (pair) run.push(pair);
        else if (run.length) {
          const edge = [...run.map(([high]) => high), ...run.map(([, low]) => low).reverse()];
          lines.append(svg("path", { d: `${throughPoints(edge)}Z`, class: `band c${curve.slot}`, "fill-opacity": 0.16 }));
          run = [];
        }
      }
    } else if (window > 1) lines.append(svg("path", { d: throughPoints(points(curve.mean)), fill: "none", class: class_, "stroke-opacity": 0.35 }));
    const bold = window > 1 ? runningMedian(curve.mean, window) : curve.mean;
    lines.append(svg("path", { d: throughPoints(points(bold)), fill: "none", class: class_, "stroke-width": 2, "stroke-dasharray": curve.dash, "stroke-linejoin": "round" }));
    return window * curve.every;
  };
  // A cross at the top for each stretch of steps that are not finite.
  const drawLost = (x, lines) => {
    for (const curve of shown)
      for (const [from] of curve.lost.filter(([from, to]) => to >= view[0] && from <= view[1]).slice(0, 20))
        lines.append(svg("path", { d: `M${x(Math.max(from, view[0])) - 3} 2l6 6m0 -6l-6 6`, fill: "none", class: `line c${curve.slot}`, "stroke-width": 2 }));
  };

  // The values beside the chart: a row for each curve, filled as the cursor moves.
  const list = () => {
    const links = new Map(all("#cases-table tr[data-record] th a").map((link) => [link.closest("tr").dataset.record, link.getAttribute("href")]));
    values.replaceChildren(
      ...shown.map((curve) => {
        const row = document.createElement("tr");
        const head = document.createElement("th");
        head.scope = "row";
        const swatch = svg("svg", { width: 24, height: 10, viewBox: "0 0 24 10", "aria-hidden": "true" });
        swatch.append(svg("line", { x1: 1, x2: 23, y1: 5, y2: 5, class: `line c${curve.slot}`, "stroke-width": 3, "stroke-dasharray": curve.dash }));
        const name = document.createElement("a");
        name.textContent = curve.name;
        name.href = links.get(String(curve.number)) ?? "#cases";
        head.append(swatch, name);
        const cells = [0, 1].map(() => Object.assign(document.createElement("td"), { className: "number" }));
        cells[1].hidden = range.hidden;
        row.append(head, ...cells);
        return row;
      }),
    );
  };
  const isLost = (curve, i) => {
    const [from, to] = curve.span(i);
    return curve.lost.some(([first, last]) => first <= to && last >= from);
  };
  const moveTo = (step, announced) => {
    cursor = step === null || !shown.length ? null : between(view[0], Math.round(step), view[1]);
    const words = inWords[state.show || "loss"];
    const { x, y, hair, dots } = frame;
    hair.setAttribute("visibility", cursor === null ? "hidden" : "visible");
    if (cursor !== null) for (const end of ["x1", "x2"]) hair.setAttribute(end, x(cursor));
    const spoken = shown.map((curve, row) => {
      const i = cursor === null ? curve.mean.length - 1 : curve.index(cursor);
      const ended = cursor !== null && cursor >= curve.steps;
      const value = ended ? null : curve.mean[i];
      const height = value === null ? null : y(value);
      const inside = cursor !== null && height !== null;
      dots[row].setAttribute("visibility", inside ? "visible" : "hidden");
      if (inside) {
        dots[row].setAttribute("cx", between(frame.left, x(curve.at(i)), frame.right));
        dots[row].setAttribute("cy", height);
      }
      const lost = !ended && isLost(curve, i);
      const text = value === null ? (ended ? "ended" : "not finite") : words(value, 5) + (lost ? " ✕" : "");
      const [, first, second] = values.rows[row].cells;
      first.textContent = text;
      second.textContent = value === null || curve.every === 1 ? "" : `${words(curve.low[i], 4)} to ${words(curve.high[i], 4)}`;
      return `${curve.name} ${text}`;
    });
    const coarse = shown.find((curve) => curve.every > 1);
    const where = () => {
      if (!coarse || cursor >= coarse.steps) return `step ${cursor}`;
      const [from, to] = coarse.span(coarse.index(cursor));
      return from === to ? `step ${from}` : `mean of steps ${from} to ${to}`;
    };
    at.textContent = cursor === null ? "last" : where();
    if (announced) live.textContent = cursor === null ? "" : `${where()}: ${spoken.join(", ")}`;
  };

  const show = () => {
    const known = (some, keys) => some.forEach((box) => (box.checked = keys.includes(box.value)));
    const [w = "", m = ""] = (state.explore || initial).split(";");
    known(workloads, w.split(","));
    known(modes, m.split(","));
    // A link can name more than can be shown.
    for (const box of [...modes, ...workloads].reverse()) if (matching().length > most) box.checked = false;
    if (!hasTimes || state.show !== "seconds") state.show = "";
    choose();
    readView();
    draw();
  };
  const changed = (event) => {
    const wanted = matching().length;
    if (wanted > most) {
      event.target.checked = false;
      say(`${most} curves at most, and this would make ${wanted}: take something away first.`, true);
      return;
    }
    state.explore = written() === initial ? "" : written();
    choose();
    writeState();
    readView();
    draw();
  };
  for (const box of [...workloads, ...modes]) box.addEventListener("change", changed);
  metric.addEventListener("change", () => {
    state.show = metric.value === "seconds" ? "seconds" : "";
    state.log = "";
    writeState();
    choose();
    readView();
    draw();
  });
  log.addEventListener("change", () => {
    state.log = log.checked ? "1" : "0";
    writeState();
    draw();
  });
  for (const button of all("[data-zoom]", section))
    button.addEventListener("click", () => ({ in: () => zoomBy(0.5), out: () => zoomBy(2), all: reset })[button.dataset.zoom]());

  // Pointer: moving shows values, dragging chooses what to zoom into.
  let drag = null;
  const stepAt = (event) => {
    const { left, right } = frame;
    const px = between(left, event.clientX - plot.getBoundingClientRect().left, right);
    return view[0] + ((px - left) / (right - left)) * (view[1] - view[0]);
  };
  const mark = () => {
    const { x, chosen } = frame;
    const wide = drag && Math.abs(x(drag.to) - x(drag.from)) > 4;
    chosen.setAttribute("visibility", wide ? "visible" : "hidden");
    if (!wide) return false;
    chosen.setAttribute("x", x(Math.min(drag.from, drag.to)));
    chosen.setAttribute("width", Math.abs(x(drag.to) - x(drag.from)));
    return true;
  };
  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    plot.setPointerCapture(event.pointerId);
    drag = { from: stepAt(event), to: stepAt(event) };
  });
  plot.addEventListener("pointermove", (event) => {
    if (drag) {
      drag.to = stepAt(event);
      mark();
    }
    moveTo(stepAt(event), false);
  });
  plot.addEventListener("pointerup", () => {
    const wide = mark();
    const { from, to } = drag ?? {};
    drag = null;
    if (wide) zoom(Math.min(from, to), Math.max(from, to));
  });
  const cancel = () => {
    drag = null;
    mark();
  };
  plot.addEventListener("pointercancel", cancel);
  plot.addEventListener("pointerleave", () => {
    if (!drag && document.activeElement !== plot) moveTo(null, false);
  });
  plot.addEventListener("dblclick", reset);

  const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
  const keys = { "+": () => zoomBy(0.5), "=": () => zoomBy(0.5), "-": () => zoomBy(2), Escape: () => (drag ? cancel() : reset()) };
  plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !shown.length) return;
    if (event.key in moves) moveTo((cursor ?? view[0]) + moves[event.key] * finest(), true);
    else if (event.key in keys) {
      keys[event.key]();
      moveTo(cursor, true);
    } else return;
    event.preventDefault();
  });
  plot.addEventListener("focus", () => {
    if (plot.matches(":focus-visible")) moveTo(cursor ?? view[0], true);
  });
  plot.addEventListener("blur", () => moveTo(null, false));

  show();
  shows.push(show);
  new ResizeObserver(() => draw()).observe(plot);
};

setUps.push(() => {
  const section = document.getElementById("explore-panel");
  if (!section) return;
  const watcher = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      setUpExplore(section);
    },
    { rootMargin: "400px" },
  );
  watcher.observe(section);
  // A link to a view of Explore goes there, unless it names a case too.
  if ((state.explore || state.x) && !state.case) section.scrollIntoView();
});
