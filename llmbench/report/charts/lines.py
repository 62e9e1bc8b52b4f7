"""Curves over steps, with lines to hold them against. What is not finite is marked, never skipped over."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

from markupsafe import Markup

from llmbench.report.charts.axes import Tick, across, below
from llmbench.report.charts.decimate import Point, decimate, running_median
from llmbench.report.charts.labels import apart
from llmbench.report.charts.scale import Scale
from llmbench.report.format import number, printable, short, shorten
from llmbench.report.palette import Ink
from llmbench.report.svg import FONT_SIZE, INK, MUTED, chart, element, label, polyline, rule, text_width

_SMOOTH_FROM = 60  # steps; shorter curves are drawn as they are
_POINTS = 90  # kept of one curve, besides its spikes: one for every three pixels or so
_SPIKE = 5.0  # pixels by which one must stand out of a pale curve to be kept besides
_NAME = 15  # characters in a line of a reference's name
_LINE = FONT_SIZE + 2  # pixels between lines of text


@dataclass(frozen=True)
class Curve:
    """One value per step; None and what is not finite is a gap with a mark."""

    name: str
    ink: Ink
    values: Sequence[float | None]

    @cached_property
    def finite(self) -> list[float]:
        """Those that can be drawn."""
        return [value for value in self.values if _finite(value)]


@dataclass(frozen=True)
class Reference:
    """A horizontal line."""

    name: str
    value: float
    floor: bool


def _finite(value: float | None) -> TypeGuard[float]:
    """Whether a value can be drawn. One beyond 1e300 has diverged, and no axis holds it beside the others."""
    return value is not None and abs(value) < 1e300


def wants_log(curves: Sequence[Curve], references: Sequence[Reference] = ()) -> bool:
    """Whether the values span so much, and are all positive, that a logarithmic axis shows them better."""
    values = _all_values(curves, references)
    return bool(values) and min(values) > 1e-200 and 20 < max(values) / min(values) < 1e200


def smoothing_window(curves: Sequence[Curve]) -> int | None:
    """Steps in the running median that is drawn bold, None if the curves are drawn as they are."""
    longest = max((len(curve.values) for curve in curves), default=0)
    return None if longest < _SMOOTH_FROM else longest // 20 | 1


def lines(
    title: str,
    curves: Sequence[Curve],
    references: Sequence[Reference] = (),
    *,
    marked: tuple[int, str] | None = None,
    width: int = 430,
    tall: int = 200,
) -> Markup:
    """The curves on one axis, decimated so that no spike is lost; the bold line is a running median.

    Args:
        marked: a step, and what happened there.
    """
    values = _all_values(curves, references)
    steps = max((len(curve.values) for curve in curves), default=1) - 1
    log = wants_log(curves, references)
    low, high = _domain(values, log)
    names = [_name_lines(reference) for reference in references]
    right = max((text_width(line) for name in names for line in name), default=0) + 2
    y = Scale(low, high, tall - 28, 14, log)
    y_ticks = [(y(tick), short(tick)) for tick in y.ticks(5)]
    left = max(24, max((text_width(text) for _, text in y_ticks), default=0) + 8)
    x = Scale(0, max(1, steps), left, width - right - 6)

    drawn: list[str] = [*across(left, x.end, y_ticks), *below(left, x.end, tall - 28, _steps_named(x, steps))]
    drawn += _references(references, names, x, y, width - right)
    window = smoothing_window(curves)
    for curve in curves:
        drawn += _curve(curve, x, y, window)
    drawn += _losses_of_finiteness(curves, x)
    said = _describe(curves, references)
    if marked and 0 <= marked[0] <= steps:
        drawn += _marked(*marked, x, tall - 28)
        said += f"; {marked[1]}"
    return chart(width, tall, title, said, *drawn)


def _marked(step: int, text: str, x: Scale, floor: float) -> Iterator[Markup]:
    """A line down to a step, and its words at the side that has room for them."""
    at = x(step)
    yield rule(at, 10, at, floor, class_="whisker", stroke=INK, stroke_dasharray="3 2")
    room = x.end - at > text_width(text) + 6
    yield label(at + (6 if room else -6), 20, text, anchor=None if room else "end")


def _domain(values: Sequence[float], log: bool) -> tuple[float, float]:
    """From the least to the greatest, with some air below, so that a floor is not taken for the axis."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low == high:
        return low - 0.5, high + 0.5
    if log:
        return low / (high / low) ** 0.04, high
    return low - 0.04 * (high / 2 - low / 2) * 2, high


def _all_values(curves: Sequence[Curve], references: Sequence[Reference]) -> list[float]:
    values = [value for curve in curves for value in curve.finite]
    return values + [reference.value for reference in references if _finite(reference.value)]


