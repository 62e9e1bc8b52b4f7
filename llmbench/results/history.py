"""Many runs from folder trees: what a history needs of each, read quickly, and nothing lost in silence.

Of a record only the parts that are asked for are kept and checked (``stats/trends.py``): checking all of 10,000 whole
records would take longer than all the rest.
"""

from __future__ import annotations

import fnmatch
import gc
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from llmbench.errors import UserError, nearest
from llmbench.results.environment import flat_environment, machines

KEPT = ("status", "error", "config", "throughput", "step_seconds", "memory", "energy", "loss", "noise")
"""Parts of a record that are kept."""
_MEASURED = (
    ("throughput", "value"),
    ("step_seconds", "median"),
    ("memory", "peak_allocated_bytes"),
    ("memory", "peak_rss_bytes"),
    ("energy", "joules"),
    ("loss", "eval"),
    ("loss", "final"),
)
_OURS = frozenset({"series", "logs"})  # folders of a run, in which no other run lies


@dataclass(frozen=True)
class PastRun:
    """One run.

    Attributes:
        device: what it trained on, e.g. ``cpu``.
        environment: flat, see ``flat_environment``.
        data: identity of the text that it trained on.
        has_report: whether there is a ``report.html``.
    """

    folder: Path
    id: str
    started_at: datetime
    suite: str
    status: str
    device: str
    commit: str | None
    dirty: bool
    environment: Mapping[str, str]
    hardware: Mapping[str, str]
    data: str
    has_report: bool


@dataclass(frozen=True)
class PastRecord:
    """One case of a run; ``parts`` are those of ``KEPT`` that it has, not checked yet."""

    run: PastRun
    case: str
    device: str
    parts: Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """What could not be read."""

    path: Path
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}{f', line {self.line}' if self.line else ''}: {self.message}"


@dataclass
class History:
    """All runs below some folders, the oldest first, and their records in the same order.

    Attributes:
        copies: folders that hold a run which is there already.
        faults: what was left out of the files, and why: folders, lines, or a part of a record.
    """

    runs: list[PastRun] = field(default_factory=list)
    records: list[PastRecord] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)
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


def read_history(folders: Sequence[Path]) -> History:
    """Reads every run below the folders, at any depth. One that is still going on, or was killed, counts as it is.

    Args:
        folders: where to look; links are followed, but none in a circle.

    Raises:
        UserError: there is no run at all, or a folder that was named does not exist.
    """
    history = History()
    found: dict[tuple[str, datetime], tuple[PastRun, list[PastRecord]]] = {}
    with _no_garbage():
        for folder, has_report in _run_folders(folders, history.faults):
            run = _read_run(folder, has_report, history.faults)
            if run is None:
                continue
            one = (run, _read_records(run, history.faults))
            key = (run.id, run.started_at)
            if key in found:
                # A copy may have been made while the run was going on.
                one, dropped = sorted([found[key], one], key=lambda each: len(each[1]), reverse=True)
                history.copies.append(dropped[0].folder)
            found[key] = one
    if not found:
        raise _nothing(folders, history.faults)
    for run, records in sorted(found.values(), key=lambda one: (one[0].started_at, one[0].id)):
        history.runs.append(run)
        history.records += records
    return history


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


def _nothing(folders: Sequence[Path], faults: Sequence[Fault]) -> UserError:
    named = ", ".join(map(str, folders))
    if faults:
        return UserError(f"no run below {named} that can be read: {faults[0]}", "name folders that hold whole runs")
    return UserError(
        f"no run below {named}", "name a folder that holds what `llmbench run` wrote (its --out), e.g. reports/runs"
    )


