"""Horizontal bars: throughput with its interval, memory in parts against its capacity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.marks import whisker
from llmbench.report.charts.scale import Scale
from llmbench.report.palette import Ink
from llmbench.report.svg import INK, MUTED, chart, element, fit, label, rule, text_width

ROW, BAR = 25, 13
_LABELS = 176  # widest column of labels


@dataclass(frozen=True)
class Bar:
    """One row.

    Attributes:
        parts: lengths of the bar's parts from left to right; the first is drawn full, the others paler. Empty: no bar.
        text: what stands behind the bar, or in its place.
        interval: ends of the whisker.
        ghost: an outline only, for a value that does not count.
    """

    label: str
    ink: Ink
    parts: tuple[float, ...]
    text: str
    interval: tuple[float, float] | None = None
    ghost: bool = False


def label_width(labels: Iterable[str]) -> float:
    """Pixels of the column of labels."""
    return min(_LABELS, max(map(text_width, labels), default=0)) + 8


def height(rows: int) -> int:
    return ROW * rows + 4


def bars(
    title: str, rows: Sequence[Bar], *, width: int = 430, capacity: float | None = None, always: bool = False
) -> Markup:
    """Bars on an axis from zero that is theirs alone.

    Args:
        title: name of the chart.
        rows: from top to bottom.
        width: in pixels, as drawn; the page scales it.
        capacity: marked by a line where it lies within reach of the longest bar.
        always: whether it is marked however far it lies.
    """
    labels = label_width(row.label for row in rows)
    texts = max((text_width(row.text) for row in rows if row.parts), default=0) + 8
    longest = max((_reach(row) for row in rows), default=0.0)
    if capacity is not None and (always or capacity <= 2 * longest):
        longest = max(longest, capacity)
    else:
        capacity = None
    scale = Scale(0, longest or 1, labels, max(labels + 40, width - texts))
    line = None if capacity is None else scale(capacity)
    drawn: list[str] = [_row(row, ROW * index + ROW / 2 + 2, labels, scale, line) for index, row in enumerate(rows)]
    drawn.append(rule(labels, 0, labels, height(len(rows)), class_="axis", stroke=MUTED))
    if line is not None:
        drawn.append(rule(line, 0, line, height(len(rows)), class_="capacity", stroke=INK, stroke_dasharray="3 2"))
    return chart(width, height(len(rows)), title, "; ".join(f"{row.label}: {row.text}" for row in rows), *drawn)


def _reach(row: Bar) -> float:
    ends = [sum(row.parts), *(row.interval or ())]
    return max((end for end in ends if math.isfinite(end)), default=0.0)


def _row(row: Bar, y: float, labels: float, scale: Scale, line: float | None) -> Markup:
    drawn: list[str] = [label(labels - 7, y, fit(row.label, _LABELS), anchor="end")]
    end = start = scale(0)
    done = 0.0
    for index, part in enumerate(row.parts):
        if not math.isfinite(part) or part <= 0:
            continue
        done += part
        end = scale(done)
        drawn.append(_block(row, start, end, y, pale=index > 0))
        start = end
    if row.interval is not None and all(map(math.isfinite, row.interval)):
        low, high = (scale(max(0.0, value)) for value in row.interval)
        drawn.append(whisker(low, high, y))
        end = max(end, high)
    text = row.text if row.parts else fit(row.text, scale.end - labels + 60)
    drawn.append(label(text_start(end, text, line), y, text, muted=row.ghost))
    return element("g", *drawn)


def text_start(end: float, text: str, line: float | None) -> float:
    """Where the text behind a bar begins: right after it, or after a line that would cross it."""
    crossed = line is not None and end < line + 4 and line < end + 6 + text_width(text)
    return (line if crossed and line is not None else end) + 6


def _block(row: Bar, start: float, end: float, y: float, *, pale: bool) -> Markup:
    ghost = {"fill": "none", "stroke": MUTED, "stroke_dasharray": "3 2", "class_": "ghost"}
    ink = {"fill": row.ink.colour, "class_": f"fill {row.ink.css}{' pale' if pale else ''}"}
    opacity = 0.45 if pale else None
    return element(
        "rect",
        x=start,
        y=y - BAR / 2,
        width=max(1.0, end - start),
        height=BAR,
        fill_opacity=opacity,
        **(ghost if row.ghost else ink),
    )
