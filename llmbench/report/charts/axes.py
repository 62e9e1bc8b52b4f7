"""Axes with their ticks, in as few elements as can be."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from llmbench.report.svg import MUTED, RULE, decimal, element

Ticks = Sequence[tuple[float, str]]
"""Where a tick lies, in pixels, and its text."""


def left_axis(ticks: Ticks, left: float, right: float) -> list[Markup]:
    """A text and a rule across for each tick."""
    texts = [element("text", text, x=left - 6, y=y + 4) for y, text in ticks]
    rules = "".join(f"M{decimal(left)} {decimal(y)}H{decimal(right)}" for y, _ in ticks)
    return [
        element("g", *texts, fill=MUTED, text_anchor="end", class_="muted"),
        element("path", d=rules or "M0 0", stroke=RULE, fill="none", class_="rule"),
    ]


def bottom_axis(ticks: Ticks, left: float, right: float, y: float) -> list[Markup]:
    """A line with a short stroke and a text for each tick."""
    texts = [element("text", text, x=x, y=y + 16) for x, text in ticks]
    strokes = "".join(f"M{decimal(x)} {decimal(y)}v4" for x, _ in ticks)
    line = f"M{decimal(left)} {decimal(y)}H{decimal(right)}"
    return [
        element("path", d=line + strokes, stroke=MUTED, fill="none", class_="axis"),
        element("g", *texts, fill=MUTED, text_anchor="middle", class_="muted"),
    ]
