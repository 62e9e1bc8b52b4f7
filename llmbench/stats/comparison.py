"""What a comparison of two sides says, and what a gate makes of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from llmbench.results.sides import Side, Trained
from llmbench.stats.compare import Change
from llmbench.stats.gates import LossChange, MemoryChange

Outcome = Literal[
    "broken", "slower", "inconclusive", "incomparable", "only base", "not run", "still broken", "only cand", "faster",
    "fixed", "same",
]  # fmt: skip
"""What becomes of a case, its speed or why there is none to compare; the most urgent first."""


UNTOLD: frozenset[Outcome] = frozenset({"inconclusive", "incomparable", "only base", "not run"})
"""Of these it cannot be told whether they became slower."""


@dataclass(frozen=True)
class Rules:
    """What counts as equal, and what as a regression.

    Attributes:
        equal_within: share by which throughputs may differ and still be the same.
        fail_slower: share of throughput that a case called slower may lose before the gate fails.
        strict: what cannot be told fails the gate, too.
        across_hardware: judge although the machines are not alike.
    """

    equal_within: float = 0.02
    fail_slower: float = 0.0
    strict: bool = False
    across_hardware: bool = False


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        change: of the throughput; None unless both sides have one that counts.
        loss_reason: why there is no verdict on the loss.
        energy: ratio of the joules per token or sample.
        reason: why nothing can be told, or what went wrong.
        failures: what got worse, a phrase each; a gate may not judge it (``Comparison.failures_of``).
    """

    case: str
    outcome: Outcome
    base: Sequence[Trained]
    cand: Sequence[Trained]
    change: Change | None = None
    memory: MemoryChange | None = None
    loss: LossChange | None = None
    loss_reason: str | None = None
    energy: float | None = None
    reason: str | None = None
    failures: Sequence[str] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to look at."""
        other = (self.memory and self.memory.verdict != "same") or (self.loss and self.loss.verdict == "changed")
        return self.outcome not in ("same", "still broken") or bool(other)


@dataclass(frozen=True)
class Comparison:
    """Everything that is told of two sides.

    Attributes:
        hardware: what of the machines differs, as ``what: base → cand``.
    """

    base: Side
    cand: Side
    rules: Rules
    rows: Sequence[Row]
    hardware: Sequence[str]

    @cached_property
    def counts(self) -> Counter[str]:
        """How many cases have which outcome."""
        return Counter(row.outcome for row in self.rows)

    @property
    def refused(self) -> bool:
        """Whether nothing may be called a regression, because the machines are not alike."""
        return bool(self.hardware) and not self.rules.across_hardware

    @property
    def failures(self) -> list[tuple[Row, str]]:
        """What makes the gate fail, in the order of the rows."""
        return [(row, failure) for row in self.rows for failure in self.failures_of(row)]

    def failures_of(self, row: Row) -> Sequence[str]:
        """What the gate finds wrong with one case."""
        return () if self.refused else row.failures

    @property
    def undecided(self) -> list[Row]:
        """Cases of the base of which it cannot be told whether they became slower."""
        return [row for row in self.rows if row.outcome in UNTOLD]

    @property
    def exit_code(self) -> int:
        if self.refused:
            return 0
        return int(bool(self.failures) or (self.rules.strict and bool(self.undecided or not self.rows)))


def geometric_mean(ratios: Sequence[float]) -> float | None:
    """None of none."""
    return math.exp(fmean(math.log(ratio) for ratio in ratios)) if ratios else None
