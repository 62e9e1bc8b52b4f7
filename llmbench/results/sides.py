"""The two sides of a comparison: the runs below a folder, and the cases that both sides have."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmbench.errors import UserError
from llmbench.results.benchmark_runs import BenchmarkRun
from llmbench.results.environment import flatten
from llmbench.results.schema import Record, Run, Series
from llmbench.results.store import RunFolder

_HINT = (
    "name folders that `llmbench run` wrote (its --out), folders that hold several runs of one suite, or files that "
    "`pytest --benchmark-json` wrote"
)
_ONLY_TIMING = frozenset({"deadline_seconds", "budget_seconds", "interval_target"})
"""Settings that say how long is timed, and not what is trained."""


@dataclass(frozen=True)
class Trained:
    """One case in one run."""

    record: Record
    folder: RunFolder

    @cached_property
    def series(self) -> Series | None:
        """Step times and losses; None where there are none, or none that can be read."""
        return self.folder.recorded_series(self.record)[0]

    @cached_property
    def timed_seconds(self) -> list[float]:
        """Of each timed step; empty where they were not kept."""
        if self.series is None:
            return []
        # step_seconds has no entry for step 0.
        steps = self.series.step_seconds[max(0, self.series.first_timed_step - 1) :]
        return steps if all(0 < seconds < math.inf for seconds in steps) else []


@dataclass(frozen=True)
class Session:
    """One run of a side: its cases by id, in the order of the run."""

    run: Run
    folder: RunFolder
    cases: Mapping[str, Trained]


@dataclass(frozen=True)
class Side:
    """BASE or CAND: one run, or several of the same suite, oldest first."""

    path: Path
    sessions: Sequence[Session]

    @property
    def runs(self) -> list[Run]:
        return [session.run for session in self.sessions]

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(case for session in self.sessions for case in session.cases))

    @property
    def damage(self) -> list[str]:
        """What could not be read of its files."""
        return [fault for session in self.sessions for fault in session.folder.damage]

    def of(self, case: str) -> list[Trained]:
        return [session.cases[case] for session in self.sessions if case in session.cases]


@dataclass(frozen=True)
class Pair:
    """One case on both sides; one of them can be empty."""

    case: str
    base: Sequence[Trained]
    cand: Sequence[Trained]

    @cached_property
    def difference(self) -> str | None:
        """Why the two cannot be compared: ``micro_batch_size 8 vs 16``; None if they can."""
        records = [[trained.record for trained in side] for side in (self.base, self.cand)]
        configs = [[dict(flatten(record.config)) for record in side] for side in records]
        keys = [key for key in configs[0][0] if key not in _ONLY_TIMING and all(key in one for one in _both(configs))]
        told = [_told(key, *([one[key] for one in side] for side in configs)) for key in keys]
        told.append(_told("unit", *([one.throughput.unit for one in side if one.throughput] for side in records)))
        return ", ".join(filter(None, told)) or None


def load_side(path: Path) -> Side:
    """The run in a folder, or all runs below it; or files of pytest-benchmark: one, or all below a folder.

    Raises:
        UserError: there is no run, one that cannot be read, or runs of several suites.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", _HINT)
    folders = [RunFolder(found) for found in _run_folders(path)] or _benchmark_files(path)
    if not folders:
        raise UserError(f"{path} holds no run", _HINT)
    sessions = sorted((_session(folder) for folder in folders), key=lambda session: session.run.started_at)
    suites = {session.run.suite for session in sessions}
    if len(suites) > 1:
        raise UserError(f"{path} holds runs of several suites: {', '.join(sorted(suites))}", _HINT)
    return Side(path, sessions)


def load(base: Path, cand: Path) -> tuple[Side, Side]:
    """Both sides.

    Raises:
        UserError: as ``load_side``, or a run is on both sides.
    """
    sides = load_side(base), load_side(cand)
    places = [{os.path.realpath(session.folder.path) for session in side.sessions} for side in sides]
    if shared := sorted(places[0] & places[1]):
        raise UserError(f"{shared[0]} is on both sides: {base} and {cand}", "name two different runs")
    return sides


def pairs(base: Side, cand: Side) -> list[Pair]:
    """Every case of either side, in the order of the base."""
    return [Pair(case, base.of(case), cand.of(case)) for case in dict.fromkeys([*base.cases, *cand.cases])]


def _run_folders(path: Path) -> Iterator[Path]:
    """Folders with a ``run.json``, sorted; what lies inside a run is not looked at."""
    for place, folders, files in os.walk(path):
        if "run.json" in files:
            folders.clear()
            yield Path(place)
        folders.sort()


def _benchmark_files(path: Path) -> list[RunFolder]:
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    return [BenchmarkRun(file) for file in files]


def _session(folder: RunFolder) -> Session:
    run = folder.recorded_run()
    cases: dict[str, Trained] = {}
    for found in folder.recorded():
        # A damaged line does not hide a valid record of the same case.
        if not found.damage or found.record.case not in cases:
            cases[found.record.case] = Trained(found.record, folder)
    return Session(run, folder, cases)


def _both(sides: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [one for side in sides for one in side]


def _told(key: str, base: Sequence[Any], cand: Sequence[Any]) -> str | None:
    """``batch 8 vs 16``; None where all agree."""
    before, after = (list(dict.fromkeys(map(str, side))) for side in (base, cand))
    if not before or not after or (before == after and len(before) == 1):
        return None
    return f"{key} {' and '.join(before)} vs {' and '.join(after)}"
