"""Many runs and comparisons below some places, each once, the oldest first."""

from __future__ import annotations

import fnmatch
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from llmbench.errors import UserError, nearest
from llmbench.results.past import PastComparison, PastRecord, PastRun, read_comparison, read_records, read_run
from llmbench.results.redact import redact
from llmbench.results.tree import Fault, Location, folders_below

_Key = tuple[str, datetime]
_Kept = TypeVar("_Kept")


@dataclass
class History:
    """All runs below some folders, the oldest first, and their records in the same order; comparisons likewise.

    Attributes:
        others: runs that are left out where comparisons are followed (``stats/ratios.py``).
        copies: folders that hold a run or a comparison which is there already.
        faults: what was left out of the files, and why: folders, lines, or a part of a record.
    """

    runs: list[PastRun] = field(default_factory=list)
    records: list[PastRecord] = field(default_factory=list)
    comparisons: list[PastComparison] = field(default_factory=list)
    others: int = 0
    copies: list[Location] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def cases(self, patterns: Sequence[str]) -> list[str]:
        """The cases that one of the patterns matches, as a shell matches file names; all if there is none.

        Raises:
            UserError: a pattern matches no case.
        """
        known = list(dict.fromkeys(record.case for record in self.records))
        for pattern in patterns:
            if not fnmatch.filter(known, pattern):
                raise UserError(f"no case matches --case {pattern}", nearest(pattern, known))
        return [case for case in known if not patterns or any(fnmatch.fnmatchcase(case, one) for one in patterns)]


def read_history(places: Sequence[Location]) -> History:
    """Reads every run and comparison below the places, at any depth. What is still going on, or was killed, counts.

    Args:
        places: local folders, in which links are followed, and URLs as fsspec knows them.

    Raises:
        UserError: there is nothing at all, or a place that was named does not exist or cannot be opened.
    """
    history = History()
    runs: dict[_Key, tuple[PastRun, list[PastRecord]]] = {}
    comparisons: dict[_Key, tuple[PastRun, PastComparison]] = {}
    with _no_garbage():
        for folder in folders_below(places, history.faults):
            if folder.kind == "run.json":
                run = read_run(folder, history.faults)
                if run is not None:
                    records = read_records(folder, run, history.faults)
                    _keep(runs, run, records, lambda kept: len(kept), history.copies)
            else:
                comparison = read_comparison(folder, history.faults)
                if comparison is not None:
                    candidate = comparison.candidate
                    _keep(comparisons, candidate, comparison, lambda kept: len(kept.sessions), history.copies)
    # Answers of a store come in any order.
    history.faults.sort(key=lambda fault: _url(fault.path))
    if not runs and not comparisons:
        raise _nothing(places, history.faults)
    for run, records in _by_age(runs):
        history.runs.append(run)
        history.records += records
    history.comparisons = [comparison for _, comparison in _by_age(comparisons)]
    return history


def _keep(
    found: dict[_Key, tuple[PastRun, _Kept]],
    run: PastRun,
    content: _Kept,
    amount: Callable[[_Kept], int],
    copies: list[Location],
) -> None:
    """Adds what is new. Of two copies the fuller counts: one may have been made while the run was going on."""
    key = (run.id, run.started_at)
    if key not in found:
        found[key] = (run, content)
        return
    ordered = sorted((found[key], (run, content)), key=lambda one: (-amount(one[1]), _url(one[0].folder)))
    found[key] = ordered[0]
    copies += [run.folder for run, _ in ordered[1:]]


def _url(location: Location) -> str:
    """To sort by: what lies on this machine keeps its order, and comes first."""
    return location if isinstance(location, str) else ""


def _by_age(found: Mapping[_Key, tuple[PastRun, _Kept]]) -> list[tuple[PastRun, _Kept]]:
    return sorted(found.values(), key=lambda one: (one[0].started_at, one[0].id))


@contextmanager
def _no_garbage() -> Iterator[None]:
    """What is read here holds no cycles; looking for them again and again took a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nothing(places: Sequence[Location], faults: Sequence[Fault]) -> UserError:
    named = ", ".join(redact(str(place)) for place in places)
    if faults:
        return UserError(f"no run below {named} that can be read: {faults[0]}", "name folders that hold whole runs")
    return UserError(
        f"no run below {named}", "name a folder that holds what `llmbench run` wrote (its --out), e.g. reports/runs"
    )
