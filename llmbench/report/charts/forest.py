"""A forest plot: the change of each case with its interval, over the band of what counts as equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.scale import Scale
from llmbench.report.palette import LIGHT
from llmbench.report.svg import INK, MUTED, chart, element, fit, label, rule, text_width

ROW = 22
_TOP, _BOTTOM = 4, 38
_LABELS = 300  # widest column of names
_BAND = "#e7ebef"
_LEAST, _MOST = 0.02, 1.0  # of the logarithm, what is drawn on each side of "equal"


@dataclass(frozen=True)
class Effect:
    """One row.

    Attributes:
        kind: slower, faster, same or inconclusive: its colour and marker.
        ratio, low, high: estimate and interval; above zero.
        text: what stands at its right.
    """

    name: str
    kind: str
    ratio: float
    low: float
    high: float
    text: str


def forest(
    title: str,
    rows: Sequence[Effect],
    equal_within: float,
    *,
    limit: float | None = None,
    ends: tuple[str, str] = ("▼ slower", "faster ▲"),
    width: int = 1100,
) -> Markup:
    """Changes on one logarithmic axis; an interval that leaves it ends in an arrow head.

    Args:
        equal_within: half the width of the band, as a share.
        limit: a share above which something must not lie; drawn as a line.
        ends: what stands at the left and at the right end of the axis.
    """
    tall = _TOP + ROW * len(rows) + _BOTTOM
    left = min(_LABELS, max((text_width(row.name) for row in rows), default=0)) + 12
    right = width - max((text_width(row.text) for row in rows), default=0) - 16
    low, high = _domain(rows, max(equal_within, 0.5 * (limit or 0.0)))
    x = Scale(math.exp(low), math.exp(high), left, right, log=True)
    floor = tall - _BOTTOM
    drawn: list[str] = [_band(x, equal_within, floor), *_axis(x, floor, ends)]
    if limit is not None and x.low < 1 + limit < x.high:
        at = x(1 + limit)
        drawn.append(rule(at, 0, at, floor, class_="baseline", stroke=MUTED, stroke_dasharray="8 4"))
    for index, row in enumerate(rows):
        drawn += _effect(row, _TOP + ROW * (index + 0.5), x, left, right)
    described = "; ".join(f"{row.name}: {row.text}" for row in rows)
    return chart(width, tall, title, described, *drawn)


def _domain(rows: Sequence[Effect], equal_within: float) -> tuple[float, float]:
    """What most intervals need, and the whole of what is slower or faster, as far as it can be drawn; others are cut.

    One case that nothing is known of shall not press all others into a line.
    """
    halves = sorted(abs(math.log(end)) for row in rows for end in (row.low, row.high) if 0 < end < math.inf)
    usual = halves[int(0.7 * (len(halves) - 1))] if halves else 0.0
    reach = max(_LEAST, 2.5 * equal_within, 1.5 * usual)
    ends = [end for row in rows for end in ((row.low, row.high) if row.kind in _INKS else (row.ratio,))]
    told = [1.1 * math.log(end) for end in ends if 0 < end < math.inf]
    return max(-_MOST, min([-reach, *told])), min(_MOST, max([reach, *told]))


def _band(x: Scale, equal_within: float, floor: float) -> Markup:
    begin, end = (min(max(x(value), x.start), x.end) for value in (1 - equal_within, 1 + equal_within))
    return element("rect", x=begin, y=0, width=max(1.0, end - begin), height=floor, fill=_BAND, class_="band")


def _axis(x: Scale, floor: float, ends: tuple[str, str]) -> Iterator[Markup]:
    yield rule(x.start, floor, x.end, floor, class_="axis", stroke=MUTED)
    for tick in _ticks(x):
        at = x(1 + tick)
        yield rule(at, 0, at, floor) if tick else rule(at, 0, at, floor, class_="axis", stroke=MUTED)
        yield label(at, floor + 13, _tick(tick), anchor="middle", muted=True)
    yield label(x.start, floor + 30, ends[0], muted=True)
    yield label(x.end, floor + 30, ends[1], anchor="end", muted=True)


def _tick(change: float) -> str:
    return f"{100 * change:+g} %".replace("-", "−") if change else "0"


def _ticks(x: Scale) -> list[float]:
    """Changes at round shares, zero among them, about seven."""
    span = x.high - x.low
    step = next((s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if span / s <= 8), 0.5)
    return [index * step for index in range(math.ceil((x.low - 1) / step), math.floor((x.high - 1) / step) + 1)]


_INKS = {"slower": (LIGHT[1], "c1"), "faster": (LIGHT[0], "c0")}
_MARKERS = {"slower": "M-6 -5h12l-6 10z", "faster": "M-6 5h12l-6 -10z", "same": "M-4.5 -4.5h9v9h-9z"}
_HOLLOW = "M-4 -4h8v8h-8z"


def _effect(row: Effect, y: float, x: Scale, left: float, right: float) -> Iterator[Markup]:
    colour, css = _INKS.get(row.kind, (MUTED, "grey"))
    yield label(left - 10, y, fit(row.name, _LABELS), anchor="end")
    yield _whisker(row, y, x, colour, css)
    at = min(max(x(row.ratio), x.start), x.end) if 0 < row.ratio < math.inf else x.end
    hollow = row.kind not in _MARKERS
    yield element(
        "path",
        d=_HOLLOW if hollow else _MARKERS[row.kind],
        transform=f"translate({at:.1f} {y:.1f})",
        fill="#ffffff" if hollow else colour,
        stroke=colour if hollow else None,
        stroke_width=1.5 if hollow else None,
        class_=f"hollow {css}" if hollow else f"fill {css}",
    )
    yield label(right + 12, y, row.text)


def _whisker(row: Effect, y: float, x: Scale, colour: str, css: str) -> Markup:
    begin, end = (x(min(max(value, x.low), x.high)) for value in (max(row.low, 1e-300), row.high))
    path = f"M{begin:.1f} {y:.1f}H{end:.1f}"
    if row.low < x.low:
        path += f"M{begin + 5:.1f} {y - 4:.1f}l-5 4l5 4"
    if row.high > x.high:
        path += f"M{end - 5:.1f} {y - 4:.1f}l5 4l-5 4"
    return element("path", d=path, stroke=colour or INK, stroke_width=2, fill="none", class_=f"line {css}")
