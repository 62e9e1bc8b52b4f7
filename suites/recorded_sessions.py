"""Recorded step times of identical code: lock-step sessions and fresh processes, from the CSV files of a folder.

lock.csv             session, kind (AA: identical code; others are left out), side (A, B), round (below 0: warm-up),
                     order (0: went first), step, wall_ns, thread_cpu_ns
lock_sessions.csv    session, kind, total_s
runs.csv, steps.csv  fresh processes: run_id, block, arm (A…: identical code), t_start, wall_total_s; run_id, step,
                     wall_ns

Columns may come in any order, and there may be others.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmbench.errors import UserError
from llmbench.results.ab import Round, SideName, Turn

LEAST_SESSIONS = 3
WARM_UP = 10  # steps of a fresh process that do not count; of a short one a tenth
_SIDES: dict[str, SideName] = {"A": "base", "B": "cand"}
_FILES = "expected: lock.csv, lock_sessions.csv and, for the other rules, runs.csv and steps.csv"


@dataclass(frozen=True)
class Row:
    """A line of a CSV file, which knows where it stands."""

    file: Path
    line: int
    values: dict[str, str]

    def fault(self, name: str, what: str) -> UserError:
        return UserError(f"{self.file}, line {self.line}, field {name}: {what}")

    def text(self, name: str) -> str:
        return self.values[name]

    def whole(self, name: str) -> int:
        try:
            return int(self.values[name])
        except ValueError:
            raise self.fault(name, f"{self.values[name]!r} is not a whole number") from None

    def number(self, name: str) -> float:
        try:
            value = float(self.values[name])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fault(name, f"{self.values[name]!r} is not a number")
        return value

    def time(self, name: str, unit: float = 1e-9) -> float:
        """Seconds."""
        value = self.number(name)
        if value <= 0:
            raise self.fault(name, f"{self.values[name]!r} is not a time above 0")
        return value * unit


@dataclass
class Process:
    """A fresh process: seconds of its steps, without warm-up."""

    block: int
    arm: str
    start: float
    cost: float = field(metadata={"unit": "seconds, start and all"})
    steps: list[float]


def lockstep_sessions(folder: Path) -> list[list[Round]]:
    """The rounds of each session of identical code, in the order of their numbers.

    Raises:
        UserError: the folder or a file is missing or damaged, or there are fewer than three sessions.
    """
    turns: dict[int, dict[int, dict[SideName, list[Row]]]] = {}
    needed = ("session", "kind", "side", "round", "order", "step", "wall_ns", "thread_cpu_ns")
    for row in read(folder / "lock.csv", needed):
        if row.text("kind") != "AA" or row.whole("round") < 0:
            continue
        side = _SIDES.get(row.text("side"))
        if side is None:
            raise row.fault("side", f"{row.text('side')!r} is neither A nor B")
        of_round = turns.setdefault(row.whole("session"), {}).setdefault(row.whole("round"), {})
        of_round.setdefault(side, []).append(row)
    if len(turns) < LEAST_SESSIONS:
        raise UserError(
            f"{folder / 'lock.csv'}: {len(turns)} sessions of identical code (kind AA)",
            f"a verdict needs {LEAST_SESSIONS}, power more",
        )
    return [[_round(sides) for _, sides in sorted(rounds.items())] for _, rounds in sorted(turns.items())]


def session_seconds(folder: Path) -> float | None:
    """Mean cost of a session of identical code; None if it was not recorded."""
    file = folder / "lock_sessions.csv"
    if not file.exists():
        return None
    costs = [row.time("total_s", 1.0) for row in read(file, ("kind", "total_s")) if row.text("kind") == "AA"]
    return sum(costs) / len(costs) if costs else None


def fresh_processes(folder: Path) -> list[Process]:
    """Those of identical code, in the order of time.

    Raises:
        UserError: a file is missing or damaged.
    """
    processes: dict[str, Process] = {}
    places: dict[str, Row] = {}
    for row in read(folder / "runs.csv", ("run_id", "block", "arm", "t_start", "wall_total_s")):
        if row.text("arm").startswith("A"):
            cost = row.time("wall_total_s", 1.0)
            processes[row.text("run_id")] = Process(
                row.whole("block"), row.text("arm"), row.number("t_start"), cost, []
            )
            places[row.text("run_id")] = row
    steps: dict[str, dict[int, float]] = {name: {} for name in processes}
    for row in read(folder / "steps.csv", ("run_id", "step", "wall_ns")):
        if row.text("run_id") in steps:
            steps[row.text("run_id")][row.whole("step")] = row.time("wall_ns")
    for name, process in processes.items():
        process.steps = [seconds for _, seconds in sorted(steps[name].items())]
        process.steps = process.steps[min(WARM_UP, len(process.steps) // 10) :]
        if not process.steps:
            raise places[name].fault("run_id", f"no step of {name!r} in steps.csv")
    return sorted(processes.values(), key=lambda process: process.start)


def read(file: Path, needed: Sequence[str]) -> Iterator[Row]:
    """The lines of a file that has at least these columns.

    Raises:
        UserError: the file, a column or a field of a line is missing, or it is no text.
    """
    if not file.parent.is_dir():
        raise UserError(f"{file.parent}: no such folder", _FILES)
    if not file.is_file():
        raise UserError(f"{file}: no such file", _FILES)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            for name in needed:
                if name not in (reader.fieldnames or ()):
                    raise UserError(f"{file}, line 1, field {name}: there is no such column")
            for values in reader:
                row = Row(file, reader.line_num, values)
                for name in needed:
                    if values[name] is None or values[name] == "":
                        raise row.fault(name, "empty")
                yield row
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file}: {error}", "a CSV file in UTF-8 is expected") from None


def _round(sides: dict[SideName, list[Row]]) -> Round:
    for side, name in (("base", "A"), ("cand", "B")):
        if side not in sides:
            other = next(iter(sides.values()))[0]
            what = f"session {other.text('session')}, round {other.text('round')}: no step of side {name}"
            raise other.fault("side", what)
    first: SideName = "base" if sides["base"][0].whole("order") <= sides["cand"][0].whole("order") else "cand"
    return Round(first=first, base=_turn(sides["base"]), cand=_turn(sides["cand"]))


def _turn(rows: Sequence[Row]) -> Turn:
    by_step: dict[int, Row] = {}
    for row in rows:
        if row.whole("step") in by_step:
            raise row.fault("step", f"{row.text('step')} comes twice in this turn")
        by_step[row.whole("step")] = row
    ordered = [row for _, row in sorted(by_step.items())]
    steps = [row.time("wall_ns") for row in ordered]
    return Turn(steps=steps, wall=math.fsum(steps), cpu=math.fsum(row.time("thread_cpu_ns") for row in ordered))
