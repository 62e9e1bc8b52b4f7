"""What was measured of one case, as names and texts: only what there is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmbench.report.format import (
    NOTHING,
    count,
    duration,
    flatten,
    number,
    of_limit,
    percent,
    plain,
    plus_minus,
    short,
    si,
    size,
    times,
    timestamp,
)
from llmbench.report.run.cases import CaseView
from llmbench.report.run.speedup import Speedup
from llmbench.report.run.workloads import memory_parts, metric_text, metric_title
from llmbench.results.schema import Compile, Hardware, Memory, ParityCheck, Peak, Range, Rank, Record, Sampling

CONFIGURATION = "Configuration"
RESULTS = frozenset({"Speed", "Training", "Parity", "Ranks"})
"""Sections whose facts are a case's own, even where another case says the same."""

MOST_RANKS = 16
"""Rows in a table of ranks: of more, the slowest."""

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        facts: what is so in this case.
        terms: what the words in the facts mean.
        heads, rows: a table.
        items: a list.
    """

    title: str
    facts: Facts
    terms: Facts = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    items: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.facts or self.terms or self.rows or self.items)

    def without(self, told: Mapping[str, str]) -> Section:
        """The section without these facts and terms."""
        facts, terms = ([fact for fact in some if told.get(fact[0]) != fact[1]] for some in (self.facts, self.terms))
        return replace(self, facts=facts, terms=terms)


def measured(case: CaseView, record: Record, ratio: Speedup | None) -> list[Section]:
    """Speed, compiling, memory, hardware and ranks."""
    return _filled(
        [
            Section("Speed", _speed(case, record, ratio), _peaks(record)),
            _compiling(record.compile),
            Section("Memory", _memory(record)),
            Section("Hardware", _hardware(record)),
            _ranks(record),
        ]
    )


def trained(case: CaseView, record: Record) -> list[Section]:
    """Training, parity and configuration."""
    return _filled(
        [
            Section("Training", _training(case, record)),
            _parity(record),
            Section("Began with", _beginning(record)),
            Section(CONFIGURATION, [(key, _setting(value)) for key, value in record.config.items()]),
        ]
    )


def _filled(sections: Iterable[Section]) -> list[Section]:
    told = (replace(one, facts=[fact for fact in one.facts if fact[1] != NOTHING]) for one in sections)
    return [section for section in told if not section.empty]


def _setting(value: Any) -> str:
    """A setting; those of the model as one line. What is unset says so by a dash that stays."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in flatten(value))
    return plain(value)


def _speed(case: CaseView, record: Record, ratio: Speedup | None) -> Facts:
    facts = [("ran", f"{duration(record.wall_seconds)}, from {timestamp(record.started_at)}")]
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
        cause = f": {record.noise.cause}" if record.noise.cause else ""
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


def _memory(record: Record) -> Facts:
    memory = record.memory
    if memory is None:
        return []
    parts = [(f"peak, {name}", size(amount)) for name, amount in memory_parts(record)]
    resident = size(memory.peak_rss_bytes) if memory.peak_allocated_bytes is not None else NOTHING
    return [
        *parts,
        ("resident at most", resident),
        ("device in use", size(memory.device_used_bytes)),
        ("capacity", size(memory.capacity_bytes)),
        *_split(memory),
        ("planned in all", size(memory.estimate_bytes)),
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
        ("samples", f"{found.samples} ({found.source})"),
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
        "timed": [duration(rank.window_seconds) for rank in shown],
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
    if len(record.ranks) > len(shown):
        facts.append(("shown", f"the {len(shown)} slowest of {len(record.ranks)}"))
    return Section("Ranks", facts, heads=["rank", *apart, *told], rows=rows)


def _places(ranks: list[Rank]) -> dict[str, set[str]]:
    return {name: {getattr(rank, name) for rank in ranks} for name in ("host", "device")}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _training(case: CaseView, record: Record) -> Facts:
    loss = record.loss
    facts = []
    if loss:
        finite = "finite" if loss.finite else "not finite"
        fell = "fell" if loss.learned else "did not fall"
        facts += [
            ("loss", f"{number(loss.first, 4)} → {number(loss.final, 4)}, {finite}, {fell}"),
            ("held-out loss", number(loss.eval, 4)),
        ]
    return [
        *facts,
        *((metric_title(name), metric_text(name, value)) for name, value in record.metrics.items()),
        ("log", record.log or NOTHING),
        ("series", case.series_fault or NOTHING),
    ]


def _beginning(record: Record) -> Facts:
    """What the training was given, and what else was made sure of."""
    known = record.parameters
    references = record.loss.references if record.loss else []
    return [
        ("parameters", f"{known.total:,}, {known.trainable:,} trainable" if known else NOTHING),
        ("FLOPs of a step", _flops(record)),
        *((f"{reference.name} ({reference.kind})", number(reference.value, 4)) for reference in references),
        *((name.replace("_", " "), plain(value)) for name, value in flatten(record.facts)),
    ]


def _parity(record: Record) -> Section:
    """Each check: what was compared with what, and how far it went of its limit."""
    found = record.parity
    if found is None:
        return Section("Parity", [])
    checks = found.checks or [found]  # records of an older llmbench hold one comparison only
    facts, terms = [], []
    for index, check in enumerate(checks):
        again = sum(other.reference == check.reference for other in checks[:index])
        name = f"against {check.reference}" + (f" ({again + 1})" if again else "")
        facts.append((name, _check(check)))
        terms.append((f"measure {name}", check.metric))
    if found.deterministic is not None:
        same = "bitwise the same" if found.deterministic else "not bitwise the same"
        terms.append(("eager fp32 twice", f"{same}, from the same weights and batches"))
    return Section("Parity", facts, terms)


def _flops(record: Record) -> str:
    if record.flops_per_step is None:
        return NOTHING
    return si(record.flops_per_step, "FLOP") + (f" ({record.flops_source})" if record.flops_source else "")


def _check(check: ParityCheck) -> str:
    value = "not finite" if check.value is None else number(check.value, 2)
    text = f"{check.verdict}: {value} of {short(check.limit, 2)}"
    text += f" ({of_limit(check.value, check.limit)})" if check.value is not None and check.limit else ""
    text += f", from step {check.step}" if check.step is not None else ""
    return text + (f", at {check.tensor}" if check.tensor else "")
