"""Step times rank by rank: the median as a dot, a line to the 95th percentile, the slowest marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.axes import below
from llmbench.report.charts.scale import Scale
from llmbench.report.format import duration
from llmbench.report.palette import Ink
from llmbench.report.svg import INK, chart, decimal, element, fit, label, text_width

_ROW, _GAP = 15, 5
_LABELS = 150  # widest column of labels
_SLOWEST = "slowest"
_LEAST_SPAN = 0.1  # of the median: smaller differences are not drawn larger than they are


@dataclass(frozen=True)
class RankRow:
    """One rank, or several that are drawn as one.

    Attributes:
        label: what stands beside it; of a rank whose host stands above it, its number alone.
        low, high: medians of the steps of the fastest and of the slowest of them, in seconds; of one rank the same.
        p95: 95th percentile of the steps, of several the largest, in seconds.
        begins: whether a host begins here.
    """

    label: str
    low: float
    high: float
    p95: float
    begins: bool = False
    slowest: bool = False


def ranks(title: str, rows: Sequence[RankRow], ink: Ink, *, width: int = 430) -> Markup:
    """Rows from top to bottom on an axis that does not begin at zero: what matters is who lags."""
    labels = min(_LABELS, max((text_width(row.label) for row in rows), default=0)) + 10
    least, most = min(row.low for row in rows), max(max(row.high, row.p95) for row in rows)
    slack = max(0.0, _LEAST_SPAN * least - (most - least)) / 2
    x = Scale(max(0.0, least - slack), most + slack, labels + 8, width - 10 - text_width(_SLOWEST))
    places, y = [], 8.0
    for index, row in enumerate(rows):
        y += _GAP if index and row.begins else 0
        places.append(y)
        y += _ROW
    floor = y - _ROW / 2 + 4
    dots, lines, spans = [], [], []
    drawn: list[Markup] = []
    for row, at in zip(rows, places, strict=True):
        low, high, p95 = x.all([row.low, row.high, row.p95])
        drawn.append(label(labels, at, fit(row.label, _LABELS), anchor="end"))
        if row.high > row.low:
            spans.append(f"M{decimal(low)} {decimal(at - 3)}H{decimal(max(high, low + 1))}v6H{decimal(low)}z")
        else:
            dots.append(f"M{decimal(high - 3.5)} {decimal(at)}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z")
        if p95 > high:
            lines.append(f"M{decimal(high)} {decimal(at)}H{decimal(p95)}m0-3v6")
        if row.slowest:
            drawn.append(label(max(high, p95) + 7, at, _SLOWEST, muted=True))
    marks = [element("path", d="".join(lines), class_="whisker", stroke=INK, fill="none")] if lines else []
    marks += [element("path", d="".join(dots), fill=ink.colour, class_=f"fill {ink.css}")] if dots else []
    marks += [element("path", d="".join(spans), fill=ink.colour, class_=f"fill {ink.css}")] if spans else []
    room = (x.end - x.start) / 80
    ticks = [(x(tick), duration(tick)) for tick in x.ticks(max(2, int(room))) if x.low <= tick <= x.high]
    said = "; ".join(f"{row.label}: {_said(row)}{', the slowest' if row.slowest else ''}" for row in rows)
    return chart(width, floor + 22, title, said, *drawn, *marks, *below(labels + 4, width - 4, floor, ticks))


def _said(row: RankRow) -> str:
    median = duration(row.high) if row.low == row.high else f"{duration(row.low)} to {duration(row.high)}"
    return f"median {median}, p95 {duration(row.p95)}"
