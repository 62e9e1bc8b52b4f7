"""Scaling efficiency over the number of ranks, against the line of perfect scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.labels import Box, apart, around, place
from llmbench.report.charts.marks import RADIUS
from llmbench.report.charts.scale import Scale
from llmbench.report.format import percent, short, shorten
from llmbench.report.palette import Ink
from llmbench.report.svg import INK, MUTED, chart, element, label, polyline, rule, text_width

_LONGEST_NAME = 20
_LINE = 15.0  # pixels of a line of text
_VALUED = 3  # lines whose marks have values; of more, only the last ones, that none covers another line


@dataclass(frozen=True)
class Efficiency:
    """One mode: efficiency, a share of 1, by world size in rising order; the smallest is 1 by definition."""

    name: str
    ink: Ink
    values: Sequence[tuple[int, float]]


def efficiencies(title: str, lines: Sequence[Efficiency], *, width: int = 430) -> Markup:
    """A line for each mode, named at its end with its last value; of few lines every mark has its value.

    Args:
        title: name of the chart.
        lines: at least one, each of two points or more.
        width: in pixels, as drawn; the page scales it.
    """
    tall = int(max(200, 40 + _LINE * (len(lines) + 1)))
    floor = tall - 24
    sizes = sorted({size for line in lines for size, _ in line.values})
    names = [f"{shorten(line.name, _LONGEST_NAME)} {percent(line.values[-1][1])}" for line in lines]
    right = max(map(text_width, [*names, "ideal 100 %"])) + 14
    x = Scale(math.log2(sizes[0]), math.log2(sizes[-1]), 44, width - right)
    values = [value for line in lines for _, value in line.values]
    y = Scale(0.5 if min(values) > 0.55 else 0, 1.05 * max(values), floor, 8)

    drawn: list[Markup] = []
    for tick in y.ticks(4):
        drawn += [
            rule(x.start, y(tick), x.end, y(tick)),
            label(38, y(tick), f"{short(100 * tick)} %", anchor="end", muted=True),
        ]
    drawn.append(rule(x.start, floor, x.end, floor, class_="axis", stroke=MUTED))
    for size in sizes:
        drawn.append(label(x(math.log2(size)), floor + 14, f"×{size}", anchor="middle", muted=True))
    drawn.append(
        rule(x.start, y(1), x.end, y(1), class_="front", stroke=INK, stroke_width=1.25, stroke_dasharray="8 4")
    )
    points = [[(x(math.log2(size)), y(value)) for size, value in line.values] for line in lines]
    for line, path in zip(lines, points, strict=True):
        drawn.append(
            element(
                "path",
                d=polyline(path),
                fill="none",
                stroke=line.ink.colour,
                stroke_width=2,
                stroke_dasharray=line.ink.dash,
                class_=f"line {line.ink.css}",
            )
        )
        drawn += [
            element("circle", cx=cx, cy=cy, r=3.5, fill=line.ink.colour, class_=f"fill {line.ink.css}")
            for cx, cy in path[1:]
        ]
    drawn += _ends([("ideal 100 %", x.end, y(1)), *((n, *p[-1]) for n, p in zip(names, points, strict=True))], x.end)
    if len(lines) <= _VALUED:
        drawn += _values(lines, points, Box(x.start, 0, x.end, floor))
    said = "; ".join(
        f"{line.name}: " + ", ".join(f"{percent(value)} at {size} ranks" for size, value in line.values[1:])
        for line in lines
    )
    return chart(width, tall, title, said, *drawn)


def _ends(names: Sequence[tuple[str, float, float]], edge: float) -> list[Markup]:
    """Names at the right margin, apart from each other, with a line to where they belong if they had to move."""
    ordered = sorted(names, key=lambda name: name[2])
    tops = apart([(y, _LINE) for _, _, y in ordered], 0, 1e6)
    drawn: list[Markup] = []
    for (text, x, y), top in zip(ordered, tops, strict=True):
        middle = top + _LINE / 2
        if abs(middle - y) > 2 or x < edge:
            drawn.append(rule(x + 5, y, edge + 11, middle, class_="ghost", stroke=MUTED, stroke_width=0.75))
        drawn.append(label(edge + 13, middle, text, muted=text.startswith("ideal")))
    return drawn


def _values(lines: Sequence[Efficiency], points: Sequence[Sequence[tuple[float, float]]], room: Box) -> list[Markup]:
    """Of the marks between the ends; of those at the end the name says it."""
    inner = [
        (*at, percent(value))
        for line, path in zip(lines, points, strict=True)
        for at, (_, value) in list(zip(path, line.values, strict=True))[1:-1]
    ]
    taken = [around(*at, RADIUS) for path in points for at in path]
    boxes = place(inner, taken, room)
    return [label(box.left, box.middle, text) for (_, _, text), box in zip(inner, boxes, strict=True) if box]