def _run_folders(folders: Sequence[Path], faults: list[Fault]) -> Iterator[tuple[Path, bool]]:
    """Each folder with a run, and whether a report lies there."""
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        try:
            if not stat.S_ISDIR(os.stat(folder).st_mode):
                raise UserError(f"{folder} is no folder", "name a folder with runs; one page: llmbench report")
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}", "name a folder with runs, e.g. reports/runs") from None
    waiting = list(reversed(folders))
    while waiting:
        folder = waiting.pop()
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            names, inner = _listed(folder, faults)
        except OSError as error:
            faults.append(Fault(folder, error.strerror or str(error)))
            continue
        is_run = "run.json" in names
        if is_run:
            yield folder, "report.html" in names
        elif "records.jsonl" in names:
            faults.append(Fault(folder, "records.jsonl without a run.json"))
        waiting += [folder / name for name in sorted(inner, reverse=True) if not (is_run and name in _OURS)]


def _listed(folder: Path, faults: list[Fault]) -> tuple[set[str], list[str]]:
    """All names in a folder, and which of them are folders."""
    names, inner = set(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            names.add(entry.name)
            try:
                if entry.is_dir():
                    inner.append(entry.name)
            except OSError as error:
                faults.append(Fault(folder / entry.name, error.strerror or str(error)))
    return names, inner


def _read_run(folder: Path, has_report: bool, faults: list[Fault]) -> PastRun | None:
    file = folder / "run.json"
    try:
        run = from_json(file.read_bytes())
    except OSError as error:
        faults.append(Fault(file, error.strerror or str(error)))
        return None
    except ValueError as error:
        faults.append(Fault(file, f"not JSON: {error}"))
        return None
    if not isinstance(run, dict) or not isinstance(run.get("id"), str):
        faults.append(Fault(file, "id: not there, so this is no run of llmbench"))
        return None
    started_at = _moment(run.get("started_at"))
    if started_at is None:
        faults.append(Fault(file, "started_at: no time, so its place in the history is not known"))
        return None
    git, environment = _mapping(run.get("git")), _mapping(run.get("environment"))
    data = _mapping(run.get("data"))
    return PastRun(
        folder=folder,
        id=run["id"],
        started_at=started_at,
        suite=_text(run.get("suite")) or "",
        status=_text(run.get("status")) or "",
        device=_text(run.get("device")) or "",
        commit=_text(git.get("commit")),
        dirty=git.get("dirty") is True,
        environment=flat_environment(environment, _text(run.get("llmbench"))),
        hardware=machines(environment),
        data="; ".join(f"{key} {data[key]}" for key in sorted(data) if isinstance(data[key], str)),
        has_report=has_report,
    )


def _read_records(run: PastRun, faults: list[Fault]) -> list[PastRecord]:
    """The newest record of each case, in the order in which the cases were first recorded."""
    file = run.folder / "records.jsonl"
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:  # its first case is not done yet
        return []
    except OSError as error:
        faults.append(Fault(file, error.strerror or str(error)))
        return []
    newest: dict[str, PastRecord] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = from_json(line)
        except ValueError as error:
            faults.append(Fault(file, _damage(line, number == len(lines), str(error)), number))
            continue
        case = document.get("case") if isinstance(document, dict) else None
        if not isinstance(case, str) or not isinstance(document.get("status"), str):
            faults.append(Fault(file, "case or status: not there, so this is no record", number))
            continue
        parts = {name: document[name] for name in KEPT if document.get(name) is not None}
        if not isinstance(parts.get("config", {}), dict):
            faults.append(Fault(file, "config: no object, so it is not known what this compares with", number))
            continue
        faults += [Fault(file, fault, number) for fault in _unusable(parts)]
        newest[case] = PastRecord(run, case, _text(document.get("device")) or run.device, parts)
    return list(newest.values())


def _unusable(parts: dict[str, Any]) -> Iterator[str]:
    """Takes away what is of a wrong type, and names it: else a value would seem not to have been measured."""
    for name in [name for name in parts if name != "status" and not isinstance(parts[name], dict)]:
        del parts[name]
        yield f"{name}: no object"
    for name, key in _MEASURED:
        value = parts.get(name, {}).get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{name}.{key}: no number"


def _damage(line: bytes, last: bool, error: str) -> str:
    if last and line.startswith(b'{"schema_version":'):
        return "half a record: the run was killed while it wrote, or is still writing"
    return f"not JSON: {error}"


def _moment(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
