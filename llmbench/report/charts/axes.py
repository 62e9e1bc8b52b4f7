"""Ticks of an axis: the lines across in one path, the labels in one group, for pages with many charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from llmbench.report.svg import MUTED, RULE, decimal, element, rule

_TICK = 4  # pixels below the axis

Tick = tuple[float, str]
"""A place in pixels and the text that stands there."""


def across(left: float, right: float, ticks: Sequence[Tick]) -> Iterator[Markup]:
    """Faint lines from left to right, with their labels to the left of them."""
    if not ticks:
        return
    path = "".join(f"M{decimal(left)} {decimal(y)}H{decimal(right)}" for y, _ in ticks)
    yield element("path", d=path, class_="rule", stroke=RULE)
    yield _labels([(left - 6, y + 4, text) for y, text in ticks], "end")


def below(left: float, right: float, floor: float, ticks: Sequence[Tick]) -> Iterator[Markup]:
    """The axis at the bottom, with labels below its ticks."""
    yield rule(left, floor, right, floor, class_="axis", stroke=MUTED)
    if not ticks:
        return
    path = "".join(f"M{decimal(x)} {decimal(floor)}v{_TICK}" for x, _ in ticks)
    yield element("path", d=path, class_="axis", stroke=MUTED)
    yield _labels([(x, floor + 16, text) for x, text in ticks], "middle")


def _labels(placed: Sequence[tuple[float, float, str]], anchor: str) -> Markup:
    texts = (element("text", text, x=x, y=y) for x, y, text in placed)
    return element("g", *texts, text_anchor=anchor, fill=MUTED, class_="muted")
