"""Horizontal bars cut into kinds. Texture and shade tell the kinds apart, the colour remains that of the mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.bars import BAR, ROW, height, label_width, text_start
from llmbench.report.charts.scale import Scale
from llmbench.report.palette import Ink
from llmbench.report.svg import INK, MUTED, RULE, chart, element, fit, label, rule, text_width

_CUT = 30.0  # pixels of a part that is not to scale
_PATTERNS = ("stripes", "dots")
LOOKS = ("solid", "stripes", "dots", "pale", "outline", "grey")
"""How a kind can be drawn."""


@dataclass(frozen=True)
class Part:
    """A piece of a bar: its kind in words, one of ``LOOKS``, and its length."""

    kind: str
    look: str
    length: float


@dataclass(frozen=True)
class Stack:
    """One row.

    Attributes:
        parts: from left to right; those that are not finite and positive are left out.
        text: what stands behind the bar, or in its place.
        said: the same in full, for those who cannot see the bar.
        mark: a tick, where the parts together reach beyond what there ever was at once.
        cut: a last part that is not to scale, shown with a break; 0 for none.
    """

    label: str
    ink: Ink
    parts: tuple[Part, ...]
    text: str
    said: str
    mark: float | None = None
    cut: float = 0


def stacks(title: str, rows: Sequence[Stack], *, width: int = 430, line: float | None = None) -> Markup:
    """Stacked bars on one axis from zero.

    Args:
        title: name of the chart.
        rows: from top to bottom.
        width: in pixels, as drawn; the page scales it.
        line: marked from top to bottom, and always within the axis, such as a capacity.
    """
    left = label_width(row.label for row in rows)
    beyond = max((text_width(row.text) + (_CUT + 6 if row.cut else 0) for row in rows if row.parts), default=0) + 8
    longest = max((length(row) for row in rows), default=0.0)
    scale = Scale(0, max(longest, line or 0) or 1, left, max(left + 40, width - beyond))
    x = None if line is None else scale(line)
    drawn = [_row(row, ROW * index + ROW / 2 + 2, left, scale, x) for index, row in enumerate(rows)]
    drawn.append(rule(left, 0, left, height(len(rows)), class_="axis", stroke=MUTED))
    if x is not None:
        drawn.append(rule(x, 0, x, height(len(rows)), class_="capacity", stroke=INK, stroke_dasharray="3 2"))
    return chart(width, height(len(rows)), title, "; ".join(f"{row.label}: {row.said}" for row in rows), *drawn)


def length(row: Stack) -> float:
    """Of the bar: of its parts, or up to its mark."""
    return max(sum(part.length for part in _drawable(row)), row.mark or 0)


def _drawable(row: Stack) -> list[Part]:
    return [part for part in row.parts if math.isfinite(part.length) and part.length > 0]


def _row(row: Stack, y: float, left: float, scale: Scale, line: float | None) -> Markup:
    drawn: list[Markup] = [label(left - 7, y, fit(row.label, left - 4), anchor="end")]
    start, done = scale(0), 0.0
    blocks: list[Markup] = []
    for part in _drawable(row):
        done += part.length
        end = max(scale(done), start + 0.6)
        blocks += _block(part.look, f"M{start:.1f} {y - BAR / 2:.1f}h{end - start:.1f}v{BAR}H{start:.1f}z")
        start = end
    drawn += [_coloured(row.ink, blocks)] if blocks else []
    if row.cut:
        drawn.append(_cut_block(start, y))
        start += _CUT + 6
    if row.mark is not None:
        x = scale(row.mark)
        drawn.append(rule(x, y - BAR / 2 - 3, x, y + BAR / 2 + 3, class_="capacity", stroke=INK, stroke_width=2))
        start = max(start, x)
    drawn.append(label(text_start(start, row.text, line), y, row.text))
    return element("g", *drawn)


def _coloured(ink: Ink, blocks: Sequence[Markup]) -> Markup:
    return element("g", *blocks, fill=ink.colour, stroke=ink.colour, stroke_width=0.75, class_=f"fill line {ink.css}")


def _block(look: str, outline: str) -> list[Markup]:
    """A piece in one of ``LOOKS``, in the colour around it; stripes and dots need ``patterns`` on the page."""
    if look == "grey":
        return [element("path", d=outline, fill=RULE, stroke=MUTED, class_="grey axis")]
    shape = element("path", d=outline, fill_opacity={"pale": 0.45, "outline": 0.1}.get(look))
    # Stripes and dots are cut out in the colour of the background, so that one pattern does for every colour.
    cut = [element("path", d=outline, fill=f"url(#cut-{look})", stroke="none")] if look in _PATTERNS else []
    return [shape, *cut]


def _cut_block(x: float, y: float) -> Markup:
    top, bottom = y - BAR / 2, y + BAR / 2
    shape = f"M{x + 5:.1f} {top:.1f}h{_CUT - 5}v{BAR}h{5 - _CUT}l3-4l-4-5z"
    slash = f"M{x + 1:.1f} {bottom + 2:.1f}l4-{BAR + 4}M{x + 5:.1f} {bottom + 2:.1f}l4-{BAR + 4}"
    broken = element("path", d=slash, stroke=MUTED, fill="none", class_="axis")
    grey = element("path", d=shape, fill=RULE, stroke=MUTED, stroke_width=0.75, class_="grey axis")
    return element("g", grey, broken)


def patterns() -> Markup:
    """The patterns that stripes and dots refer to, once a page, in a drawing that takes no room."""
    stripes = element("path", d="M-1 1l2-2M0 5l5-5M4 6l2-2", stroke="#ffffff", stroke_width=1.6, class_="cut-line")
    dots = element("path", d="M1 1h1.6v1.6h-1.6zM3.5 3.5h1.6v1.6h-1.6z", fill="#ffffff", class_="cut")
    defined = [
        element("pattern", drawn, id=f"cut-{look}", width=5, height=5, patternUnits="userSpaceOnUse")
        for look, drawn in (("stripes", stripes), ("dots", dots))
    ]
    return element("svg", element("defs", *defined), width=0, height=0, aria_hidden="true")


def swatch(look: str, ink: Ink) -> Markup:
    """A sample for a legend."""
    sample = _coloured(ink, _block(look, "M1 1h22v10h-22z"))
    return element("svg", sample, width=24, height=12, viewBox="0 0 24 12", aria_hidden="true")
