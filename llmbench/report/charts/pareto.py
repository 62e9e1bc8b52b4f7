"""Two costs against each other: speed to the right, memory upwards, and the cases that none beats in both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from llmbench.report.charts.labels import Box, around, place
from llmbench.report.charts.marks import RADIUS, full, hollow, mark, named, pale, whisker
from llmbench.report.charts.scale import Scale
from llmbench.report.format import shorten
from llmbench.report.palette import Ink
from llmbench.report.svg import MUTED, chart, element, label, rule, text_width

_LONGEST_NAME = 26
_BETTER = "faster, less memory ↘"


@dataclass(frozen=True)
class Mark:
    """One case.

    Attributes:
        shape: one of ``marks.SHAPES``.
        speed, memory: finite and positive.
        interval: of the speed.
        counts: whether it may be on the front; what does not count is hollow.
        labelled: named wherever it lies.
        said: name and both values, as text.
    """

    name: str
    ink: Ink
    shape: str
    speed: float
    memory: float
    interval: tuple[float, float] | None
    counts: bool
    labelled: bool
    said: str


def front(marks: Sequence[Mark]) -> list[Mark]:
    """Those that no other beats: none is at least as fast with at most as much memory, and better in one of both.

    From the slowest to the fastest.
    """
    counting = sorted((one for one in marks if one.counts), key=lambda one: (-one.speed, one.memory))
    best: list[Mark] = []
    for one in counting:
        if not best or one.memory < best[-1].memory or (one.speed, one.memory) == (best[-1].speed, best[-1].memory):
            best.append(one)
    return best[::-1]


def pareto(
    title: str,
    marks: Sequence[Mark],
    *,
    speed_name: str,
    speed_text: Callable[[float], str],
    memory_text: Callable[[float], str],
    memory_unit: float = 1.0,
    width: int = 430,
    tall: int = 270,
) -> tuple[Markup, list[str]]:
    """The cases of one workload, and the names on the front for which there was no room.

    Args:
        title: name of the chart.
        marks: at least one.
        speed_name: what the axis of speed shows.
        speed_text, memory_text: how a tick is written.
        memory_unit: of the ticks of memory, in bytes.
        width, tall: in pixels, as drawn; the page scales it.
    """
    best = front(marks)
    ends = [end for one in marks for end in (one.interval or ()) if one in best or one.labelled]
    y = _axis([one.memory / memory_unit for one in marks], tall - 42, 20)
    y_ticks = [(tick, memory_text(tick * memory_unit)) for tick in y.ticks(4)]
    left = max((text_width(text) for _, text in y_ticks), default=0) + 6
    x = _axis([*(one.speed for one in marks), *ends], left, width - 8)
    floor = tall - 34

    drawn: list[Markup] = []
    for tick, text in y_ticks:
        drawn += [rule(left, y(tick), width, y(tick)), label(left - 6, y(tick), text, anchor="end", muted=True)]
    drawn.append(rule(left, floor, width, floor, class_="axis", stroke=MUTED))
    for tick in x.ticks(4):
        drawn.append(rule(x(tick), floor, x(tick), floor + 4, class_="axis", stroke=MUTED))
        drawn.append(label(x(tick), floor + 12, speed_text(tick), anchor="middle", muted=True))
    drawn.append(label(left, tall - 7, speed_name, muted=True))
    drawn.append(label(width, tall - 7, _BETTER, anchor="end", muted=True))

    points = {id(one): (x(one.speed), y(one.memory / memory_unit)) for one in marks}
    steps = _steps([points[id(one)] for one in best], left, 8)
    drawn += _staircase(steps)
    drawn += _marks(marks, best, points)
    drawn += [found for one in marks if (found := _whisker(one, best, points[id(one)], x))]
    wanted = [*reversed(best), *(one for one in marks if one.labelled and one not in best)]
    boxes = place(
        [(*points[id(one)], shorten(one.name, _LONGEST_NAME)) for one in wanted],
        [
            *(around(*point, RADIUS + 1) for point in points.values()),
            *(_whisker_box(one, points[id(one)], x) for one in wanted),
        ],
        Box(left + 2, 0, width, floor - 2),
        [Box(min(a, c), min(b, d) - 1, max(a, c) + 1, max(b, d) + 1) for (a, b), (c, d) in pairwise(steps)],
    )
    for one, box in zip(wanted, boxes, strict=True):
        if box is not None:
            drawn += named(box, shorten(one.name, _LONGEST_NAME), *points[id(one)], muted=one not in best)
    lost = [one.name for one, box in zip(wanted, boxes, strict=True) if box is None]
    return chart(width, tall, title, _describe(marks, best, speed_name), *drawn), lost


def _axis(values: Sequence[float], start: float, end: float) -> Scale:
    """With air on both sides, that no mark lies on the edge; logarithmic where the values span much."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < 20:
        air = 0.1 * (high - low) or 0.1 * high
        return Scale(max(0.0, low - air), high + air, start, end)
    air = (high / low) ** 0.08
    return Scale(low / air, high * air, start, end, log=True)


