"""The cases of a run as a page sees them: planned and recorded, each with a verdict, an anchor and an ink."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmbench.report.anchors import Anchors
from llmbench.report.format import count, half_width, plain_log
from llmbench.report.palette import Ink, ink
from llmbench.report.verdict import VERDICTS, Verdict
from llmbench.results.salvage import UNKNOWN, Recorded
from llmbench.results.schema import BROKEN, Error, Memory, MemoryTimeline, PlannedCase, Record, Run, Series
from llmbench.results.store import RunFolder

EAGER = "eager"


@dataclass(frozen=True)
class Column:
    """A mode at a world size: a column of the matrix, a colour and dash on every chart."""

    mode: str
    world_size: int
    ink: Ink = field(compare=False)

    @property
    def name(self) -> str:
        return self.mode if self.world_size == 1 else f"{self.mode} ×{self.world_size}"


@dataclass(frozen=True)
class CaseView:
    """One case of the page.

    Attributes:
        record: what is known, None if nothing was recorded.
        stored: the same as it stands in the file, for the downloads.
        variant: what its id says beyond workload, mode and world size, such as a batch shape; mostly empty.
        anchor: id of its details on the page, unique there.
        damage: what of its record could not be read; such a case is ``damaged``, whatever its status.
        series: step times and losses, if it trained.
        timeline: its memory over time, if it was sampled.
        series_fault: why the series cannot be shown, if it should be there.
        number: position among the records, None for a case without one.
    """

    id: str
    workload: str
    variant: str
    column: Column
    anchor: str
    verdict: Verdict
    record: Record | None
    stored: Record | None
    damage: list[str]
    series: Series | None
    timeline: MemoryTimeline | None
    series_fault: str | None
    log: list[str]
    rerun: str
    number: int | None

    @property
    def counts(self) -> bool:
        """Whether its speed may be compared: it ended, and the training was right."""
        return self.verdict.key in ("ok", "noisy", "doubtful") and self.throughput is not None

    @property
    def throughput(self) -> float | None:
        return self.record.throughput.value if self.record and self.record.throughput else None

    @property
    def unit(self) -> str:
        return self.record.throughput.unit if self.record and self.record.throughput else ""

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.record.throughput.ci95 if self.record and self.record.throughput else None

    @property
    def uncertainty(self) -> float | None:
        """Half the 95 % interval of the throughput, as a fraction of it."""
        return half_width(self.throughput, self.interval)

    @property
    def training_bytes(self) -> int | None:
        """Peak memory without what Python and torch took before."""
        return training_bytes(self.record.memory) if self.record else None

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory: what the device's allocator gave out, on a device without one what the OS holds resident."""
        memory = self.record.memory if self.record else None
        if memory is None:
            return None
        return memory.peak_rss_bytes if memory.peak_allocated_bytes is None else memory.peak_allocated_bytes


@dataclass(frozen=True)
class _Row:
    """A case planned or recorded. ``id`` is the case's own, or says the line where several records have it."""

    id: str
    workload: str
    variant: str
    mode: str
    world_size: int
    number: int | None = None
    recorded: Recorded | None = None


def read_cases(folder: RunFolder, run: Run) -> list[CaseView]:
    """Planned cases in the order of the suite, then what was recorded besides; a damaged line is a case of its own."""
    rows = _rows(folder, run)
    columns = _columns((row.mode, row.world_size) for row in rows)
    several = len({row.world_size for row in rows}) > 1
    anchors = Anchors()
    return [
        _view(
            folder,
            row,
            column=columns[row.mode, row.world_size],
            anchor=anchors.of(row.id),
            rerun=rerun_command(run, row.workload, row.mode, row.world_size if several else None),
        )
        for row in rows
    ]


def _rows(folder: RunFolder, run: Run) -> list[_Row]:
    found: dict[str, list[tuple[int, Recorded]]] = {}
    for number, recorded in enumerate(folder.recorded()):
        found.setdefault(recorded.record.case, []).append((number, recorded))
    for records in found.values():
        records.sort(key=lambda pair: bool(pair[1].damage))  # the valid one comes first
    planned = {case.case: _about(case) for case in run.cases}
    about = planned | {case: _about(records[0][1].record) for case, records in found.items() if case not in planned}
    taken, rows = set(about), []
    for case, names in about.items():
        records = found.get(case, [])
        rows.append(_Row(case, *names, *(records[0] if records else ())))
        for number, recorded in records[1:]:
            name = f"{case} (line {recorded.line})"
            while name in taken:
                name += "′"
            taken.add(name)
            rows.append(_Row(name, *names, number, recorded))
    return rows


def _about(case: Record | PlannedCase) -> tuple[str, str, str, int]:
    return case.workload, "/".join(case.case.split("/")[3:]), case.mode, case.world_size


