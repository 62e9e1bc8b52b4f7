// Explore: the loss, or the time, by step of a few chosen cases. Nothing is read or drawn before it comes near the screen.
Object.assign(state, { explore: "", show: "", x: "", log: "" });

const significant = (value, digits) =>
  value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)
    ? value.toExponential(digits - 1)
    : String(Number(value.toPrecision(digits)));
const seconds = (value, digits) => {
  const [factor, unit] = value >= 1 ? [1, "s"] : value >= 1e-3 ? [1e3, "ms"] : [1e6, "µs"];
  return `${significant(factor * value, digits)} ${unit}`;
};

// The boxes that choose. The names they go by in the address: `explore=gpt,bert;eager,bf16`.
const exploreChoice = (section) => {
  const boxes = (name) => all(`input[name=${name}]`, section);
  const [workloads, modes] = [boxes("workload"), boxes("mode")];
  const most = Number(section.dataset.most);
  const dashes = section.dataset.dashes.split(",");
  const { curves } = JSON.parse(document.getElementById("data").textContent);
  const cases = section.dataset.cases.split(" ").map((text) => {
    const [number, workload, mode] = text.split("/").map(Number);
    return { number, workload: workloads[workload], mode: modes[mode], curves: curves[number] };
  });
  const name = (box) => box.closest("label").textContent.trim();
  const chosen = () => cases.filter((one) => one.workload.checked && one.mode.checked);
  const ticked = (some) => some.filter((box) => box.checked);
  const written = () => [workloads, modes].map((some) => ticked(some).map((box) => box.value).join(",")).join(";");
  const initial = written();
  const tick = (text) => {
    const [ofWorkloads, ofModes] = (text || initial).split(";").map((keys) => keys.split(","));
    workloads.forEach((box) => (box.checked = ofWorkloads.includes(box.value)));
    modes.forEach((box) => (box.checked = (ofModes ?? []).includes(box.value)));
    // A link can name more than can be shown.
    for (const box of [...workloads, ...modes].reverse()) if (chosen().length > most) box.checked = false;
  };
  // The mode's own ink, as everywhere on the page; the same mode of a second workload takes another dash.
  const inks = (some) => {
    const taken = new Set();
    return some.map(({ mode }) => {
      const [slot, own] = mode.dataset.ink.split("/");
      const dash = [own, ...dashes].find((candidate) => !taken.has(`${slot}/${candidate}`)) ?? own;
      taken.add(`${slot}/${dash}`);
      return { slot, dash: dash || undefined };
    });
  };
  const curvesOf = (metric) => {
    for (const box of modes)
      box.disabled = !box.checked && !cases.some((one) => one.mode === box && one.workload.checked);
    const some = chosen();
    const several = ticked(workloads).length > 1;
    const looks = inks(some);
    return some.flatMap(({ number, workload, mode, curves }, i) => {
      const told = curves[metric];
      const called = several ? `${name(workload)} ${name(mode)}` : name(mode);
      return told ? [{ ...readCurve(told), ...looks[i], name: called, number }] : [];
    });
  };
  return {
    boxes: [...workloads, ...modes],
    most,
    hasTimes: cases.some((one) => one.curves.seconds),
    count: () => chosen().length,
    text: () => (written() === initial ? "" : written()),
    tick,
    curvesOf,
  };
};

// The values beside the chart: a row for each curve, filled as the cursor moves.
const listCurves = (table, curves, withRange) => {
  const links = new Map(
    all("#cases-table tr[data-record] th a").map((link) => [link.closest("tr").dataset.record, link.getAttribute("href")]),
  );
  const make = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const rows = curves.map((curve) => {
    const look = { class: `line c${curve.slot}`, "stroke-width": 3, "stroke-dasharray": curve.dash };
    const swatch = svg("svg", { width: 24, height: 10, viewBox: "0 0 24 10", "aria-hidden": "true" });
    swatch.append(svg("line", { x1: 1, x2: 23, y1: 5, y2: 5, ...look }));
    const link = make("a", { href: links.get(String(curve.number)) ?? "#cases" }, curve.name);
    const [value, range] = [0, 1].map(() => make("td", { className: "number" }));
    range.hidden = !withRange;
    return make("tr", {}, make("th", { scope: "row" }, swatch, link), value, range);
  });
  table.tBodies[0].replaceChildren(...rows);
  return rows;
};