def _steps(points: Sequence[tuple[float, float]], left: float, top: float) -> list[tuple[float, float]]:
    """Corners of the front: from the least memory, through every mark, up from the fastest."""
    if not points:
        return []
    corners = [(left, points[0][1]), points[0]]
    for point in points[1:]:
        corners += [(corners[-1][0], point[1]), point]
    return [*corners, (points[-1][0], top)]


def _staircase(corners: Sequence[tuple[float, float]]) -> Iterator[Markup]:
    if corners:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        # Dashed, and not as dark as an interval, which may lie on it.
        yield element(
            "path", d=path, fill="none", stroke=MUTED, stroke_width=1.25, stroke_dasharray="5 3", class_="step"
        )


def _marks(marks: Sequence[Mark], best: Sequence[Mark], points: Mapping[int, tuple[float, float]]) -> Iterator[Markup]:
    """What does not count, what is beaten, and above them what is on the front; each colour together."""

    def of(some: Iterable[Mark]) -> list[Markup]:
        return [mark(one.shape, *points[id(one)], None if one in best or one.labelled else one.said) for one in some]

    if wrong := of(one for one in marks if not one.counts):
        yield hollow(*wrong)
    inks = {one.ink.slot: one.ink for one in marks if one.counts}
    for coloured, chosen in ((pale, [one for one in marks if one not in best]), (full, best)):
        for slot, ink in inks.items():
            if same := of(one for one in chosen if one.counts and one.ink.slot == slot):
                yield coloured(ink, *same)


def _whisker(one: Mark, best: Sequence[Mark], point: tuple[float, float], x: Scale) -> Markup | None:
    """None where it is not named, or so short that its mark covers it."""
    if one.interval is None or not one.counts or not (one in best or one.labelled):
        return None
    low, high = map(x, one.interval)
    return whisker(low, high, point[1], 3, 1) if high - low > 2 * RADIUS else None


def _whisker_box(one: Mark, point: tuple[float, float], x: Scale) -> Box:
    low, high = map(x, one.interval or (one.speed, one.speed))
    return Box(low - 1, point[1] - 4, high + 1, point[1] + 4)


def _describe(marks: Sequence[Mark], best: Sequence[Mark], speed_name: str) -> str:
    others = [one for one in marks if one not in best and one.counts]
    said = [f"By {speed_name} and memory. On the front: " + ("; ".join(one.said for one in best) or "none")]
    if others:
        listed = others if len(others) <= 8 else [one for one in others if one.labelled]
        said.append(f"beaten in both: {len(others)}" + "".join(f"; {one.said}" for one in listed))
    wrong = [one.said for one in marks if not one.counts]
    return ". ".join([*said, *(["do not count: " + "; ".join(wrong)] if wrong else [])])
