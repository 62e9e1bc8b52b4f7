"""How an A/B comparison came to its verdict: each session's difference, and the interval at each look."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.axes import Tick, across, below
from llmbench.report.charts.scale import Scale, linear_ticks
from llmbench.report.format import short, signed_percent
from llmbench.report.palette import Ink
from llmbench.report.svg import MUTED, chart, decimal, element, label, polyline, rule

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 6, 10, 40
_MOST = 2.0  # of the logarithm, what is drawn on each side
_BAND = "#e7ebef"


@dataclass(frozen=True)
class Look:
    """What was known after so many sessions: mean and interval as ratios."""

    sessions: int
    ratio: float
    low: float
    high: float


def session_dots(
    title: str,
    values: Sequence[float],
    looks: Sequence[Look],
    tolerance: float,
    limit: float,
    ink: Ink,
    *,
    width: int = 430,
    tall: int = 190,
) -> Markup:
    """A dot for each session, an interval at each look; the band is no slowdown, the dashed line the limit.

    Args:
        values: difference of logarithms of each session, candidate over base.
        looks: the last one is that of the verdict; sessions after it are drawn hollow.
    """
    y = Scale(*_domain(values, tolerance, limit), tall - _BOTTOM, _TOP)
    x = Scale(0.4, max(2, len(values)) + 0.6, _LEFT, width - _RIGHT)
    drawn: list[str] = [_band(x, y, tolerance), *across(x.start, x.end, _changes(y))]
    drawn += below(x.start, x.end, tall - _BOTTOM, _numbers(x, len(values), looks))
    drawn.append(label((x.start + x.end) / 2, tall - 8, "whole sessions", anchor="middle", muted=True))
    at = math.log1p(limit)
    if y.low < at < y.high:
        drawn.append(rule(x.start, y(at), x.end, y(at), class_="baseline", stroke=MUTED, stroke_dasharray="8 4"))
    drawn += _intervals(looks, x, y, ink)
    drawn += _dots(values, looks[-1].sessions if looks else 0, x, y, ink)
    return chart(width, tall, title, _described(values, looks), *drawn)


def _domain(values: Sequence[float], tolerance: float, limit: float) -> tuple[float, float]:
    """What the sessions, the band and the limit need, and some more for the intervals, which are cut there."""
    told = [*values, -math.log1p(tolerance), math.log1p(tolerance), math.log1p(limit)]
    low, high = (min(max(end, -_MOST), _MOST) for end in (min(told), max(told)))
    room = 0.35 * (high - low)
    return low - room, high + room


def _band(x: Scale, y: Scale, tolerance: float) -> Markup:
    top, bottom = (y(_inside(y, sign * math.log1p(tolerance))) for sign in (1, -1))
    return element(
        "rect", x=x.start, y=top, width=x.end - x.start, height=max(1.0, bottom - top), fill=_BAND, class_="band"
    )


def _changes(y: Scale) -> list[Tick]:
    ticks = linear_ticks(math.expm1(y.low), math.expm1(y.high), 5)
    places = [(y(math.log1p(tick)), tick) for tick in ticks if tick > -1]
    return [(place, f"{100 * tick:+.3g} %".replace("-", "−") if tick else "0") for place, tick in places]


def _numbers(x: Scale, sessions: int, looks: Sequence[Look]) -> list[Tick]:
    """Of the first session, the last, and the look of the verdict."""
    named = sorted({1, sessions, *(look.sessions for look in looks[-1:])} - {0})
    return [(x(number), short(number)) for number in named if number <= sessions]


def _intervals(looks: Sequence[Look], x: Scale, y: Scale, ink: Ink) -> Iterator[Markup]:
    """A pale area through all of them, and a line for the last one, which the verdict was made by."""
    if not looks:
        return
    middles = [(x(look.sessions), y(_drawn(y, look.ratio))) for look in looks]
    lows = [(at, y(_drawn(y, look.low))) for (at, _), look in zip(middles, looks, strict=True)]
    highs = [(at, y(_drawn(y, look.high))) for (at, _), look in zip(middles, looks, strict=True)]
    if len(looks) > 1:
        area = polyline([*highs, *reversed(lows)]) + "z"
        yield element("path", d=area, fill=ink.colour, fill_opacity=0.15, class_=f"fill {ink.css}")
        yield element(
            "path", d=polyline(middles), stroke=ink.colour, stroke_opacity=0.6, fill="none", class_=f"line {ink.css}"
        )
    (at, middle), (_, low), (_, high) = middles[-1], lows[-1], highs[-1]
    yield element(
        "path",
        d=f"M{at:.1f} {low:.1f}V{high:.1f}M{at - 5:.1f} {middle:.1f}h10",
        stroke=ink.colour,
        stroke_width=2.5,
        fill="none",
        class_=f"line {ink.css}",
    )


def _drawn(y: Scale, ratio: float) -> float:
    return _inside(y, math.log(ratio) if ratio > 0 else -math.inf)


def _inside(y: Scale, value: float) -> float:
    return min(max(value, y.low), y.high)


def _dots(values: Sequence[float], counted: int, x: Scale, y: Scale, ink: Ink) -> Iterator[Markup]:
    for name, some in (("full", range(min(counted, len(values)))), ("hollow", range(counted, len(values)))):
        path = "".join(
            f"M{decimal(x(index + 1) - 3)} {decimal(y(_inside(y, values[index])))}a3 3 0 1 0 6 0a3 3 0 1 0-6 0z"
            for index in some
        )
        if path and name == "full":
            yield element("path", d=path, fill=ink.colour, class_=f"fill {ink.css}")
        elif path:
            yield element("path", d=path, fill="none", stroke=ink.colour, class_=f"line {ink.css}")


def _described(values: Sequence[float], looks: Sequence[Look]) -> str:
    said = [f"session {number}: {_change(value)}" for number, value in enumerate(values, 1)]
    said += [
        f"after {look.sessions}: {signed_percent(look.ratio - 1)} "
        f"from {signed_percent(look.low - 1)} to {signed_percent(look.high - 1)}"
        for look in looks
    ]
    return "; ".join(said) or "no session"


def _change(value: float) -> str:
    return signed_percent(math.expm1(min(value, 700.0)))