const setUpExplore = (section) => {
  const part = (name) => section.querySelector(`[data-${name}]`);
  const [plot, table, at, range, note, live, said] = ["plot", "values", "at", "range", "note", "live", "said"].map(part);
  const [metric, log, whole] = ["metric", "log", "zoom=all"].map(part);
  const choice = exploreChoice(section);
  metric.closest("label").hidden = !choice.hasTimes;

  let curves = [];
  let rows = []; // of the table, one for each curve
  let view = [0, 1]; // steps at the left and right edge
  let cursor = null; // step
  let drag = null; // {from, to} in steps
  let drawn = null; // what plotCurves gave
  let words = significant;

  const end = () => Math.max(1, ...curves.map((curve) => curve.end - 1));
  // The curve whose points lie closest: the cursor goes from one of them to the next.
  const leader = () => curves.reduce((a, b) => (b.every < a.every ? b : a));
  const say = (text, full = false) => {
    said.textContent = text;
    said.classList.toggle("full", full);
  };

  // Unless asked otherwise, as in the panels above: where the values are all positive and span much.
  const wantsLog = () => {
    const { low, high, positive } = extremes(curves, view);
    return positive < Infinity && (state.log ? state.log === "1" : low > 0 && high / low > 20);
  };
  const draw = () => {
    log.checked = wantsLog();
    drawn = plotCurves(plot, curves, view, { log: log.checked, words });
    const coarse = curves.some((curve) => curve.every > 1);
    const below = log.checked && curves.some((curve) => curve.low.some((value) => value !== null && value <= 0));
    note.textContent = [
      drawn.smoothed > 1 && `bold: median of ${drawn.smoothed} steps`,
      coarse && "pale: from the least to the greatest of the steps in a point",
      below && "what is not positive has no place on a logarithmic axis",
    ]
      .filter(Boolean)
      .join(" · ");
    range.hidden = !coarse;
    rows = listCurves(table, curves, coarse);
    moveTo(cursor);
  };
  const readView = () => {
    const [from, to] = state.x.split("-").map(Number);
    view = from < Math.min(to, end()) ? [from, Math.min(to, end())] : [0, end()];
    whole.disabled = !state.x;
  };
  const redraw = () => {
    words = state.show === "seconds" ? seconds : significant;
    metric.value = state.show || "loss";
    curves = choice.curvesOf(metric.value);
    say(choice.count() ? `${choice.count()} of at most ${choice.most} curves` : "Choose a workload and a mode.");
    readView();
    draw();
  };

  const where = () => {
    const coarse = curves.find((curve) => curve.every > 1 && cursor < curve.end);
    const [from, to] = coarse ? coarse.span(coarse.index(cursor)) : [cursor, cursor];
    return from === to ? `step ${from}` : `mean of steps ${from} to ${to}`;
  };
  // Fills the row of a curve, and puts its dot; returns the words of its value.
  const tell = (curve, row, dot) => {
    const ended = cursor !== null && cursor >= curve.end;
    const i = cursor === null ? curve.mean.length - 1 : curve.index(cursor);
    const value = ended ? null : curve.mean[i];
    const [first, last] = curve.span(i);
    const lost = !ended && curve.lost.some(([from, to]) => from <= last && to >= first);
    const text = value === null ? (ended ? "ended" : "✕ not finite") : `${lost ? "✕ " : ""}${words(value, 5)}`;
    const [, main, range] = row.cells;
    main.textContent = text;
    range.textContent =
      value === null || curve.every === 1 ? "" : `${words(curve.low[i], 4)} to ${words(curve.high[i], 4)}`;
    const height = value === null || cursor === null ? null : drawn.y(value);
    dot.setAttribute("visibility", height === null ? "hidden" : "visible");
    if (height !== null) {
      dot.setAttribute("cx", between(drawn.left, drawn.x(curve.at(i)), drawn.right));
      dot.setAttribute("cy", height);
    }
    return `${curve.name} ${text}`;
  };
  const moveTo = (step, aloud = false) => {
    cursor = step === null || !curves.length ? null : between(view[0], Math.round(step), view[1]);
    drawn.hair.setAttribute("visibility", cursor === null ? "hidden" : "visible");
    if (cursor !== null) {
      const place = drawn.x(between(view[0], leader().at(leader().index(cursor)), view[1]));
      for (const name of ["x1", "x2"]) drawn.hair.setAttribute(name, place);
    }
    const told = curves.map((curve, i) => tell(curve, rows[i], drawn.dots[i]));
    at.textContent = cursor === null ? "at the last step" : where();
    if (aloud) live.textContent = cursor === null ? "" : `${where()}: ${told.join(", ")}`;
  };

  const zoom = (from, to) => {
    if (!curves.length) return;
    const least = Math.min(end(), 4 * leader().every);
    let [low, high] = [Math.max(0, Math.round(from)), Math.min(end(), Math.round(to))];
    if (high - low < least) {
      low = between(0, Math.round((low + high - least) / 2), end() - least);
      high = low + least;
    }
    state.x = low <= 0 && high >= end() ? "" : `${low}-${high}`;
    writeState();
    readView();
    draw();
  };
  const zoomBy = (factor) => {
    const middle = cursor ?? (view[0] + view[1]) / 2;
    zoom(middle - (middle - view[0]) * factor, middle + (view[1] - middle) * factor);
  };
  const zooms = { in: () => zoomBy(0.5), out: () => zoomBy(2), all: () => zoom(0, Infinity) };
  for (const button of all("[data-zoom]", section)) button.addEventListener("click", zooms[button.dataset.zoom]);

  for (const box of choice.boxes)
    box.addEventListener("change", () => {
      const wanted = choice.count();
      if (wanted > choice.most) {
        box.checked = false;
        say(`${choice.most} curves at most, and this would make ${wanted}: take something away first.`, true);
        return;
      }
      state.explore = choice.text();
      writeState();
      redraw();
    });
  metric.addEventListener("change", () => {
    Object.assign(state, { show: metric.value === "loss" ? "" : metric.value, log: "" });
    writeState();
    redraw();
  });
  log.addEventListener("change", () => {
    state.log = log.checked ? "1" : "0";
    writeState();
    draw();
  });

  // Pointer: moving shows values, dragging chooses what to zoom into.
  const stepAt = (event) => {
    const { left, right } = drawn;
    const place = between(left, event.clientX - plot.getBoundingClientRect().left, right);
    return view[0] + ((place - left) / (right - left)) * (view[1] - view[0]);
  };
  // Shows what is being dragged over; returns whether it is wide enough to be meant.
  const mark = () => {
    const [from, to] = drag ? [drag.from, drag.to].map(drawn.x).sort((a, b) => a - b) : [0, 0];
    drawn.selection.setAttribute("visibility", to - from > 4 ? "visible" : "hidden");
    drawn.selection.setAttribute("x", from);
    drawn.selection.setAttribute("width", to - from);
    return to - from > 4;
  };
  const cancel = () => {
    drag = null;
    mark();
  };
  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    plot.setPointerCapture(event.pointerId);
    drag = { from: stepAt(event), to: stepAt(event) };
  });
  plot.addEventListener("pointermove", (event) => {
    if (drag) drag.to = stepAt(event);
    mark();
    moveTo(stepAt(event));
  });
  plot.addEventListener("pointerup", () => {
    const meant = mark() && drag;
    cancel();
    if (meant) zoom(Math.min(meant.from, meant.to), Math.max(meant.from, meant.to));
  });
  plot.addEventListener("pointercancel", cancel);
  plot.addEventListener("pointerleave", () => {
    if (!drag && document.activeElement !== plot) moveTo(null);
  });
  plot.addEventListener("dblclick", zooms.all);

  const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
  const keys = { "+": zooms.in, "=": zooms.in, "-": zooms.out, Escape: () => (drag ? cancel() : zooms.all()) };
  plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !curves.length) return;
    if (event.key in moves) moveTo((cursor ?? view[0]) + moves[event.key] * leader().every, true);
    else if (event.key in keys) {
      keys[event.key]();
      moveTo(cursor, true);
    } else return;
    event.preventDefault();
  });
  plot.addEventListener("focus", () => {
    if (plot.matches(":focus-visible")) moveTo(cursor ?? view[0], true);
  });
  plot.addEventListener("blur", () => moveTo(null));

  const show = () => {
    if (!choice.hasTimes || state.show !== "seconds") state.show = "";
    choice.tick(state.explore);
    redraw();
  };
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
