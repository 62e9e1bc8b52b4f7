"""What unfolds for one case."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from llmbench.report.charts.strips import histogram, phases
from llmbench.report.format import (
    NOTHING,
    duration,
    flatten,
    number,
    percent,
    plain,
    short,
    shorten,
    si,
    size,
    times,
    timestamp,
)
from llmbench.report.run.cases import CaseView
from llmbench.report.run.speedup import Speedup
from llmbench.report.run.summary import explain
from llmbench.report.run.workloads import memory_parts, metric_text, metric_title
from llmbench.results.schema import Peak, Record


@dataclass(frozen=True)
class Detail:
    """What is known of one case. ``speed``, ``training`` and ``config`` are names and texts."""

    case: CaseView
    summary: str
    cause: str | None
    hint: str | None
    message: str | None
    phases: Markup | None
    steps: Markup | None
    phase_times: list[tuple[str, str]]
    speed: list[tuple[str, str]]
    training: list[tuple[str, str]]
    config: list[tuple[str, str]]


def detail(case: CaseView, ratio: Speedup | None) -> Detail:
    record = case.record
    cause, hint = explain(case) if case.verdict.key != "ok" else (None, None)
    times = _phase_times(record)
    return Detail(
        case=case,
        summary=_summary(case, ratio),
        cause=cause,
        hint=hint,
        message=_message(record, cause),
        phases=phases(f"Phases of {case.id}", times) if times else None,
        steps=_histogram(case),
        phase_times=[(name, duration(seconds)) for name, seconds in times],
        speed=_told(_speed(case, record, ratio)) if record else [],
        training=_told(_training(case, record)) if record else [],
        config=[(key, _setting(value)) for key, value in (record.config if record else {}).items()],
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


def _setting(value: Any) -> str:
    """A setting; those of the model as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in flatten(value))
    return plain(value)


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


def _histogram(case: CaseView) -> Markup | None:
    if case.series is None:
        return None
    # step_seconds has no entry for step 0.
    timed = case.series.step_seconds[max(0, case.series.first_timed_step - 1) :]
    return histogram(f"Step times of {case.id}", timed, case.column.ink)


def _told(facts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, text) for name, text in facts if text != NOTHING]


def _speed(case: CaseView, record: Record, ratio: Speedup | None) -> list[tuple[str, str]]:
    return [
        ("started", timestamp(record.started_at)),
        ("wall time", duration(record.wall_seconds)),
        ("device", record.device),
        *_speed_facts(case, record, ratio),
        *_memory_facts(record),
        ("energy", _energy(record)),
    ]


def _training(case: CaseView, record: Record) -> list[tuple[str, str]]:
    return [
        *_loss_facts(record),
        *((metric_title(name), metric_text(name, value)) for name, value in record.metrics.items()),
        *_trust_facts(record),
        *((name.replace("_", " "), plain(value)) for name, value in flatten(record.facts)),
        ("log", record.log or NOTHING),
        ("series", case.series_fault or record.series or NOTHING),
    ]


def _speed_facts(case: CaseView, record: Record, ratio: Speedup | None) -> list[tuple[str, str]]:
    facts = []
    if record.throughput:
        low, high = record.throughput.ci95
        bounds = f"95 % interval {si(low)} to {si(high)}, {record.throughput.n} steps"
        facts.append(("throughput", f"{si(case.throughput, case.unit)} ({bounds})"))
    if ratio and ratio.interval:
        low, high = ratio.interval
        told = "; faster or slower cannot be told" if ratio.undecided else ""
        facts.append(("speed-up over eager", f"{times(ratio.value)} ({times(low)} to {times(high)}{told})"))
    if record.step_seconds:
        low, high = record.step_seconds.ci95
        mean = f"mean {duration(record.step_seconds.mean)} ({duration(low)} to {duration(high)})"
        facts.append(("step time", f"median {duration(record.step_seconds.median)}, {mean}"))
    facts += [
        ("input wait", duration(record.input_wait_seconds)),
        ("FLOPs of a step", si(record.flops_per_step, "FLOP")),
        ("TFLOP/s", number(record.tflops)),
        ("MFU", _share(record.mfu, record.peak)),
        ("share of measured peak", _share(record.mfu_of_measured_peak, record.measured_peak)),
    ]
    return facts


def _share(share: float | None, peak: Peak | None) -> str:
    if share is None:
        return NOTHING
    return percent(share, 3) + (f" of {number(peak.tflops)} TFLOP/s ({peak.source})" if peak else "")


def _memory_facts(record: Record) -> list[tuple[str, str]]:
    memory = record.memory
    if memory is None:
        return []
    facts = [(f"memory, {name}", size(amount)) for name, amount in memory_parts(record)]
    return [
        *facts,
        ("resident at most", size(memory.peak_rss_bytes)),
        ("device in use", size(memory.device_used_bytes)),
        ("capacity", size(memory.capacity_bytes)),
        ("estimated beforehand", size(memory.estimate_bytes)),
    ]


def _energy(record: Record) -> str:
    if record.energy:
        return f"{si(record.energy.joules, 'J')} ({record.energy.source})"
    return f"not measured: {record.energy_reason}" if record.energy_reason else NOTHING


def _loss_facts(record: Record) -> list[tuple[str, str]]:
    loss = record.loss
    if loss is None:
        return []
    finite = "finite" if loss.finite else "not finite"
    fell = "fell" if loss.learned else "did not fall"
    return [
        ("loss", f"{number(loss.first, 4)} → {number(loss.final, 4)}, {finite}, {fell}"),
        ("held-out loss", number(loss.eval, 4)),
        *((f"{reference.name} ({reference.kind})", number(reference.value, 4)) for reference in loss.references),
    ]


def _trust_facts(record: Record) -> list[tuple[str, str]]:
    facts = []
    if record.parity:
        parity = record.parity
        text = f"{parity.verdict}: {parity.metric} {number(parity.value)}, at most {short(parity.limit)}"
        facts.append(("parity", f"{text}, against {parity.reference}"))
    if record.noise:
        cause = f": {record.noise.cause}" if record.noise.cause else ""
        facts.append(("noise", f"{record.noise.verdict}, step times vary by {percent(record.noise.cv)}{cause}"))
    return facts
