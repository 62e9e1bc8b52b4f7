"""How one metric is spread over the nodes: a histogram with the gate, and each low node on a line of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from llmbench.report.charts.scale import Scale
from llmbench.report.format import count
from llmbench.report.palette import Ink, ink
from llmbench.report.scan.tables import against_median, speed
from llmbench.report.svg import INK, MUTED, chart, decimal, element, fit, label, rule, text_width
from llmbench.results.scan import Gate, Scan
from llmbench.stats.scan.verdicts import metric_title

_WIDTH, _EDGE, _BINS = 430, 6, 50
_TOP, _TALL, _ROW, _NAMED = 20, 90, 16, 8
_FINE, _LOW = ink(0), ink(1)


def distribution(scan: Scan, gate: Gate) -> Markup | None:
    """The chart; None for fewer than two nodes with a value."""
    values = {
        node.name: value
        for node in scan.nodes
        if (value := node.estimates.get(gate.metric)) is not None and math.isfinite(value)
    }
    if len(values) < 2 or not (math.isfinite(gate.median) and math.isfinite(gate.threshold)):
        return None
    low = {node.name: values[node.name] for node in scan.nodes if gate.metric in node.metrics and node.name in values}
    ends = [*values.values(), gate.median, gate.threshold]
    x = Scale(min(ends), max(ends), _EDGE, _WIDTH - _EDGE)
    named = sorted(low.items(), key=lambda item: item[1])[:_NAMED]
    floor = _TOP + _TALL
    drawn = [
        *_bars(values, low, x, floor),
        rule(_EDGE, floor, _WIDTH - _EDGE, floor, class_="axis", stroke=MUTED),
        *_markers(x(gate.threshold), x(gate.median), floor),
        label(_EDGE, floor + 11, fit(speed(x.low, gate.unit), _WIDTH / 2 - 20), muted=True),
        label(_WIDTH - _EDGE, floor + 11, fit(speed(x.high, gate.unit), _WIDTH / 2 - 20), anchor="end", muted=True),
    ]
    for row, (name, value) in enumerate(named):
        drawn += _named(x(value), floor + 30 + _ROW * row, name, value, gate)
    tall = floor + 24 + _ROW * len(named)
    if len(low) > len(named):
        drawn.append(label(_EDGE, tall + 8, f"and {len(low) - len(named)} more", muted=True))
        tall += _ROW
    title = f"{metric_title(gate.metric)} of {count(len(values), 'node')}"
    told = ", ".join(f"{name} {speed(value, gate.unit)}" for name, value in named)
    text = (
        f"From {speed(x.low, gate.unit)} to {speed(x.high, gate.unit)}, median {speed(gate.median, gate.unit)}; "
        f"low is below {speed(gate.threshold, gate.unit)}: {told or 'none'}"
    )
    return chart(_WIDTH, tall, title, text, *drawn)


def _bars(values: Mapping[str, float], low: Mapping[str, float], x: Scale, floor: float) -> Iterable[Markup]:
    """How many nodes there are in each bin: the low ones at the bottom, the others upon them."""
    lowest = Counter(_bin(value, x) for value in low.values())
    others = Counter(_bin(value, x) for name, value in values.items() if name not in low)
    most = max(lowest[place] + others[place] for place in {*lowest, *others})
    for amounts, below, colour in ((lowest, Counter[int](), _LOW), (others, lowest, _FINE)):
        if amounts:
            yield _bar_path(amounts, below, most, floor, colour)


def _bin(value: float, x: Scale) -> int:
    return min(_BINS - 1, int((x(value) - x.start) / (x.end - x.start) * _BINS))


def _bar_path(amounts: Mapping[int, int], below: Mapping[int, int], most: int, floor: float, colour: Ink) -> Markup:
    wide = (_WIDTH - 2 * _EDGE) / _BINS
    path = []
    for place, amount in sorted(amounts.items()):
        # One node of a thousand is to be seen, too.
        tall = max(3.0, _TALL * amount / most)
        foot = floor - (max(3.0, _TALL * below[place] / most) if below.get(place) else 0)
        path.append(
            f"M{decimal(_EDGE + wide * place)} {decimal(foot)}v-{decimal(tall)}h{decimal(wide - 1)}v{decimal(tall)}z"
        )
    return element("path", d="".join(path), fill=colour.colour, class_=f"fill {colour.css}")


def _markers(low: float, median: float, floor: float) -> Iterable[Markup]:
    """The gate and the median, their names apart from each other."""
    yield rule(low, _TOP - 4, low, floor, class_="whisker", stroke=INK, stroke_width=1.25, stroke_dasharray="5 3")
    yield rule(median, _TOP - 4, median, floor, class_="baseline", stroke=MUTED, stroke_width=1.25)
    for at, name, away in ((low, "low", -1), (median, "median", 1)):
        half = text_width(name) / 2
        apart = max(0.0, 40 - abs(median - low)) / 2
        yield label(max(half, min(_WIDTH - half, at + away * apart)), 8, name, anchor="middle", muted=name == "median")


def _named(at: float, y: float, name: str, value: float, gate: Gate) -> Sequence[Markup]:
    """A triangle below the node's bar, and its name on the side that has room."""
    told = f" {speed(value, gate.unit)}" + (f", {against_median(1 - value / gate.median)}" if gate.median else "")
    right = at < _WIDTH / 2
    room = (_WIDTH - at if right else at) - 12 - text_width(told)
    text = fit(name, room) + told
    triangle = element(
        "path",
        d=f"M{decimal(at - 4)} {decimal(y - 3)}h8l-4 7z",
        fill=_LOW.colour,
        class_=f"fill {_LOW.css}",
    )
    return triangle, label(at + 8 if right else at - 8, y, text, anchor=None if right else "end")
