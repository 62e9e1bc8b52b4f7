"""What unfolds for one case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.strips import histogram, phases
from llmbench.report.charts.timeline import timeline
from llmbench.report.format import duration, shorten, si, times
from llmbench.report.run.cases import CaseView
from llmbench.report.run.delta import deltas
from llmbench.report.run.measured import measured
from llmbench.report.run.nodes import rank_chart
from llmbench.report.run.section import Facts, Section
from llmbench.report.run.speedup import Speedup
from llmbench.report.run.summary import explain
from llmbench.report.run.training import trained
from llmbench.results.nodes import place_of
from llmbench.results.schema import Record

MOST_CHARTED = 24
"""Cases that have charts of their own; of more, those that the panels draw and those that went wrong."""


@dataclass(frozen=True)
class Detail:
    """What is known of one case.

    Attributes:
        delta: how it differs from the eager case beside its mode; None without one to hold it against, or charts.
    """

    case: CaseView
    summary: str
    cause: str | None
    hint: str | None
    message: str | None
    place: str | None
    phases: Markup | None
    memory: Markup | None
    steps: Markup | None
    ranks: Markup | None
    delta: Facts | None
    phase_times: list[tuple[str, str]]
    measured: list[Section]
    trained: list[Section]


def details(cases: Sequence[CaseView], drawn: Sequence[CaseView], ratios: Mapping[str, Speedup]) -> list[Detail]:
    """Of all these cases; ``drawn`` are those of the panels."""
    charted = {case.id for case in (cases if len(cases) <= MOST_CHARTED else drawn)}
    charted |= {case.id for case in cases if case.verdict.tone == "bad"}
    differing, capacity = deltas(cases), _capacity(cases)
    return [
        _detail(case, ratios.get(case.id), differing.get(case.id), capacity, charts=case.id in charted)
        for case in cases
    ]


def _detail(
    case: CaseView, ratio: Speedup | None, delta: Facts | None, capacity: int | None, *, charts: bool
) -> Detail:
    record = case.record
    memory = _timeline(case, capacity) if charts else None
    cause, hint = explain(case) if case.verdict.key != "ok" else (None, None)
    spent = _phase_times(record)
    return Detail(
        case=case,
        summary=_summary(case, ratio),
        cause=cause,
        hint=hint,
        message=_message(record, cause),
        place=place_of(record.error) if record else None,
        # The memory over time shows the phases too.
        phases=phases(f"Phases of {case.id}", spent) if spent and charts and not memory else None,
        memory=memory,
        steps=_histogram(case) if charts else None,
        ranks=rank_chart(case) if charts else None,
        delta=delta if charts else None,
        phase_times=[(name, duration(seconds)) for name, seconds in spent],
        measured=measured(case, record, ratio) if record else [],
        trained=trained(case, record) if record else [],
    )


def _summary(case: CaseView, ratio: Speedup | None) -> str:
    said = [si(case.throughput, case.unit)] if case.throughput is not None else []
    said += [f"{times(ratio.value)} eager"] if ratio and case.column.mode != "eager" else []
    return " · ".join(said)


def _message(record: Record | None, cause: str | None) -> str | None:
    """The whole error text, where the cause shows only its first line."""
    if record is None or record.error is None:
        return None
    text = record.error.message.strip()
    return shorten(text, 4000) if cause is None or text not in cause else None


def _phase_times(record: Record | None) -> list[tuple[str, float]]:
    phase = record.phases if record else None
    if phase is None:
        return []
    named = [
        ("import", phase.import_),
        ("build", phase.build),
        ("first step, compile", phase.compile),
        ("warm-up", phase.warmup),
        ("timed", phase.timed),
        ("evaluate", phase.evaluate),
    ]
    return [(name, seconds) for name, seconds in named if math.isfinite(seconds) and seconds >= 0]


def _capacity(cases: Sequence[CaseView]) -> int | None:
    """The memory that there is: a run is of one device, and a case that failed has not told it."""
    known = (case.record.memory.capacity_bytes for case in cases if case.record and case.record.memory)
    return next((found for found in known if found is not None), None)


def _timeline(case: CaseView, capacity: int | None) -> Markup | None:
    memory = case.record.memory if case.record else None
    limit = memory.capacity_bytes if memory and memory.capacity_bytes is not None else capacity
    return timeline(f"Memory of {case.id}", case.timeline, case.column.ink, limit) if case.timeline else None


def _histogram(case: CaseView) -> Markup | None:
    if case.series is None:
        return None
    # step_seconds has no entry for step 0.
    timed = case.series.step_seconds[max(0, case.series.first_timed_step - 1) :]
    return histogram(f"Step times of {case.id}", timed, case.column.ink)