def _steps_named(x: Scale, steps: int) -> list[Tick]:
    ticks = [tick for tick in x.ticks(5) if tick == int(tick) and tick <= steps]
    return [(x(tick), f"step {short(tick)}" if tick == ticks[-1] else short(tick)) for tick in ticks]


def _name_lines(reference: Reference) -> list[str]:
    """Name and value in one or two short lines; a longer name is cut, the value never."""
    words = textwrap.wrap(printable(reference.name), _NAME) or [""]
    name = words[0] if len(words) == 1 else f"{words[0]}\n{shorten(' '.join(words[1:]), _NAME)}"
    return f"{name} {number(reference.value)}".split("\n")


def _references(
    references: Sequence[Reference], names: Sequence[list[str]], x: Scale, y: Scale, names_at: float
) -> Iterator[Markup]:
    """Lines with their names in the right margin, moved apart where the lines lie close together."""
    shown = sorted(
        ((y(one.value), one, name) for one, name in zip(references, names, strict=True) if _finite(one.value)),
        key=lambda item: item[0],
    )
    places = apart([(at, _LINE * len(name)) for at, _, name in shown], 0, y.start + 20)
    for (at, reference, name), place in zip(shown, places, strict=True):
        yield rule(
            x.start,
            at,
            x.end,
            at,
            class_="floor" if reference.floor else "baseline",
            stroke=MUTED,
            stroke_width=1.5,
            stroke_dasharray="1.5 3" if reference.floor else "8 4",
        )
        for index, line in enumerate(name):
            yield label(names_at, place + _LINE * (index + 0.5), line, muted=True)


def _curve(curve: Curve, x: Scale, y: Scale, window: int | None) -> Iterator[Markup]:
    drawn: list[Markup] = []
    for first, values in _finite_segments(curve):
        steps = x.all(range(first, first + len(values)))
        raw = list(zip(steps, y.all(values), strict=True))
        if window is None:
            drawn.append(_path(decimate(raw, _POINTS), curve.ink, faint=False))
            continue
        drawn.append(_path(decimate(raw, _POINTS, _SPIKE), curve.ink, faint=True))
        bold = list(zip(steps, y.all(running_median(values, window)), strict=True))
        drawn.append(_path(decimate(bold, _POINTS // 3), curve.ink, faint=False))
    if drawn:
        ink = curve.ink
        yield element("g", *drawn, fill="none", stroke=ink.colour, stroke_linejoin="round", class_=f"line {ink.css}")


def _finite_segments(curve: Curve) -> Iterator[tuple[int, list[float]]]:
    """Stretches of values that can be drawn, each with the step of its first."""
    if len(curve.finite) == len(curve.values):
        yield from [(0, curve.finite)] if curve.finite else []
        return
    segment: list[float] = []
    for step, value in enumerate(curve.values):
        if _finite(value):
            segment.append(value)
        elif segment:
            yield step - len(segment), segment
            segment = []
    if segment:
        yield len(curve.values) - len(segment), segment


def _path(points: Sequence[Point], ink: Ink, *, faint: bool) -> Markup:
    if len(points) == 1:
        return element("circle", cx=points[0][0], cy=points[0][1], r=2.5, fill=ink.colour, class_=f"fill {ink.css}")
    return element(
        "path",
        d=polyline(points),
        stroke_width=1 if faint else 2,
        stroke_opacity=0.35 if faint else None,
        stroke_dasharray=None if faint else ink.dash,
    )


def _losses_of_finiteness(curves: Sequence[Curve], x: Scale) -> Iterator[Markup]:
    """A cross at the top for each first step that is not finite, with the words beside the first of them."""
    marks = [(step, curve) for curve in curves for step in _not_finite(curve)[:20]]
    for step, curve in marks:
        yield element(
            "path",
            d=f"M{x(step) - 3:.1f} 4l6 6m0 -6l-6 6",
            stroke=curve.ink.colour,
            stroke_width=2,
            fill="none",
            class_=f"line {curve.ink.css}",
        )
    if marks:
        step, curve = min(marks, key=lambda mark: mark[0])
        text = f"{curve.name}: not finite from step {step}"
        room = x.end - x(step) > text_width(text)
        yield label(x(step) + (8 if room else -8), 7, text, anchor=None if room else "end")


def _not_finite(curve: Curve) -> list[int]:
    if len(curve.finite) == len(curve.values):
        return []
    return [step for step, value in enumerate(curve.values) if not _finite(value)]


def _describe(curves: Sequence[Curve], references: Sequence[Reference]) -> str:
    said = []
    for curve in curves:
        finite = curve.finite
        lost = len(curve.values) - len(finite)
        ends = f"from {number(finite[0])} to {number(finite[-1])}" if finite else "no finite value"
        said.append(f"{curve.name}: {ends} in {len(curve.values)} steps" + (f", {lost} not finite" if lost else ""))
    said += [f"{reference.name}: {number(reference.value)}" for reference in references]
    return "; ".join(said)
