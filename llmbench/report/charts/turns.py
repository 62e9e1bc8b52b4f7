"""One session of an A/B comparison, turn by turn: what the machine did to both sides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from llmbench.report.charts.axes import across, below
from llmbench.report.charts.scale import Scale
from llmbench.report.format import duration, short
from llmbench.report.palette import Ink
from llmbench.report.svg import chart, decimal, element, label, text_width

_TOP, _BOTTOM, _RIGHT = 10, 40, 6
_MOST_TURNS = 160


@dataclass(frozen=True)
class TurnSteps:
    """The steps of one turn, in seconds: the fastest and the slowest one."""

    side: str
    fastest: float
    slowest: float


def turn_order(
    title: str, turns: Sequence[TurnSteps], inks: dict[str, Ink], *, width: int = 430, tall: int = 190
) -> Markup | None:
    """Each turn from its fastest step (the dot) to its slowest, in the order in which they were taken.

    Args:
        inks: of each side, in the order of the description.
    """
    drawable = [one for one in turns if 0 < one.fastest <= one.slowest < math.inf]
    if not drawable:
        return None
    shown = drawable[-_MOST_TURNS:]
    low, high = min(one.fastest for one in shown), max(one.slowest for one in shown)
    room = 0.04 * (high - low) or 0.1 * high
    y = Scale(max(0.0, low - room), high + room, tall - _BOTTOM, _TOP)
    y_ticks = [(y(tick), duration(tick)) for tick in y.ticks(4)]
    left = max(24, max((text_width(text) for _, text in y_ticks), default=0) + 8)
    x = Scale(0.4, len(shown) + 0.6, left, width - _RIGHT)
    every = [tick for tick in x.ticks(6) if tick == int(tick) and 1 <= tick <= len(shown)]
    drawn: list[str] = [*across(left, x.end, y_ticks)]
    drawn += below(left, x.end, tall - _BOTTOM, [(x(tick), short(tick)) for tick in every])
    drawn.append(label((x.start + x.end) / 2, tall - 8, "turn", anchor="middle", muted=True))
    for side, ink in inks.items():
        drawn += _side(side, shown, x, y, ink)
    return chart(width, tall, title, _described(shown, inks), *drawn)


def _side(side: str, turns: Sequence[TurnSteps], x: Scale, y: Scale, ink: Ink) -> Iterator[Markup]:
    mine = [(x(number), y(one.fastest), y(one.slowest)) for number, one in enumerate(turns, 1) if one.side == side]
    if not mine:
        return
    ranges = "".join(f"M{decimal(at)} {decimal(bottom)}V{decimal(top)}" for at, bottom, top in mine)
    dots = "".join(f"M{decimal(at - 2)} {decimal(bottom)}a2 2 0 1 0 4 0a2 2 0 1 0-4 0z" for at, bottom, _ in mine)
    yield element("path", d=ranges, stroke=ink.colour, stroke_width=1.5, fill="none", class_=f"line {ink.css}")
    yield element("path", d=dots, fill=ink.colour, class_=f"fill {ink.css}")


def _described(turns: Sequence[TurnSteps], inks: dict[str, Ink]) -> str:
    said = []
    for side in inks:
        fastest = [one.fastest for one in turns if one.side == side]
        if fastest:
            slowest = max(one.slowest for one in turns if one.side == side)
            said.append(
                f"{side}: {len(fastest)} turns, fastest steps about {duration(median(fastest))}, "
                f"slowest step {duration(slowest)}"
            )
    return "; ".join(said)
