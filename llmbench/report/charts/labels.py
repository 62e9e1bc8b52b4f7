"""Where labels go so that none covers another, or a mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmbench.report.svg import FONT_SIZE, text_width

_LINE = FONT_SIZE + 2  # pixels of a line of text
_NEAR = 9.0  # from the middle of a mark to the text beside it
_DISTANCES = (_NEAR, 14.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0)
_SHIFTS = (0.5, 0.25, 0.75, 0.0, 1.0)  # share of a text that lies left of its mark, above or below it


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; ``top`` is the smaller number."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def around(x: float, y: float, radius: float) -> Box:
    return Box(x - radius, y - radius, x + radius, y + radius)


def place(
    wanted: Sequence[tuple[float, float, str]], taken: Sequence[Box], room: Box, avoid: Sequence[Box] = ()
) -> list[Box | None]:
    """A box for the text of each point, the nearest free one.

    Args:
        wanted: x and y of the marks, and their texts, the most important first.
        taken: what a text covers only where there is no other place near its mark, such as other marks.
        room: what no text may leave.
        avoid: what a text does not cover if it need not cover anything, such as thin lines.

    Returns:
        None for a text that would cover another wherever it were.
    """
    texts: list[Box] = []
    found: list[Box | None] = []
    for x, y, text in wanted:
        free = [box for box in _candidates(x, y, text_width(text)) if _free(box, texts, room)]
        clear = [box for box in free if _free(box, taken, room)]
        clearest = [box for box in clear if _free(box, avoid, room)]
        box = next(iter([*clearest, *clear, *free]), None)
        found.append(box)
        texts += [box] if box else []
    return found


def is_beside(box: Box, x: float, y: float) -> bool:
    """Whether it is plain which mark a label belongs to; another one needs a line that leads there."""
    return box.overlaps(around(x, y, _NEAR + 4))


def _free(box: Box, taken: Sequence[Box], room: Box) -> bool:
    return box.within(room) and not any(map(box.overlaps, taken))


def _candidates(x: float, y: float, width: float) -> Iterator[Box]:
    """Right and left of the mark, then above and below it, then the same further away."""
    for distance in _DISTANCES:
        yield _box(x + distance, y, width)
        yield _box(x - distance - width, y, width)
        for down in (-distance, distance):
            for share in _SHIFTS:
                yield _box(x - share * width, y + 1.3 * down, width)


def _box(left: float, middle: float, width: float) -> Box:
    return Box(left, middle - _LINE / 2, left + width, middle + _LINE / 2)


def apart(boxes: Sequence[tuple[float, float]], top: float, bottom: float) -> list[float]:
    """Tops of boxes, given as sorted (middle, height), moved down and then up until none overlaps another."""
    tops: list[float] = []
    edge = top
    for middle, tall in boxes:
        tops.append(max(edge, middle - tall / 2))
        edge = tops[-1] + tall
    edge = bottom
    for index in reversed(range(len(boxes))):
        tops[index] = max(top, min(tops[index], edge - boxes[index][1]))
        edge = tops[index]
    return tops
