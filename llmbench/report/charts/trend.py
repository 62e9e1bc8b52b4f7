"""One case over many runs: a small chart for a row, a large one for its details."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.decimate import Point, decimate
from llmbench.report.charts.scale import Scale
from llmbench.report.palette import ink
from llmbench.report.svg import MUTED, chart, decimal, element, label, polyline, rule, text_width

BETTER, WORSE, BROKEN = "#0a58ca", "#b04a00", "#a40e26"
_LEAST_SPAN = 0.05  # of the middle: noise of a percent shall not look like mountains
_INK = ink(0)


@dataclass(frozen=True)
class Dot:
    """One run.

    Attributes:
        at: its place among the runs.
        value: None leaves a gap.
        interval: ends of the band.
        broken: the case failed: marked by a cross.
        text: what a hover tells; empty for none.
    """

    at: int
    value: float | None
    interval: tuple[float, float] | None = None
    broken: bool = False
    text: str = ""


@dataclass(frozen=True)
class Mark:
    """A step: at the run that is the first on the new level."""

    at: int
    up: bool
    worse: bool


@dataclass(frozen=True)
class Course:
    """What is drawn: runs in their order, steps, and where the environment changed."""

    dots: Sequence[Dot]
    marks: Sequence[Mark] = ()
    shifts: Sequence[int] = ()


def sparkline(title: str, course: Course, runs: int, *, width: int = 520, tall: int = 36, limit: int = 120) -> Markup:
    """The course on an axis of its own, among ``runs`` runs, so that charts below each other line up.

    Args:
        limit: points of the line; its spikes and steps are kept beside.
    """
    x, y = Scale(0, max(1, runs - 1), 5, width - 6), _axis(course, tall - 9, 9)
    return chart(width, tall, title, _describe(course), *_drawn(course, x, y, limit, dot=2.5))


def trend_chart(
    title: str,
    course: Course,
    ticks: Sequence[tuple[float, str]],
    begin_end: tuple[str, str],
    *,
    width: int = 860,
    tall: int = 200,
    limit: int = 160,
) -> Markup:
    """The course with its axes.

    Args:
        ticks: values with their text; see ``values_to_tick``.
        begin_end: what to call the first and the last run.
    """
    left = max(30.0, max((text_width(text) for _, text in ticks), default=0) + 8)
    first, last = (course.dots[0].at, course.dots[-1].at) if course.dots else (0, 1)
    x = Scale(first, max(first + 1, last), left, width - 10)
    y = _axis(course, tall - 26, 12)
    drawn: list[str] = []
    for tick, text in ticks:
        if y.low <= tick <= y.high:
            drawn += [rule(left, y(tick), x.end, y(tick)), label(left - 6, y(tick), text, anchor="end", muted=True)]
    drawn.append(rule(left, tall - 22, x.end, tall - 22, class_="axis", stroke=MUTED))
    drawn.append(label(left, tall - 8, begin_end[0], muted=True))
    drawn.append(label(x.end, tall - 8, begin_end[1], anchor="end", muted=True))
    drawn += _drawn(course, x, y, limit, dot=3)
    hovers = [_hover(dot, x, y) for dot in course.dots if dot.text]
    drawn.append(element("g", *hovers, fill="transparent", class_="hits"))
    return chart(width, tall, title, _describe(course), *drawn)


def values_to_tick(course: Course) -> list[float]:
    return _axis(course, 1, 0).ticks(4)


def _axis(course: Course, start: float, end: float) -> Scale:
    """From the least to the greatest value, with room for the band as far as it does not squeeze the line."""
    values = [dot.value for dot in course.dots if dot.value is not None]
    if not values:
        return Scale(0, 1, start, end)
    low, high = min(values), max(values)
    middle, span = low / 2 + high / 2, max(high - low, _LEAST_SPAN * abs(low / 2 + high / 2))
    ends = [end for dot in course.dots if dot.value is not None and dot.interval for end in dot.interval]
    low, high = min(low, middle - span / 2), max(high, middle + span / 2)
    low, high = max(min([low, *ends]), low - 0.6 * span), min(max([high, *ends]), high + 0.6 * span)
    return Scale(low, high, start, end) if low < high else Scale(low - 0.5, high + 0.5, start, end)


def _drawn(course: Course, x: Scale, y: Scale, limit: int, dot: float) -> Iterator[Markup]:
    for at in course.shifts:
        place = x(at) - min(4.0, (x(1) - x(0)) / 2)  # between this run and the one before
        yield rule(place, 2, place, y.start + 6, class_="shift", stroke=MUTED, stroke_dasharray="3 3")
    measured = [one for one in course.dots if one.value is not None]
    kept = {one.at for mark in course.marks for one in _around(measured, mark.at)}
    for piece in _pieces(course.dots):
        yield from _line(piece, x, y, limit, kept)
    crosses = "".join(
        f"M{decimal(x(one.at) - 3)} {decimal(y.start - 2)}l6 6m0-6l-6 6" for one in course.dots if one.broken
    )
    if crosses:
        yield element("path", d=crosses, stroke=BROKEN, stroke_width=1.75, fill="none", class_="broken")
    for mark in course.marks:
        here = next((one for one in measured if one.at >= mark.at), None)
        if here is not None and here.value is not None:
            yield _triangle(x(here.at), y(here.value), mark, y)
    if measured and measured[-1].value is not None:
        yield element(
            "circle",
            cx=x(measured[-1].at),
            cy=y(measured[-1].value),
            r=dot,
            fill=_INK.colour,
            class_=f"fill {_INK.css}",
        )


def _around(measured: Sequence[Dot], at: int) -> list[Dot]:
    index = next((index for index, one in enumerate(measured) if one.at >= at), 0)
    return list(measured[max(0, index - 1) : index + 1])


def _pieces(dots: Sequence[Dot]) -> Iterator[list[Dot]]:
    """Runs that a line joins: a case that failed between them leaves a gap."""
    piece: list[Dot] = []
    for dot in dots:
        if dot.value is not None:
            piece.append(dot)
        elif dot.broken and piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _line(piece: Sequence[Dot], x: Scale, y: Scale, limit: int, kept: set[int]) -> Iterator[Markup]:
    of_place = {x(dot.at): dot for dot in piece}
    points: list[Point] = [(x(dot.at), y(dot.value)) for dot in piece if dot.value is not None]
    shown = {place for place, _ in decimate(points, limit)} | {x(dot.at) for dot in piece if dot.at in kept}
    dots = [of_place[place] for place in sorted(shown)]
    if len(dots) == 1:
        place, height = points[0]
        yield element("circle", cx=place, cy=height, r=2, fill=_INK.colour, class_=f"fill {_INK.css}")
        return
    bounds = [(x(dot.at), *(_within(end, y) for end in dot.interval)) for dot in dots if dot.interval]
    if len(bounds) == len(dots):
        outline = [(place, low) for place, low, _ in bounds] + [(place, high) for place, _, high in reversed(bounds)]
        yield element("path", d=polyline(outline) + "z", fill=_INK.colour, fill_opacity=0.22, class_=f"fill {_INK.css}")
    yield element(
        "path",
        d=polyline([(x(dot.at), y(dot.value)) for dot in dots if dot.value is not None]),
        fill="none",
        stroke=_INK.colour,
        stroke_width=1.5,
        stroke_linejoin="round",
        class_=f"line {_INK.css}",
    )


def _within(value: float, y: Scale) -> float:
    return y(min(max(value, y.low), y.high))


def _triangle(x: float, y: float, mark: Mark, axis: Scale) -> Markup:
    """On the side of the line that the level left."""
    middle = min(y + 8, axis.start + 4) if not mark.up else max(y - 8, 5)
    path = (
        f"M{decimal(x - 5)} {decimal(middle + 4)}h10l-5-9z"
        if mark.up
        else f"M{decimal(x - 5)} {decimal(middle - 4)}h10l-5 9z"
    )
    return element("path", d=path, fill=WORSE if mark.worse else BETTER, class_="worse" if mark.worse else "better")


def _hover(dot: Dot, x: Scale, y: Scale) -> Markup:
    height = y(dot.value) if dot.value is not None else y.start
    return element("circle", element("title", dot.text), cx=x(dot.at), cy=height, r=5)


def _describe(course: Course) -> str:
    values = [dot.value for dot in course.dots if dot.value is not None and math.isfinite(dot.value)]
    said = [f"{len(values)} values"]
    broken = sum(dot.broken for dot in course.dots)
    said += [f"{broken} failed"] if broken else []
    said += [f"{len(course.marks)} steps"] if course.marks else []
    return ", ".join(said)
