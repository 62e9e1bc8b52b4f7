"""Which cases of a workload are drawn where there are more than a chart can show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmbench.report.palette import ink
from llmbench.report.run.cases import CaseView
from llmbench.report.run.kinds import KINDS, kind
from llmbench.report.run.speedup import base_of

MOST = 8
"""Cases drawn in one panel; what is beyond stands in the table of all cases."""
BROKEN_MOST = 2
"""Of these, those that went wrong and have no valid number to show."""

RULE = "eager, the fastest, the one that needs the least memory, what went wrong, then the fastest of each kind"
"""What is chosen, in words."""


def picked(cases: Sequence[CaseView]) -> list[CaseView]:
    """At most ``MOST`` cases of one workload, in their own order."""
    if len(cases) <= MOST:
        return list(cases)
    chosen: dict[str, CaseView] = {}
    for case in _by_importance(cases):
        if len(chosen) < MOST:
            chosen.setdefault(case.id, case)
    return [case for case in cases if case.id in chosen]


def _by_importance(cases: Sequence[CaseView]) -> Iterator[CaseView]:
    base = base_of(cases)
    if base:
        yield base
    fast = sorted((case for case in cases if case.counts), key=lambda case: -(case.throughput or 0.0))
    yield from fast[:1]
    light = [case for case in fast if case.training_bytes is not None]
    yield from sorted(light, key=lambda case: case.training_bytes or 0)[:1]
    broken = [case for case in cases if case.verdict.tone == "bad"]
    # What has a curve to show tells more than a word does.
    yield from sorted(broken, key=lambda case: case.throughput is None)[:BROKEN_MOST]
    for title in KINDS:
        yield from [case for case in fast if kind(case.column.mode) == title][:1]
    yield from fast
    yield from [case for case in cases if case.verdict.key not in ("skipped", "missing")]


def inked(cases: Sequence[CaseView], drawn: Sequence[CaseView]) -> list[CaseView]:
    """The cases with inks such that the drawn ones are told apart as far as the palette reaches."""
    modes = list(dict.fromkeys(case.column.mode for case in [*drawn, *cases]))
    modes.sort(key=lambda mode: mode != "eager")
    sizes = sorted({case.column.world_size for case in cases})
    return [
        replace(
            case,
            column=replace(case.column, ink=ink(modes.index(case.column.mode), sizes.index(case.column.world_size))),
        )
        for case in cases
    ]
