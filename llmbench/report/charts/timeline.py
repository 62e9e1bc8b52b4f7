"""Memory of one case over time, below the phases that it went through."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from markupsafe import Markup

from llmbench.report.charts.axes import across
from llmbench.report.charts.decimate import decimate
from llmbench.report.charts.scale import Scale, linear_ticks
from llmbench.report.charts.strips import Band, strip
from llmbench.report.format import duration, percent, size
from llmbench.report.palette import Ink
from llmbench.report.svg import INK, MUTED, chart, decimal, element, label, polyline, rule, text_width
from llmbench.results.schema import MemoryTimeline

_POINTS = 30  # kept, besides the peaks
_TOLERANCE = 8.0  # pixels by which a spike must stand out to be kept besides
_IN_REACH = 2.5  # times the peak: a limit further away would flatten what there is to see
_MOST = 1e300  # beyond it nothing was measured
_STRIP = 18
_TOP = 36
_NAMES = {"compile": "first step", "warmup": "warm-up"}


def timeline(
    title: str, found: MemoryTimeline, ink: Ink, limit: int | None = None, *, width: int = 430, tall: int = 150
) -> Markup | None:
    """Bytes over seconds as an area, with its peak and the limit; None where fewer than two samples can be drawn.

    Args:
        limit: bytes that there are in all: a line where the peak comes near it, else told in words.
    """
    samples = _samples(found)
    if len(samples) < 2:
        return None
    end = samples[-1][0]
    peak_at, peak = max(samples, key=lambda sample: sample[1])
    limit = limit if limit is not None and 0 < limit < _MOST else None
    near = limit is not None and limit <= _IN_REACH * peak
    high = 1.05 * max(peak, limit if near and limit is not None else 0, 1)
    ticks = _ticks(high)
    x = Scale(0, end, max(text_width(text) for _, text in ticks) + 8, width - 2)
    y = Scale(0, high, tall - 20, _TOP)
    drawn: list[Markup] = []
    drawn += across(x.start, x.end, [(y(tick), text) for tick, text in ticks])
    drawn += [_area([(x(seconds), y(amount)) for seconds, amount in samples], y.start, ink)]
    starts = _starts(found, end)
    bands = [Band(name, x(begin), x(stop)) for (name, begin), (_, stop) in pairwise([*starts, ("", end)])]
    drawn += strip(bands, 0, _STRIP)
    borders = "".join(f"M{decimal(band.left)} {_STRIP}V{y.start:g}" for band in bands[1:])
    drawn += [element("path", d=borders, class_="axis", stroke=MUTED, stroke_dasharray="1 3")] if borders else []
    drawn += [rule(x.start, y.start, x.end, y.start, class_="axis", stroke=MUTED)]
    drawn += [label(x.start, tall - 8, "0 s", muted=True)]
    drawn += [label(x.end, tall - 8, duration(end), anchor="end", muted=True)]
    drawn += [element("circle", cx=x(peak_at), cy=y(peak), r=3, fill=ink.colour, class_=f"fill {ink.css}")]
    drawn += _words(peak, x(peak_at), y(peak), limit, y(limit) if near and limit is not None else None, x)
    return chart(width, tall, title, _told(samples, starts, limit), *drawn)


def _samples(found: MemoryTimeline) -> list[tuple[float, float]]:
    """What can be drawn, in order of time."""
    pairs = zip(found.seconds, found.bytes, strict=False)
    return sorted((seconds, float(amount)) for seconds, amount in pairs if 0 <= seconds < _MOST and 0 <= amount < _MOST)


def _starts(found: MemoryTimeline, end: float) -> list[tuple[str, float]]:
    """Phases that began before the end, by time."""
    known = [(name, begin) for name, begin in found.phases.items() if math.isfinite(begin) and 0 <= begin <= end]
    return sorted(((_NAMES.get(name, name), begin) for name, begin in known), key=lambda start: start[1])


def _ticks(high: float) -> list[tuple[float, str]]:
    unit = 1024.0 ** min(4, max(0, int(math.log(high, 1024))))
    return [(tick * unit, size(tick * unit)) for tick in linear_ticks(0, high / unit, 3)]


def _area(points: Sequence[tuple[float, float]], floor: float, ink: Ink) -> Markup:
    """One path: open at the bottom, where the axis is, and filled nevertheless."""
    kept = decimate(points, _POINTS, _TOLERANCE)
    top = min(points, key=lambda point: point[1])
    whole = [(round(x), round(y)) for x, y in sorted({*kept, top})]
    (first, _), line = whole[0], polyline(whole).partition("l")
    return element(
        "path",
        d=f"M{first} {floor:g}V{whole[0][1]}l{line[2]}V{floor:g}",
        fill=ink.colour,
        fill_opacity=0.25,
        stroke=ink.colour,
        stroke_width=1.5,
        class_=f"fill line {ink.css}",
    )


def _words(peak: float, at: float, top: float, limit: int | None, limit_at: float | None, x: Scale) -> Iterator[Markup]:
    """The peak beside its place; the limit at its line, or behind the peak where it is out of reach."""
    text = f"peak {size(peak)}"
    if limit is not None and limit_at is None:
        text += f", {percent(peak / limit)} of {size(limit)}"
    wide = text_width(text)
    begin = max(x.start + 4, min(at - wide / 2, x.end - wide))
    yield label(begin, max(_STRIP + 8, top - 10), text)
    if limit is not None and limit_at is not None:
        yield rule(x.start, limit_at, x.end, limit_at, class_="capacity", stroke=INK, stroke_width=1.5)
        name = f"limit {size(limit)}"
        # On the side that the words of the peak leave free.
        left = begin > x.start + text_width(name) + 12
        yield label(
            x.start + 4 if left else x.end, max(_STRIP + 8, limit_at - 10), name, anchor=None if left else "end"
        )


def _told(samples: Sequence[tuple[float, float]], starts: Sequence[tuple[str, float]], limit: int | None) -> str:
    """The same in words: where each phase begins, and what it reached."""
    said = []
    for (name, begin), (_, stop) in pairwise([*starts, ("", math.inf)]):
        within = [amount for seconds, amount in samples if begin <= seconds < stop]
        reached = f", up to {size(max(within))}" if within else ""
        said.append(f"{name} from {duration(begin)}{reached}")
    return "; ".join([*said, *([f"limit {size(limit)}"] if limit is not None else [])])
