"""The environments of two sides: the keys that differ, and those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmbench.report.environment import every_key, summary
from llmbench.report.format import NOTHING
from llmbench.results.schema import Run

_OF_EACH_RUN = frozenset({"run", "resumed", "host.load_1min"})
"""Differ between any two runs, and tell nothing of the environment."""
_FIRST = ("torch.", "device", "python.", "host.", "packages.", "git ", "llmbench", "variables.", "data.", "suite")
"""Beginnings of the keys that explain most, in their order."""


@dataclass(frozen=True)
class Difference:
    """A key whose value is not the same in all runs; of several runs all values."""

    key: str
    base: str
    cand: str


@dataclass(frozen=True)
class Environments:
    """Keys that differ, those that are the same with their value, and how many there are."""

    differs: Sequence[Difference]
    same: Sequence[tuple[str, str]]

    @property
    def total(self) -> int:
        return len(self.differs) + len(self.same)


def environments(base: Sequence[Run], cand: Sequence[Run]) -> Environments:
    """Every key that any run recorded, apart from those that are a run's own."""
    return held_against(*([dict(every_key(run)) for run in side] for side in (base, cand)))


def held_against(*sides: Sequence[Mapping[str, str]]) -> Environments:
    """Two sides of one or more flat environments each."""
    keys = dict.fromkeys(key for side in sides for run in side for key in run if key not in _OF_EACH_RUN)
    found = {key: [list(dict.fromkeys(run.get(key, NOTHING) for run in side)) for side in sides] for key in keys}
    same = [(key, values[0][0]) for key, values in found.items() if len({*values[0], *values[1]}) == 1]
    known = {key for key, _ in same}
    differs = [Difference(key, *map(" or ".join, values)) for key, values in found.items() if key not in known]
    return Environments(sorted(differs, key=lambda one: _rank(one.key)), same)


def in_common(base: Sequence[Run], cand: Sequence[Run]) -> list[tuple[str, str]]:
    """Device, torch, host and the like in a line each, as far as all runs agree."""
    first, *others = (dict(summary(run)) for run in (*base, *cand))
    return [(name, text) for name, text in first.items() if all(other.get(name) == text for other in others)]


def _rank(key: str) -> int:
    return next((place for place, beginning in enumerate(_FIRST) if key.startswith(beginning)), len(_FIRST))
