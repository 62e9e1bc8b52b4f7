"""The rungs of a ladder: what each technique brought over the rung before it. For the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.errors import UserError
from llmbench.report.run.cases import training_bytes
from llmbench.report.run.speedup import Speedup, ratio
from llmbench.results.schema import Record, Run
from llmbench.suite.modes import EAGER, rungs


@dataclass(frozen=True)
class Rung:
    """One case of a ladder.

    Attributes:
        technique: what its mode adds to the mode before, ``eager`` for the first.
        record: None if nothing was recorded.
        before: technique of the last rung that trained right, which this one is held against.
        over_eager, over_before: of throughput; None where one of the two does not count.
        memory_bytes: peak of the training, without what Python and torch took before.
        memory_change: against ``before``, as a share of it.
    """

    technique: str
    case: str
    world_size: int
    record: Record | None
    before: str | None
    over_eager: Speedup | None
    over_before: Speedup | None
    memory_bytes: int | None
    memory_change: float | None

    @property
    def name(self) -> str:
        """``eager``, ``+ bf16``, ``+ fsdp ×2``."""
        added = self.technique if self.technique == EAGER else f"+ {self.technique}"
        return added if self.world_size == 1 else f"{added} ×{self.world_size}"

    @property
    def counts(self) -> bool:
        """Whether later rungs may be held against it: it ended, and the training was right."""
        return self.record is not None and self.record.status == "ok" and self.record.throughput is not None

    @property
    def reason(self) -> str | None:
        """Why it has no result that counts."""
        if self.counts:
            return None
        if self.record is None:
            return "not run"
        error = self.record.error
        return (error.message.strip().splitlines() or [""])[0] if error else "no cause was recorded"

    @property
    def compile_seconds(self) -> tuple[float | None, float | None]:
        """Of the first step with a cold and with a warm cache of compiled code."""
        found = self.record.compile if self.record else None
        return (found.cold_seconds, found.warm_seconds) if found else (None, None)


@dataclass(frozen=True)
class Ladder:
    """All rungs of one workload, from eager upwards."""

    workload: str
    variant: str
    rungs: list[Rung]

    @property
    def unit(self) -> str:
        found = (rung.record.throughput for rung in self.rungs if rung.record)
        return next((throughput.unit for throughput in found if throughput), "")


def ladders(run: Run, records: Sequence[Record]) -> list[Ladder]:
    """The ladders of a run, one for each workload; none if the run is no ladder."""
    if not run.ladder:
        return []
    techniques = dict(zip(_modes(run.ladder), [EAGER, *run.ladder], strict=True))
    known = {record.case: record for record in records}
    planned = {case.case: (case.workload, case.mode, case.world_size) for case in run.cases}
    steps: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for case, (workload, mode, world_size) in planned.items():
        if mode in techniques:
            steps.setdefault((workload, "/".join(case.split("/")[3:])), []).append((mode, case, world_size))
    order = list(techniques)
    return [
        Ladder(
            workload,
            variant,
            _climb(
                [
                    (techniques[mode], case, size, known.get(case))
                    for mode, case, size in sorted(found, key=lambda step: (order.index(step[0]), step[2]))
                ]
            ),
        )
        for (workload, variant), found in steps.items()
    ]


def _modes(techniques: Sequence[str]) -> list[str]:
    try:
        return rungs(techniques)
    except UserError:  # of an llmbench that knows other techniques
        return [EAGER, *("+".join(techniques[: index + 1]) for index in range(len(techniques)))]


def _climb(steps: Sequence[tuple[str, str, int, Record | None]]) -> list[Rung]:
    climbed: list[Rung] = []
    for technique, case, world_size, record in steps:
        valid = [rung for rung in climbed if rung.counts]
        before = next((rung for rung in reversed(valid) if rung.technique != technique), None)
        eager = next((rung for rung in valid if rung.technique == EAGER), None)
        memory = training_bytes(record.memory) if record else None
        rung = Rung(technique, case, world_size, record, None, None, None, memory, None)
        if rung.counts and before:
            change = memory / before.memory_bytes - 1 if memory is not None and before.memory_bytes else None
            over = (_over(record, eager), _over(record, before))
            rung = Rung(technique, case, world_size, record, before.technique, *over, memory, change)
        climbed.append(rung)
    return climbed


def _over(record: Record | None, other: Rung | None) -> Speedup | None:
    return ratio(record.throughput, other.record.throughput) if record and other and other.record else None
