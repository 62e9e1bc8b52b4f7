"""A run or a comparison as a history needs it, read from its folder; what is damaged is left out and named.

Of a record only the parts that are asked for are kept and checked (``stats/trends.py``): checking all of 10,000 whole
records would take longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from llmbench.results.ab import Ab, AbSession
from llmbench.results.environment import flat_environment, machines
from llmbench.results.files import torn
from llmbench.results.salvage import first_fault
from llmbench.results.tree import Fault, Folder, Location, join

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


@dataclass(frozen=True)
class PastRun:
    """One run; or what stands for the candidate of a comparison.

    Attributes:
        device: what it trained on, e.g. ``cpu``.
        environment: flat, see ``flat_environment``.
        data: identity of the text that it trained on.
        has_report: whether there is a ``report.html``.
    """

    folder: Location
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
class Base:
    """What a ratio was measured against: only ratios to the same one compare.

    Attributes:
        name: short, for people.
        software: of its environment, flat; the host is the candidate's, too.
    """

    name: str
    software: Mapping[str, str]


@dataclass(frozen=True)
class PastRecord:
    """One case of a run; ``parts`` are those of ``KEPT`` that it has, not checked yet.

    Attributes:
        base: of a ratio that was measured in lock-step.
    """

    run: PastRun
    case: str
    device: str
    parts: Mapping[str, Any]
    base: Base | None = None


@dataclass(frozen=True)
class PastComparison:
    """One A/B comparison, with those of its sessions that can be read."""

    candidate: PastRun
    base: Base
    ab: Ab
    sessions: Sequence[AbSession]


def read_run(folder: Folder, faults: list[Fault]) -> PastRun | None:
    """None of what is no run."""
    file = join(folder.location, folder.kind)
    try:
        run = from_json(folder.read(folder.kind))
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
    return PastRun(
        folder=folder.location,
        id=run["id"],
        started_at=started_at,
        suite=_text(run.get("suite")) or "",
        status=_text(run.get("status")) or "",
        device=_text(run.get("device")) or "",
        commit=_text(git.get("commit")),
        dirty=git.get("dirty") is True,
        environment=flat_environment(environment, _text(run.get("llmbench"))),
        hardware=machines(environment),
        data=_data(_mapping(run.get("data"))),
        has_report=folder.has_report,
    )


def _data(data: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {data[key]}" for key in sorted(data) if isinstance(data[key], str))


def _lines(folder: Folder, name: str, faults: list[Fault]) -> list[bytes]:
    """None of a file that is not there yet."""
    try:
        return folder.read(name).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        faults.append(Fault(join(folder.location, name), error.strerror or str(error)))
        return []


def read_records(folder: Folder, run: PastRun, faults: list[Fault]) -> list[PastRecord]:
    """The newest record of each case, in the order in which the cases were first recorded."""
    file, lines = join(folder.location, "records.jsonl"), _lines(folder, "records.jsonl", faults)
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


def read_comparison(folder: Folder, faults: list[Fault]) -> PastComparison | None:
    """None of what is no comparison; sessions that cannot be read are left out."""
    file = join(folder.location, folder.kind)
    try:
        ab = Ab.model_validate_json(folder.read(folder.kind))
    except OSError as error:
        faults.append(Fault(file, error.strerror or str(error)))
        return None
    except ValidationError as error:
        faults.append(Fault(file, first_fault(error)))
        return None
    started_at = _moment(ab.started_at)
    if started_at is None:
        faults.append(Fault(file, "started_at: no time, so its place in the history is not known"))
        return None
    git = ab.cand.git
    candidate = PastRun(
        folder=folder.location,
        id=ab.id,
        started_at=started_at,
        suite=ab.suite,
        status=ab.status,
        device=ab.device,
        commit=git.commit if git else None,
        dirty=bool(git and git.dirty),
        environment=flat_environment(ab.cand.environment, ab.llmbench),
        hardware=machines(ab.cand.environment),
        data=_data(ab.data),
        has_report=folder.has_report,
    )
    return PastComparison(candidate, _base(ab), ab, _read_sessions(folder, ab, faults))


def _base(ab: Ab) -> Base:
    """A commit says what the base is; else its label does. Where it lay, and on which host, does not matter."""
    git = ab.base.git
    name = f"{git.commit[:7]}{'+' if git.dirty else ''}" if git else ab.base.label
    software = flat_environment(ab.base.environment)
    kept = {key: value for key, value in software.items() if key.startswith(("torch.", "python.", "packages."))}
    return Base(name, kept | ({"commit": git.commit} if git else {}))


def _read_sessions(folder: Folder, ab: Ab, faults: list[Fault]) -> list[AbSession]:
    file, known = join(folder.location, "sessions.jsonl"), {case.id for case in ab.cases}
    found = []
    for number, line in enumerate(_lines(folder, "sessions.jsonl", faults), start=1):
        if not line.strip():
            continue
        try:
            session = AbSession.model_validate_json(line)
        except ValidationError as error:
            half = "half a session: killed while it was written, or still being written"
            faults.append(Fault(file, half if torn(line) else first_fault(error), number))
            continue
        if session.case in known:
            found.append(session)
        else:
            faults.append(Fault(file, f"case: {session.case} is none of the comparison's", number))
    return found


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
