"""Memory against speed of every workload: which modes are worth their memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.marks import SHAPES, full, mark
from llmbench.report.charts.pareto import Mark, front, pareto
from llmbench.report.format import short, si, size, times
from llmbench.report.palette import ink
from llmbench.report.run.cases import EAGER, CaseView
from llmbench.report.run.kinds import KINDS, kind
from llmbench.report.run.matrix import Matrix, Row
from llmbench.report.run.pick import MOST
from llmbench.report.run.speedup import base_of, ratio

SHAPE_OF = dict(zip(KINDS, SHAPES, strict=True))
"""By the kind of a mode."""

_MOST = 1e30  # beyond it nothing was measured, and an axis would show nothing else


@dataclass(frozen=True)
class ParetoView:
    """One workload; ``front`` names the cases that none beats, ``unnamed`` those for whose name there is no room."""

    workload: str
    chart: Markup
    front: list[str]
    unnamed: list[str]


def pareto_views(table: Matrix) -> list[ParetoView]:
    """Of the workloads of which two cases have a speed and a memory that count."""
    return [view for row in table.rows if (view := _view(row))]


def shape_legend(cases: Sequence[CaseView]) -> list[tuple[str, Markup]]:
    """The kinds of these cases, and the shape of their marks."""
    found = {kind(case.column.mode) for case in cases}
    return [(title, shape_sample(SHAPE_OF[title])) for title in KINDS if title in found]


def shape_sample(shape: str) -> Markup:
    return Markup('<svg width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">{}</svg>').format(
        full(ink(4), mark(shape, 6, 6))
    )


def _view(row: Row) -> ParetoView | None:
    base = base_of(row.cases)
    over_eager = base is not None and base.counts and _speed(base, base) is not None
    marks = [
        one for case in row.cases if (one := _mark(case, base if over_eager else None, alone=len(row.cases) <= MOST))
    ]
    if sum(one.counts for one in marks) < 2:
        return None
    name = f"{row.workload} {row.variant}".strip()
    unit = 1024.0 ** max(0, math.floor(math.log(max(one.memory for one in marks), 1024)))
    unit_name = next((case.unit for case in row.cases if case.unit), "")
    chart, lost = pareto(
        f"Memory against speed of {name}",
        marks,
        speed_name="speed-up over eager" if over_eager else unit_name,
        speed_text=(lambda value: f"{short(value)}×") if over_eager else si,
        memory_text=_tick,
        memory_unit=min(unit, 1024.0**4),
    )
    return ParetoView(name, chart, [one.name for one in front(marks)], lost)


def _tick(value: float) -> str:
    number, _, unit = size(value).partition(" ")
    return f"{short(float(number))} {unit}" if number.replace(".", "").isdigit() else size(value)


def _mark(case: CaseView, base: CaseView | None, *, alone: bool) -> Mark | None:
    """None without a speed or a memory; ``alone``: with so few others that its name has room."""
    memory, found = case.training_bytes, _speed(case, base)
    if found is None or memory is None or not 0 < memory < _MOST:
        return None
    speed, interval = found
    told = times(speed) if base else si(speed, case.unit)
    return Mark(
        name=case.column.name if case.counts else f"{case.column.name} {case.verdict.symbol}",
        ink=case.column.ink,
        shape=SHAPE_OF[kind(case.column.mode)],
        speed=speed,
        memory=float(memory),
        interval=interval,
        counts=case.counts,
        labelled=alone or case.column.mode == EAGER,
        said=f"{case.column.name}: {told}, {size(memory)}" + ("" if case.counts else f", {case.verdict.word}"),
    )


def _speed(case: CaseView, base: CaseView | None) -> tuple[float, tuple[float, float] | None] | None:
    """Over ``base`` where there is one, else as it is; with its interval. None for what is no speed."""
    record = case.record
    if record is None or record.throughput is None:
        return None
    if base is None:
        value, ends = record.throughput.value, record.throughput.ci95
        return (value, ends if all(map(_plausible, ends)) else None) if _plausible(value) else None
    found = ratio(record.throughput, base.record.throughput if base.record else None)
    if found is None or not _plausible(found.value):
        return None
    if case is base:
        return 1.0, None
    interval = found.interval
    return found.value, interval if interval and all(map(_plausible, interval)) else None


def _plausible(value: float) -> bool:
    return 1 / _MOST < value < _MOST
