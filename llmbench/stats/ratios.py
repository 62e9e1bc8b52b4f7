"""A/B comparisons as a history: of each case the candidate's time over that of its base, measured in lock-step.

Both sides ran at the same time on the same machine, so what changes is the candidate: a night on which the machine is
busy widens the interval, and does not move the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from llmbench.results.ab import AbCase, AbSession
from llmbench.results.history import History
from llmbench.results.past import Base, PastComparison, PastRecord
from llmbench.results.tree import Fault
from llmbench.stats.lockstep import LEAST_SPREAD, METRICS, differences
from llmbench.stats.student import quantile

CONFIDENCE = 0.975  # each side of a 95 % interval


def ratio_history(history: History) -> History:
    """The candidates of all comparisons as runs, with their ratios under ``parts["ratios"]``; self-checks left out.

    A case without a whole session has no ratio: it failed where its candidate did, and was skipped where its base did.
    """
    told = [one for one in history.comparisons if not one.ab.self_check]
    faults: list[Fault] = []
    records = [record for one in told for record in _records(one, faults)]
    return replace(
        history,
        others=len(history.runs),
        runs=[one.candidate for one in told],
        records=records,
        faults=[*history.faults, *faults],
    )


def session_differences(sessions: Sequence[AbSession]) -> tuple[list[dict[str, float]], int]:
    """Of each whole session of the design of the last one, by metric, and how many of them hold no times to compare."""
    found, unusable = [], 0
    for session in sessions:
        if session.design != sessions[-1].design or not session.whole:
            continue
        try:
            values = differences(session.rounds)
        except (ValueError, ArithmeticError):  # no step in a turn, or a time of zero or less
            values = {}
        if values and all(map(math.isfinite, values.values())):
            found.append(values)
        else:
            unusable += 1
    return found, unusable


def _records(comparison: PastComparison, faults: list[Fault]) -> Iterator[PastRecord]:
    for case in comparison.ab.cases:
        sessions = [one for one in comparison.sessions if one.case == case.id]
        values, unusable = session_differences(sessions)
        if unusable:
            message = f"{case.id}: {unusable} of {len(sessions)} sessions have no times that can be compared"
            faults.append(Fault(comparison.candidate.folder, message))
        parts = _ratios(values) or _failure(sessions)
        if parts:
            base = _base(comparison.base, case)
            config = {"config": dict(case.cand.config)}
            yield PastRecord(comparison.candidate, case.id, comparison.ab.device, {**parts, **config}, base)


def _base(base: Base, case: AbCase) -> Base:
    """Of two modes or suites that are compared, the base is another case, too."""
    if case.base.case == case.cand.case:
        return base
    return Base(f"{base.name} {case.base.case}", {**base.software, "case": case.base.case})


def _ratios(values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    if not values:
        return {}
    return {"status": "ok", "ratios": {metric: _ratio([one[metric] for one in values]) for metric in METRICS}}


def _ratio(logs: Sequence[float]) -> dict[str, Any]:
    """The mean over sessions, with its 95 % interval by Student's t."""
    centre = fmean(logs)
    if len(logs) < 2:
        return {"value": _exp(centre)}
    error = max(stdev(logs), LEAST_SPREAD) / math.sqrt(len(logs))
    half = quantile(CONFIDENCE, len(logs) - 1) * error
    return {"value": _exp(centre), "ci95": [_exp(centre - half), _exp(centre + half)]}


def _failure(sessions: Sequence[AbSession]) -> dict[str, Any]:
    """Empty if nothing was tried yet."""
    for session in sessions:
        if session.cand.error:
            status = session.cand.status if session.cand.status != "ok" else "failed"
            return {"status": status, "error": session.cand.error.model_dump()}
    for session in sessions:
        if session.base.error:
            error = session.base.error.model_dump()
            return {"status": "skipped", "error": error | {"message": f"BASE failed: {session.base.error.message}"}}
    return {"status": "skipped", "error": {"message": "no whole session"}} if sessions else {}


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
