"""What would settle what stored runs cannot: the commands of an A/B comparison, ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.paths import suites_folder
from llmbench.results.environment import decisive_differences
from llmbench.results.schema import Run
from llmbench.stats.comparison import Comparison, Row

_KEPT = ("--set", "--device", "--python")
"""Options of a run that its comparison needs, too, with their value."""


@dataclass(frozen=True)
class Settling:
    """A command for some cases.

    Attributes:
        hint: what to do before, or what it does not settle.
    """

    command: str
    cases: tuple[str, ...]
    hint: str | None


def settling(comparison: Comparison) -> list[Settling]:
    """As few commands as train each inconclusive case, and no other: workloads with the same modes share one."""
    rows = [row for row in comparison.rows if row.outcome == "inconclusive"]
    if not rows or comparison.hardware:
        return []
    modes: dict[str, list[Row]] = {}
    for row in rows:
        modes.setdefault(_workload(row), []).append(row)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for alike in modes.values():
        groups.setdefault(tuple(sorted(set(map(_mode, alike)))), []).extend(alike)
    return [_settling(comparison, alike) for alike in groups.values()]


def settling_row(comparison: Comparison, row: Row) -> Settling | None:
    """The command for one case; None where none is needed, or the machines are not alike."""
    open_ = row.outcome == "inconclusive" and not comparison.hardware
    return _settling(comparison, [row]) if open_ else None


def _settling(comparison: Comparison, rows: Sequence[Row]) -> Settling:
    base, cand = comparison.base.runs[-1], comparison.cand.runs[-1]
    sides, hint = _sides(base, cand)
    shipped = (suites_folder() / f"{cand.suite}.toml").is_file() and Path(cand.suite_file).stem == cand.suite
    words = ["llmbench", "ab", cand.suite if shipped else cand.suite_file]
    for workload in dict.fromkeys(map(_workload, rows)):
        words += ["-w", workload]
    for mode in dict.fromkeys(map(_mode, rows)):
        words += ["-m", mode]
    for world_size in dict.fromkeys(size for row in rows if (size := _world_size(row)) > 1):
        words += ["--world-size", str(world_size)]
    words += sides
    for option, value in _options(cand):
        if option != "--python" or sides[1].startswith("git:"):  # else the sides say which interpreter
            words += [option, value]
    data = cand.data.get("argument")
    words += ["--data", data] if isinstance(data, str) and data else []
    return Settling(shlex.join(words), tuple(row.case for row in rows), hint)


def _sides(base: Run, cand: Run) -> tuple[list[str], str | None]:
    """What made the two runs differ, as sides of a comparison."""
    commits = base.git and cand.git and (base.git.commit, cand.git.commit)
    moved = bool(commits and commits[0] != commits[1])
    software = decisive_differences(base.environment, cand.environment)
    packages = base.environment.get("packages") != cand.environment.get("packages")
    if moved and commits and (base.python == cand.python or not (software or packages)):
        dirty = [name for name, run in (("BASE", base), ("CAND", cand)) if run.git and run.git.dirty]
        hint = f"{' and '.join(dirty)} had local changes, which no commit holds" if dirty else None
        if software or packages:
            told = "the environment changed as well, which this leaves out"
            hint = f"{told}; {hint}" if hint else told
        return ["--base", f"git:{commits[0]}", "--cand", f"git:{commits[1]}"], hint
    if base.python != cand.python:
        hint = "the commits differ as well: check the code of one of them out" if moved else None
        return ["--base", base.python, "--cand", cand.python], hint
    hint = "both runs used this interpreter: give each version an environment of its own"
    return ["--base", base.python, "--cand", cand.python], hint


def _options(run: Run) -> Iterator[tuple[str, str]]:
    """Those of ``_KEPT`` with which the run was started."""
    words = iter(run.command)
    for word in words:
        option, equals, value = word.partition("=")
        if option in _KEPT:
            yield option, value if equals else next(words, "")


def _workload(row: Row) -> str:
    return (*row.base, *row.cand)[0].record.workload


def _world_size(row: Row) -> int:
    return (*row.base, *row.cand)[0].record.world_size


def _mode(row: Row) -> str:
    return (*row.base, *row.cand)[0].record.mode
