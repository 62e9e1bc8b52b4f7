"""SVG as escaped strings. Colours are presentation attributes *and* classes: a style sheet can restyle a chart,
and a chart without one (Jenkins, a mail) still has its colours.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from llmbench.report.format import printable, shorten

FONT_SIZE = 12
INK = "#1b1f24"
MUTED = "#57606a"
RULE = "#d0d7de"


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """One element. ``class_`` becomes class, other underscores hyphens; None leaves an attribute out.

    Children and attributes are escaped unless they are ``Markup`` already.
    """
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    body = Markup("").join(escape(child if isinstance(child, Markup) else printable(child)) for child in children)
    return Markup(f"<{name}{text}>{body}</{name}>" if body else f"<{name}{text}/>")  # noqa: S704 (escaped above)


def _attribute(value: str | float) -> str:
    return escape(printable(value)) if isinstance(value, str) else decimal(value)


def decimal(value: float) -> str:
    """A coordinate to a tenth of a pixel, as short as can be."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Path data through the points, in steps of a tenth of a pixel from each to the next: half as long as absolute."""
    x, y = (round(10 * value) for value in points[0])
    parts = [f"M{x / 10:g} {y / 10:g}l"]
    for point in points[1:]:
        to_x, to_y = (round(10 * value) for value in point)
        parts += [_step(to_x - x), _step(to_y - y)]
        x, y = to_x, to_y
    return "".join(parts).replace("l ", "l", 1)


def _step(tenths: int) -> str:
    """A number that needs no separator where it begins with a minus."""
    text = f"{tenths / 10:g}".replace("0.", ".", 1) if abs(tenths) < 10 else f"{tenths / 10:g}"
    return text if text.startswith("-") else f" {text}"


def chart(width: float, height: float, title: str, description: str, *children: str) -> Markup:
    """A drawing with a name and a description for those who cannot see it."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *children,
        width=width,
        height=height,
        viewBox=f"0 0 {decimal(width)} {decimal(height)}",
        role="img",
        fill=INK,
        font_family="sans-serif",
        font_size=FONT_SIZE,
    )


def label(x: float, y: float, text: str, *, anchor: str | None = None, muted: bool = False, **extra: str) -> Markup:
    """Text whose vertical middle is near ``y``."""
    return element(
        "text",
        text,
        x=x,
        y=y + 4,
        text_anchor=anchor,
        fill=MUTED if muted else None,
        class_="muted" if muted else None,
        **extra,
    )


def rule(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    class_: str = "rule",
    stroke: str = RULE,
    stroke_width: float = 1,
    stroke_dasharray: str | None = None,
) -> Markup:
    return element(
        "line",
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
        stroke=stroke,
        stroke_width=stroke_width,
        stroke_dasharray=stroke_dasharray,
        class_=class_,
    )


def text_width(text: str) -> float:
    """Width in pixels of a label, estimated on the wide side: no font can be asked."""
    return 0.6 * FONT_SIZE * len(text)


def fit(text: str, width: float) -> str:
    """Text cut to what ``width`` pixels hold."""
    return shorten(printable(text), max(2, int(width / (0.6 * FONT_SIZE))))