def _view(folder: RunFolder, row: _Row, *, column: Column, anchor: str, rerun: str) -> CaseView:
    stored = row.recorded.record if row.recorded else None
    damage = [_here(folder, told) for told in row.recorded.damage] if row.recorded else []
    record = stored and tamed(stored)
    series, fault = folder.recorded_series(record) if record else (None, None)
    record = _damaged(record, damage) if record and damage else record
    verdict = VERDICTS["damaged"] if damage else judge(record)
    return CaseView(
        id=row.id,
        workload=row.workload,
        variant=row.variant,
        column=column,
        anchor=anchor,
        verdict=verdict,
        record=record,
        stored=stored,
        damage=damage,
        series=series if series and series.loss else None,
        timeline=series.memory if series else None,
        series_fault=fault and _here(folder, fault),
        log=[plain_log(line) for line in folder.log_tail(record)] if record and verdict.tone == "bad" else [],
        rerun=rerun,
        number=row.number,
    )


def _damaged(record: Record, damage: Sequence[str]) -> Record:
    """The record as one that failed: what it says of success cannot be relied on."""
    before = record.error if record.error and record.error.type != "Damaged" else None
    said = [f"{before.type}: {before.message}"] if before else []
    hint = "what can be read of it is shown, and counts nowhere"
    error = Error(type="Damaged", message="\n".join([*damage, *said]), hint=(before and before.hint) or hint)
    return record.model_copy(update={"status": "failed", "error": error})


def _here(folder: RunFolder, told: str) -> str:
    """A fault with its file named as seen from the run's folder."""
    return told.removeprefix(f"{folder.path}/")


def tamed(record: Record) -> Record:
    """The record with numbers that arithmetic bears: beyond 1e300 nothing was measured, and sums would overflow."""
    return Record.model_validate(_tamed(record.model_dump(by_alias=True)))


def _tamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tamed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tamed(item) for item in value]
    if isinstance(value, float) and abs(value) > 1e300:
        return math.copysign(math.inf, value)
    if isinstance(value, int) and abs(value) > 10**300:
        return 10**300 if value > 0 else -(10**300)
    return value


def judge(record: Record | None) -> Verdict:
    """The status of the record; what passed can still be noisy, or not have learned."""
    if record is None:
        return VERDICTS["missing"]
    if record.status != "ok":
        return VERDICTS[record.status]
    if record.loss is not None and not (record.loss.finite and record.loss.learned):
        return VERDICTS["doubtful"]
    if record.noise is not None and record.noise.verdict == "noisy":
        return VERDICTS["noisy"]
    return VERDICTS["ok"]


def is_broken(case: CaseView) -> bool:
    return case.record is not None and case.record.status in BROKEN


def training_bytes(memory: Memory | None) -> int | None:
    """The peak of the training alone: of the device's allocator, or resident beyond Python and torch."""
    if memory is None or memory.peak_allocated_bytes is not None or memory.peak_rss_bytes is None:
        return memory.peak_allocated_bytes if memory else None
    return max(0, memory.peak_rss_bytes - (memory.start_rss_bytes or 0))


def _columns(pairs: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Column]:
    """Eager first, then in order of appearance; world sizes of one mode share its colour."""
    pairs = list(dict.fromkeys(pairs))
    modes = sorted(dict.fromkeys(mode for mode, _ in pairs), key=lambda mode: mode != EAGER)
    sizes = sorted({world_size for _, world_size in pairs})
    ordered = sorted(pairs, key=lambda pair: (modes.index(pair[0]), pair[1]))
    return {
        (mode, world_size): Column(mode, world_size, ink(modes.index(mode), sizes.index(world_size)))
        for mode, world_size in ordered
    }


_WITH_VALUE = {"--workload", "-w", "--mode", "-m", "--world-size", "--out", "--resume", "--junit", "--markdown"}
_FLAGS = {"--json", "--plan"}


def rerun_command(run: Run, workload: str, mode: str, world_size: int | None = None) -> str:
    """The run's own command, narrowed to one case and without its output folder."""
    command = _narrowed(run.command) or ["llmbench", "run", run.suite]
    if UNKNOWN in (workload, mode):
        return shlex.join(command)
    ranks = ["--world-size", str(world_size)] if world_size is not None else []
    return shlex.join([*command, "--workload", workload, "--mode", mode, *ranks])


def _narrowed(command: Sequence[str]) -> list[str]:
    """The command without the options that choose cases or name folders; empty if it names no suite."""
    if "run" not in command:
        return []
    at = command.index("run") + 1
    kept, skip = [], False
    for word in command[at:]:
        if skip:
            skip = False
        elif word in _WITH_VALUE:
            skip = True
        elif word not in _FLAGS and word.split("=", 1)[0] not in _WITH_VALUE:
            kept.append(word)
    return ["llmbench", "run", *kept] if kept and not kept[0].startswith("-") else []


def matrix_size(cases: Sequence[CaseView]) -> str:
    """``12 cases = 4 workloads × 3 modes``; with holes, or several world sizes, without the product."""
    workloads = count(len({(case.workload, case.variant) for case in cases}), "workload")
    modes = count(len({case.column.mode for case in cases}), "mode")
    sizes = sorted({case.column.world_size for case in cases})
    text = count(len(cases), "case")
    if len(sizes) > 1:
        return f"{text}: {workloads}, {modes}, {' and '.join(map(str, sizes))} ranks"
    rows = len({(case.workload, case.variant) for case in cases})
    whole = rows * len({case.column for case in cases}) == len(cases) > 1
    return f"{text} = {workloads} × {modes}" if whole else text
