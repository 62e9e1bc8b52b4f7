"""The roofline of Williams, Waterman and Patterson (2009): what arithmetic and memory allow, and what was reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.labels import Box, apart, around, place
from llmbench.report.charts.marks import RADIUS, full, hollow, mark, named
from llmbench.report.charts.scale import Scale
from llmbench.report.format import number, short, shorten
from llmbench.report.palette import DASHES, Ink
from llmbench.report.svg import INK, MUTED, chart, element, label, rule, text_width

_LONGEST_NAME = 22


@dataclass(frozen=True)
class Roof:
    """The measured peak of one arithmetic."""

    arithmetic: str
    tflops: float


@dataclass(frozen=True)
class Point:
    """One case.

    Attributes:
        shape: one of ``marks.SHAPES``.
        intensity: FLOPs for each byte that memory moves; finite and positive.
        tflops: reached; finite and positive.
        counts: what does not count is hollow.
        name, value: beside the mark.
        said: all of it, as text.
    """

    ink: Ink
    shape: str
    intensity: float
    tflops: float
    counts: bool
    name: str
    value: str
    said: str


@dataclass(frozen=True)
class Frame:
    """Ends of both axes: FLOP per byte and TFLOP/s. One for all charts of a page, for the roofs are the same."""

    intensity: tuple[float, float]
    tflops: tuple[float, float]


def frame(points: Sequence[Point], roofs: Sequence[Roof], bandwidth: float) -> Frame:
    """Holds every point and every roof's edge, where it stops to rise.

    Args:
        bandwidth: bytes per second.
    """
    rate = bandwidth / 1e12
    across = [point.intensity for point in points] + [roof.tflops / rate for roof in roofs]
    up = [point.tflops for point in points] + [roof.tflops for roof in roofs]
    return Frame((min(across) / 1.5, max(across) * 2), (min(up) / 1.5, max(up) * 1.2))


def roofline(
    title: str,
    points: Sequence[Point],
    roofs: Sequence[Roof],
    bandwidth: float,
    ends: Frame,
    *,
    width: int = 430,
    tall: int = 300,
) -> Markup:
    """The cases of one workload below the roofs of their arithmetic; both axes are logarithmic.

    Args:
        title: name of the chart.
        points: at least one.
        roofs: from any arithmetic.
        bandwidth: bytes per second.
        ends: as ``frame`` finds them.
        width, tall: in pixels, as drawn; the page scales it.
    """
    floor, rate = tall - 34, bandwidth / 1e12
    y = Scale(*ends.tflops, floor, 20, log=True)
    y_ticks = [(tick, short(tick)) for tick in y.ticks(4)]
    left = max((text_width(text) for _, text in y_ticks), default=0) + 10
    names = [f"{roof.arithmetic} {number(roof.tflops)}" for roof in sorted(roofs, key=lambda roof: -roof.tflops)]
    right = width - max(map(text_width, names), default=0) - 6
    x = Scale(*ends.intensity, left, right, log=True)

    drawn: list[Markup] = []
    for tick, text in y_ticks:
        drawn += [rule(left, y(tick), right, y(tick)), label(left - 6, y(tick), text, anchor="end", muted=True)]
    drawn.append(rule(left, floor, right, floor, class_="axis", stroke=MUTED))
    for tick in x.ticks(5):
        drawn.append(rule(x(tick), floor, x(tick), floor + 4, class_="axis", stroke=MUTED))
        drawn.append(label(x(tick), floor + 12, short(tick), anchor="middle", muted=True))
    drawn.append(label(right, tall - 7, "FLOP per byte, at most", anchor="end", muted=True))
    drawn.append(label(0, 6, "TFLOP/s of a rank", muted=True))
    drawn += _roofs(roofs, names, rate, x, y)

    places = [(x(point.intensity), y(point.tflops)) for point in points]
    for point, at in zip(points, places, strict=True):
        outline = mark(point.shape, *at)
        drawn.append(full(point.ink, outline) if point.counts else hollow(outline))
    texts = [f"{shorten(point.name, _LONGEST_NAME)} {point.value}" for point in points]
    boxes = place(
        [(*at, text) for at, text in zip(places, texts, strict=True)],
        [around(*at, RADIUS + 1) for at in places],
        Box(left + 2, 14, width, floor - 2),
        list(_roof_boxes(roofs, rate, x, y)),
    )
    for at, text, box in zip(places, texts, boxes, strict=True):
        if box is not None:
            drawn += named(box, text, *at)
    said = [*(f"roof of {name} TFLOP/s" for name in names), *(point.said for point in points)]
    return chart(width, tall, title, "; ".join(said), *drawn)


def _roofs(roofs: Sequence[Roof], names: Sequence[str], rate: float, x: Scale, y: Scale) -> Iterator[Markup]:
    """One line for each arithmetic, flat to the right; all share the slope of the memory."""
    ordered = sorted(roofs, key=lambda roof: -roof.tflops)
    tops = apart([(y(roof.tflops), 14.0) for roof in ordered], 0, y.start)
    for index, (roof, name, top) in enumerate(zip(ordered, names, tops, strict=True)):
        edge = min(max(roof.tflops / rate, x.low), x.high)
        dash = DASHES[index % len(DASHES)]
        yield element(
            "path",
            d=f"M{x(edge):.1f} {y(roof.tflops):.1f}H{x.end:.1f}",
            fill="none",
            stroke=INK,
            stroke_width=1.5,
            stroke_dasharray=dash,
            class_="front",
        )
        yield label(x.end + 4, top + 7, name)
    highest = ordered[0].tflops
    # From where the slope enters the frame to the highest roof.
    low, high = max(x.low, y.low / rate), min(x.high, highest / rate)
    if low < high:
        yield element(
            "path",
            d=f"M{x(low):.1f} {y(low * rate):.1f}L{x(high):.1f} {y(high * rate):.1f}",
            fill="none",
            stroke=INK,
            stroke_width=1.5,
            class_="front",
        )


def _roof_boxes(roofs: Sequence[Roof], rate: float, x: Scale, y: Scale) -> Iterator[Box]:
    """Thin boxes along the lines, for labels to avoid."""
    for roof in roofs:
        yield Box(x.start, y(roof.tflops) - 1, x.end, y(roof.tflops) + 1)
    highest = max(roof.tflops for roof in roofs)
    low, high = max(x.low, y.low / rate), min(x.high, highest / rate)
    if low < high:
        for step in range(20):
            value = low * (high / low) ** (step / 19)
            yield around(x(value), y(value * rate), 6)
