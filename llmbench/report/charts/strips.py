"""Small charts of one case: where its time went, and how its step times are spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from llmbench.report.charts.scale import Scale
from llmbench.report.format import duration
from llmbench.report.palette import Ink
from llmbench.report.svg import INK, MUTED, chart, decimal, element, label, rule, text_width

_RAMP = ("#d6e6f7", "#b3d0ee", "#86b4e2", "#5795d3", "#2f74bd", "#1a5699")


def phases(title: str, parts: Sequence[tuple[str, float]], *, width: int = 430) -> Markup:
    """One bar cut into the phases of a case; those too short for their name are named by the table beside it."""
    parts = [(name, seconds if math.isfinite(seconds) else 0.0) for name, seconds in parts]
    ends = list(accumulate(seconds for _, seconds in parts))
    scale = Scale(0, ends[-1] if ends and ends[-1] else 1.0, 0, width)
    bands = [Band(name, scale(end - seconds), scale(end)) for (name, seconds), end in zip(parts, ends, strict=True)]
    said = "; ".join(f"{name}: {duration(seconds)}" for name, seconds in parts)
    return chart(width, 30, title, said, *strip(bands, 2, 26))


@dataclass(frozen=True)
class Band:
    """A phase, from one pixel to another."""

    name: str
    left: float
    right: float


def strip(bands: Sequence[Band], top: float, tall: float) -> Iterator[Markup]:
    """Phases side by side, with the names that fit."""
    for index, band in enumerate(bands):
        shade = f"p{index % 6}"
        left, wide = decimal(band.left), decimal(max(0.5, band.right - band.left - 1))
        block = f"M{left} {top:g}h{wide}v{tall:g}H{left}z"
        yield element("path", d=block, fill=_RAMP[index % 6], class_=shade)
        if text_width(band.name) < band.right - band.left - 6:
            yield element(
                "text",
                band.name,
                x=band.left + 5,
                y=top + tall / 2 + 4,
                fill="#ffffff" if index % 6 >= 3 else None,
                class_=f"{shade}-text",
            )


def histogram(title: str, seconds: Sequence[float], ink: Ink, *, width: int = 430, tall: int = 130) -> Markup | None:
    """How often each step time occurred, with the median and the 95th percentile; None for fewer than 5 steps."""
    values = sorted(value for value in seconds if math.isfinite(value))
    if len(values) < 5:
        return None
    low, high = values[0], values[-1]
    bins = _bin_count(values)
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins)) if high > low else 0] += 1
    x = Scale(low, high, 4, width - 4) if high > low else Scale(low, low + (abs(low) or 1), 4, width - 4)
    floor, wide = tall - 22, (width - 8) / bins
    unit, across = (floor - 26) / max(counts), decimal(max(0.8, wide - 1))
    path = "".join(
        f"M{decimal(4 + wide * index)} {floor}v-{round(unit * amount)}h{across}V{floor}z"
        for index, amount in enumerate(counts)
        if amount
    )
    median, p95 = statistics.median(values), values[min(len(values) - 1, math.ceil(0.95 * len(values)) - 1)]
    drawn: list[str] = [
        element("path", d=path, fill=ink.colour, class_=f"fill {ink.css}"),
        rule(4, floor, width - 4, floor, class_="axis", stroke=MUTED),
        label(4, floor + 12, duration(low), muted=True),
        label(width - 4, floor + 12, duration(high), anchor="end", muted=True),
    ]
    at = [x(median), x(p95)]
    lines = "".join(f"M{decimal(place)} 18V{floor}" for place in at)
    drawn.append(element("path", d=lines, class_="whisker", stroke=INK, stroke_dasharray="3 2"))
    for value, place, name in ((median, at[0], "median"), (p95, at[1], "p95")):
        if name == "median" or at[1] - at[0] > 110:
            drawn.append(label(*_beside(place, f"{name} {duration(value)}", width), f"{name} {duration(value)}"))
    text = (
        f"{len(values)} steps from {duration(low)} to {duration(high)}, median {duration(median)}, p95 {duration(p95)}"
    )
    return chart(width, tall, title, text, *drawn)


def _beside(place: float, text: str, width: float) -> tuple[float, float]:
    return max(4.0, min(place - text_width(text) / 2, width - text_width(text) - 4)), 8.0


def _bin_count(values: Sequence[float]) -> int:
    """Freedman and Diaconis 1981: width 2 · IQR · n^(-1/3); between 8 and 40 bins."""
    first, _, third = statistics.quantiles(values, n=4)
    wide = 2 * (third - first) / len(values) ** (1 / 3)
    span = values[-1] - values[0]
    return 8 if wide <= 0 else max(8, math.ceil(min(40.0, span / wide)))
