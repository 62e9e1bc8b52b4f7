"""What was measured of one case, as names and texts: only what there is."""

from __future__ import annotations

import math

from llmbench.report.format import (
    NOTHING,
    count,
    duration,
    number,
    percent,
    plus_minus,
    si,
    size,
    times,
    timestamp,
)
from llmbench.report.run.cases import CaseView
from llmbench.report.run.memory import memory_parts
from llmbench.report.run.nodes import lagging
from llmbench.report.run.section import Facts, Section, filled
from llmbench.report.run.speedup import Speedup
from llmbench.results.schema import Compile, Hardware, Memory, Peak, Range, Rank, Record, Sampling

MOST_RANKS = 16
"""Rows in a table of ranks: of more, the slowest."""


def measured(case: CaseView, record: Record, ratio: Speedup | None) -> list[Section]:
    """Speed, compiling, memory, hardware and ranks."""
    return filled(
        [
            Section("Speed", _speed(case, record, ratio), _peaks(record)),
            _compiling(record.compile),
            Section("Memory", _memory(case, record)),
            Section("Hardware", _hardware(record)),
            _ranks(record),
        ]
    )


def _speed(case: CaseView, record: Record, ratio: Speedup | None) -> Facts:
    facts = [("ran", _when(record))]
    if record.throughput:
        low, high = record.throughput.ci95
        bounds = f"95 % interval {si(low)} to {si(high)}, {record.throughput.n} steps"
        facts.append(("throughput", f"{si(case.throughput, case.unit)} ({bounds})"))
    if record.sampling:
        facts.append(("sampling", _sampling(record.sampling)))
    if ratio and ratio.interval:
        low, high = ratio.interval
        told = "; faster or slower cannot be told" if ratio.undecided else ""
        facts.append(("speed-up over eager", f"{times(ratio.value)} ({times(low)} to {times(high)}{told})"))
    if record.scaling:
        found = record.scaling
        facts.append(("scaling efficiency", f"{percent(found.efficiency)} of {found.reference} ({found.kind})"))
    if record.step_seconds:
        low, high = record.step_seconds.ci95
        mean = f"mean {duration(record.step_seconds.mean)} ({duration(low)} to {duration(high)})"
        facts.append(("step time", f"median {duration(record.step_seconds.median)}, {mean}"))
    if record.noise:
        # Of a noisy case the cause stands above.
        cause = f": {record.noise.cause}" if record.noise.cause and case.verdict.key != "noisy" else ""
        facts.append(("noise", f"{record.noise.verdict}, step times vary by {percent(record.noise.cv)}{cause}"))
    if record.communication:
        found_share = f"{percent(record.communication.share)} of a step"
        text = f"{duration(record.communication.seconds_per_step)}, {found_share} ({record.communication.source})"
        facts.append(("communication", text))
    return [
        *facts,
        ("input wait", duration(record.input_wait_seconds)),
        ("TFLOP/s", number(record.tflops)),
        ("MFU", _share(record.mfu, record.peak)),
        ("share of measured peak", _share(record.mfu_of_measured_peak, record.measured_peak)),
    ]


def _when(record: Record) -> str:
    known = record.wall_seconds is not None, record.started_at is not None
    took, began = duration(record.wall_seconds), f"from {timestamp(record.started_at)}"
    return ", ".join(text for text, there in zip((took, began), known, strict=True) if there) or NOTHING


def _sampling(found: Sampling) -> str:
    """Target, what was reached, after how many steps, and what the budget was."""
    if not found.reached:
        when = f" not reached within the budget of {duration(found.budget_seconds)}"
    else:
        when = f" reached after {found.steps_to_target}" if found.steps_to_target is not None else " reached"
    extra = f", {found.extra_steps} beyond the training" if found.extra_steps > 0 else ""
    window = f"{count(found.steps, 'step')}, {duration(found.seconds)}{extra}"
    return f"{plus_minus(found.half_width)} in {window}; {plus_minus(found.target)}{when}"


def _share(share: float | None, peak: Peak | None) -> str:
    if share is None:
        return NOTHING
    return percent(share, 3) + (f" of {number(peak.tflops)} TFLOP/s" if peak else "")


def _peaks(record: Record) -> Facts:
    """Where the peaks come from."""
    known = [peak for peak in (record.peak, record.measured_peak) if peak]
    return [(f"{number(peak.tflops)} TFLOP/s", peak.source) for peak in known]


def _compiling(found: Compile | None) -> Section:
    if found is None:
        return Section("Compiling", [])
    when = f", {timestamp(found.cold_at)}" if found.cold_at else ""
    cold = duration(found.cold_seconds)
    return Section(
        "Compiling",
        [
            ("cold cache", cold if cold == NOTHING else cold + when),
            ("warm cache", duration(found.warm_seconds)),
            ("graphs", str(found.graphs)),
            ("graph breaks", str(found.graph_breaks)),
            ("recompilations", str(found.recompiles)),
        ],
        items=found.reasons[:10],
    )


