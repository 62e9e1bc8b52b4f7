"""The section of a ladder: rung by rung, what each technique brought and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.bars import Bar, bars
from llmbench.report.format import (
    NOTHING,
    duration,
    number,
    of_limit,
    plus_minus,
    short,
    shorten,
    si,
    signed,
    size,
    times,
)
from llmbench.report.run.cases import CaseView
from llmbench.report.run.rungs import Ladder, Rung, ladders
from llmbench.report.run.speedup import Speedup
from llmbench.results.schema import Run


@dataclass(frozen=True)
class RungRow:
    """``cells`` of a rung that counts; of another one its ``reason``."""

    name: str
    case: CaseView
    cells: list[str]
    reason: str | None


@dataclass(frozen=True)
class LadderView:
    workload: str
    gist: str
    heads: list[str]
    rows: list[RungRow]
    speed: Markup
    memory: Markup


def ladder_views(run: Run, cases: Sequence[CaseView]) -> list[LadderView]:
    """One for each workload; none if the run is no ladder."""
    views = {case.id: case for case in cases}
    return [_view(ladder, views) for ladder in ladders(run, [case.record for case in cases if case.record])]


def _view(ladder: Ladder, cases: Mapping[str, CaseView]) -> LadderView:
    name = f"{ladder.workload} {ladder.variant}".strip()
    rungs = [(rung, cases[rung.case]) for rung in ladder.rungs]
    heads = ["Speed", "±95 %", "Over eager", "Over the rung before", "Memory", "Change", "Parity", "Of its limit"]
    compiled = any(second is not None for rung, _ in rungs for second in rung.compile_seconds)
    heads += ["Compile", "Warm"] if compiled else []
    return LadderView(
        workload=name,
        gist=_gist(ladder),
        heads=heads,
        rows=[
            RungRow(rung.name, case, _cells(rung, case)[: len(heads)], None)
            if rung.counts
            else RungRow(rung.name, case, [], shorten(rung.reason or NOTHING, 200))
            for rung, case in rungs
        ],
        speed=bars(f"Throughput of {name} over eager, by rung", [_speed(*both) for both in rungs]),
        memory=bars(f"Peak memory of the training of {name} by rung", [_memory(*both) for both in rungs]),
    )


def _gist(ladder: Ladder) -> str:
    """The fastest rung and the lightest one, against eager."""
    counting = [rung for rung in ladder.rungs if rung.counts]
    raced = [rung for rung in counting if rung.over_eager]
    eager = next((rung for rung in counting if rung.technique == "eager"), None)
    said = []
    if raced:
        best = max(raced, key=lambda rung: rung.over_eager.value if rung.over_eager else 0.0)
        said.append(f"fastest {best.name}: {times(best.over_eager.value)} eager" if best.over_eager else "")
    light = [rung for rung in counting if rung.memory_bytes is not None]
    if light and eager and eager.memory_bytes:
        least = min(light, key=lambda rung: rung.memory_bytes or 0)
        change = (least.memory_bytes or 0) / eager.memory_bytes - 1
        said.append(f"least memory {least.name}: {signed(change)} against eager" if least is not eager else "")
    return " · ".join(filter(None, said))


def _cells(rung: Rung, case: CaseView) -> list[str]:
    parity = rung.record.parity if rung.record else None
    cold, warm = rung.compile_seconds
    return [
        si(case.throughput, case.unit),
        plus_minus(case.uncertainty),
        _over(rung.over_eager),
        _over(rung.over_before),
        size(rung.memory_bytes),
        signed(rung.memory_change),
        f"{number(parity.value, 2)} of {short(parity.limit, 2)}" if parity else NOTHING,
        of_limit(parity.value, parity.limit) if parity else NOTHING,
        duration(cold),
        duration(warm),
    ]


def _over(ratio: Speedup | None) -> str:
    if ratio is None:
        return NOTHING
    return f"{times(ratio.value)} ≈" if ratio.undecided else times(ratio.value)


def _speed(rung: Rung, case: CaseView) -> Bar:
    """As multiples of eager, so that the ladders of all workloads read alike."""
    ink = case.column.ink
    if not rung.counts:
        return Bar(rung.name, ink, (), f"{case.verdict.symbol} {case.verdict.word}")
    if rung.technique == "eager" and rung.world_size == 1:
        return Bar(rung.name, ink, (1.0,), "1×")
    if rung.over_eager is None:
        return Bar(rung.name, ink, (), "no eager speed to hold it against")
    step = f", {signed(rung.over_before.value - 1)}" if rung.over_before else ""
    mark = " ≈" if rung.over_before and rung.over_before.undecided else ""
    text = f"{times(rung.over_eager.value)}{step}{mark}"
    return Bar(rung.name, ink, (rung.over_eager.value,), text, rung.over_eager.interval)


def _memory(rung: Rung, case: CaseView) -> Bar:
    ink = case.column.ink
    if not rung.counts or rung.memory_bytes is None:
        text = NOTHING if rung.counts else f"{case.verdict.symbol} {case.verdict.word}"
        return Bar(rung.name, ink, (), text)
    change = f", {signed(rung.memory_change)}" if rung.memory_change is not None else ""
    return Bar(rung.name, ink, (float(rung.memory_bytes),), f"{size(rung.memory_bytes)}{change}")
