"""Marks of a scatter, and intervals: the shape tells the kind of a mode, so that colour need not."""

from __future__ import annotations

from markupsafe import Markup

from llmbench.report.charts.labels import Box, is_beside
from llmbench.report.palette import Ink
from llmbench.report.svg import INK, MUTED, element, label, rule

RADIUS = 4.5
_OUTLINES = {
    "circle": "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "square": "m-4-4h8v8h-8z",
    "up": "m0-5l5 9h-10z",
    "diamond": "m0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
    "down": "m0 5l5-9h-10z",
    "cross": "m-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
}
SHAPES = tuple(_OUTLINES)


def mark(shape: str, x: float, y: float, tip: str | None = None) -> Markup:
    """The outline of a mark, for ``full``, ``pale`` or ``hollow`` to colour.

    Args:
        shape: one of ``SHAPES``.
        tip: shown under the pointer.
    """
    return element("path", *([element("title", tip)] if tip else []), d=f"M{x:.1f} {y:.1f}{_OUTLINES[shape]}")


def full(ink: Ink, *marks: Markup) -> Markup:
    return element("g", *marks, fill=ink.colour, class_=f"fill {ink.css}")


def pale(ink: Ink, *marks: Markup) -> Markup:
    """For what is there, but is not the point."""
    return element("g", *marks, fill=ink.colour, fill_opacity=0.2, stroke=ink.colour, class_=f"fill line {ink.css}")


def hollow(*marks: Markup) -> Markup:
    """For what does not count."""
    return element("g", *marks, fill="none", stroke=MUTED, stroke_width=1.25, class_="ghost")


def whisker(low: float, high: float, y: float, half: float = 4, thickness: float = 1.25) -> Markup:
    """An interval from ``low`` to ``high``, with ends twice ``half`` high."""
    return element(
        "path",
        d=f"M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - half:.1f}v{2 * half:g}M{high:.1f} {y - half:.1f}v{2 * half:g}",
        stroke=INK,
        stroke_width=thickness,
        fill="none",
        class_="whisker",
    )


def named(box: Box, text: str, x: float, y: float, *, muted: bool = False) -> list[Markup]:
    """A label where ``labels.place`` put it, with a line to its mark where it stands apart."""
    drawn = [label(box.left, box.middle, text, muted=muted)]
    if not is_beside(box, x, y):
        end = min(max(x, box.left), box.right)
        edge = box.bottom if box.bottom < y else box.top if box.top > y else box.middle
        drawn.insert(0, rule(x, y, end, edge, class_="ghost", stroke=MUTED, stroke_width=0.75))
    return drawn
