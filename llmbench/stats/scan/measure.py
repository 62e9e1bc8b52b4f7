"""What a scan asks for, and what it is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmbench.results.scan import Point

Pair = tuple[str, str]


@dataclass(frozen=True)
class Reading:
    """A measurement that knows more than its value.

    Attributes:
        value: what is typical; gates are made from it.
        best: what was reached once, where others may have disturbed the measurement: who reached the gate once is
            not slow. By default the value.
        uncertainty: by what share it may lack something for no fault of its own: nothing is low that lacks less.
        times: how often it was measured, at different times; of these it is the best.
        note: what may explain it.
        points: of a pair, the curves behind it.
    """

    value: float
    best: float | None = None
    uncertainty: float = 0.0
    times: int = 1
    note: str | None = None
    points: tuple[Point, ...] = ()

    @property
    def at_best(self) -> float:
        return self.value if self.best is None else max(self.value, self.best)


Answer = Reading | float | None


class Measure(Protocol):
    """Where measurements come from. More is better in all of them.

    What cannot be measured is a string that says why, or missing, or not a finite number above 0.
    The names of a pair are in order.
    """

    def solo(self, nodes: Sequence[str]) -> Mapping[str, Mapping[str, Answer] | str]:
        """Each node on its own, all at the same time: values by metric."""
        ...

    def pair(self, pairs: Sequence[Pair]) -> Mapping[Pair, Answer | str]:
        """Bus bandwidth in bytes/s of each pair, all at the same time. No node is in two pairs."""
        ...
