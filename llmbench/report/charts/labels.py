"""Where labels go so that none covers another, or a mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmbench.report.svg import FONT_SIZE, text_width

_LINE = FONT_SIZE + 2  # pixels of a line of text
_NEAR = 9.0  # from the middle of a mark to the text beside it
_DISTANCES = (_NEAR, 16.0, 26.0, 38.0, 52.0, 68.0)
_DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; ``top`` is the smaller number."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
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
        taken: what no text may cover.
        room: what no text may leave.
        avoid: what a text covers only where there is no other place, such as thin lines.

    Returns:
        None for a text that fits nowhere near its mark.
    """
    covered = list(taken)
    found: list[Box | None] = []
    for x, y, text in wanted:
        free = [box for box in _candidates(x, y, text_width(text)) if _free(box, covered, room)]
        box = next((box for box in free if not any(map(box.overlaps, avoid))), free[0] if free else None)
        found.append(box)
        covered += [box] if box else []
    return found


def is_beside(box: Box, x: float, y: float) -> bool:
    """Whether it is plain which mark a label belongs to; another one needs a line that leads there."""
    return box.overlaps(around(x, y, _NEAR + 4))


def _free(box: Box, taken: Sequence[Box], room: Box) -> bool:
    return box.within(room) and not any(map(box.overlaps, taken))


def _candidates(x: float, y: float, width: float) -> Iterator[Box]:
    for distance in _DISTANCES:
        for right, down in _DIRECTIONS:
            across = distance * (0.7 if right and down else 1)
            left = x + right * across - (width if right < 0 else width / 2 if not right else 0)
            middle = y + down * across
            yield Box(left, middle - _LINE / 2, left + width, middle + _LINE / 2)


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