def _memory(case: CaseView, record: Record) -> Facts:
    memory = record.memory
    source = [("over time", case.timeline.source)] if case.timeline else []
    if memory is None:
        return source
    parts = [(f"peak, {name}", size(amount)) for name, amount in memory_parts(record)]
    resident = size(memory.peak_rss_bytes) if memory.peak_allocated_bytes is not None else NOTHING
    return [
        *parts,
        ("resident at most", resident),
        ("device in use", size(memory.device_used_bytes)),
        ("capacity", size(memory.capacity_bytes)),
        *_split(memory),
        ("planned in all", size(memory.estimate_bytes)),
        *source,
    ]


def _split(memory: Memory) -> Facts:
    """Each part as measured, beside the estimate of ``--plan``."""
    facts = []
    for name in ("parameters", "gradients", "optimizer", "activations"):
        found = getattr(memory.split, name) if memory.split else None
        planned = getattr(memory.estimate, name) if memory.estimate else None
        if found is None:
            text = f"not measured, planned {size(planned)}" if planned is not None else NOTHING
        else:
            text = size(found) + (f", planned {size(planned)}" if planned is not None else "")
        facts.append((name, text))
    return facts


def _hardware(record: Record) -> Facts:
    return [("device", record.device), *_state(record.hardware), ("energy", _energy(record))]


def _state(found: Hardware | None) -> Facts:
    if found is None:
        return []
    busy = found.utilization
    return [
        ("clock", _range(found.clock_mhz, "MHz")),
        ("memory clock", _range(found.memory_clock_mhz, "MHz")),
        ("temperature", _range(found.temperature_celsius, "°C")),
        ("power", _range(found.power_watts, "W")),
        ("busy", f"{percent(busy.mean)} ({percent(busy.low)} to {percent(busy.high)})" if busy else NOTHING),
        ("clock held down by", ", ".join(found.throttled) or NOTHING),
        ("samples", str(found.samples)),
        ("sampled from", found.source),
        ("not known", found.reason or NOTHING),
    ]


def _range(found: Range | None, unit: str) -> str:
    if found is None:
        return NOTHING
    return f"{number(found.mean)} {unit} ({number(found.low)} to {number(found.high)})"


def _energy(record: Record) -> str:
    if record.energy:
        return f"{si(record.energy.joules, 'J')} ({record.energy.source})"
    return f"not measured: {record.energy_reason}" if record.energy_reason else NOTHING


def _ranks(record: Record) -> Section:
    """The ranks one by one; host and device once where all share them."""
    if not record.ranks:
        return Section("Ranks", [])
    facts = [(name, next(iter(values))) for name, values in _places(record.ranks).items() if len(values) == 1]
    apart = [name for name, values in _places(record.ranks).items() if len(values) > 1]
    shown = sorted(record.ranks, key=lambda rank: -_finite(rank.window_seconds))[:MOST_RANKS]
    columns = {
        # Where the steps are known they tell the same, and are easier to hold against each other.
        "timed": [] if _stepwise(shown) else [duration(rank.window_seconds) for rank in shown],
        "step": [duration(rank.step_median_seconds) for rank in shown],
        "p95": [duration(rank.step_p95_seconds) for rank in shown],
        "communication": [duration(rank.communication_seconds) for rank in shown],
        "memory": [
            size(rank.peak_rss_bytes if rank.peak_allocated_bytes is None else rank.peak_allocated_bytes)
            for rank in shown
        ],
    }
    told = {head: cells for head, cells in columns.items() if any(cell != NOTHING for cell in cells)}
    order = sorted(range(len(shown)), key=lambda index: shown[index].rank)
    rows = [
        [str(shown[index].rank), *(getattr(shown[index], name) for name in apart), *(c[index] for c in told.values())]
        for index in order
    ]
    facts.append(("spread of their time", percent(record.rank_spread)))
    if slowest := lagging(record):
        facts.append(("slowest", slowest))
    if len(record.ranks) > len(shown):
        facts.append(("shown", f"the {len(shown)} slowest of {len(record.ranks)}"))
    return Section("Ranks", facts, heads=["rank", *apart, *told], rows=rows)


def _stepwise(ranks: list[Rank]) -> bool:
    return all(rank.step_median_seconds is not None for rank in ranks)


def _places(ranks: list[Rank]) -> dict[str, set[str]]:
    return {name: {getattr(rank, name) for rank in ranks} for name in ("host", "device")}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
