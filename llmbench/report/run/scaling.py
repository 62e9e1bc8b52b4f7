"""Throughput and efficiency by world size, where a workload has several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.efficiency import Efficiency, efficiencies
from llmbench.report.format import NOTHING, percent, plus_minus, si
from llmbench.report.run.cases import CaseView
from llmbench.report.run.pick import MOST

_ABSURD = 1e3  # no efficiency: an axis that holds it shows nothing else


@dataclass(frozen=True)
class ScalingRow:
    """One mode; two cells for each world size: throughput with half its interval, and efficiency."""

    mode: str
    cases: list[CaseView]
    cells: list[str]


@dataclass(frozen=True)
class ScalingTable:
    """Of one workload.

    Attributes:
        kind: strong or weak, or both in words.
        chart: None where no efficiency is known.
        undrawn: modes that the chart has no room for: those that scale worst.
    """

    heads: list[str]
    rows: list[ScalingRow]
    kind: str
    chart: Markup | None
    undrawn: int


def scaling(cases: Sequence[CaseView]) -> ScalingTable | None:
    """Of one workload. None where no mode has an efficiency, and none was measured at two world sizes."""
    by_mode: dict[str, dict[int, CaseView]] = {}
    for case in cases:
        if case.throughput is not None:
            by_mode.setdefault(case.column.mode, {})[case.column.world_size] = case
    told = {mode: found for mode, found in by_mode.items() if len(found) > 1 or any(map(_efficiency, found.values()))}
    if not told:
        return None
    sizes = sorted({size for found in told.values() for size in found})
    shared = any(_share(case) for found in told.values() for case in found.values())
    heads = [head for size in sizes for head in _heads(size, size == sizes[0], shared)]
    rows = [
        ScalingRow(
            mode,
            list(found.values()),
            [cell for size in sizes for cell in _cells(found.get(size), size == sizes[0], shared)],
        )
        for mode, found in told.items()
    ]
    kinds = {
        case.record.scaling.kind
        for found in told.values()
        for case in found.values()
        if case.record and case.record.scaling
    }
    lines = [line for mode, found in told.items() if (line := _line(mode, found))]
    drawn = sorted(lines, key=lambda line: -line.values[-1][1])[:MOST]
    name = f"{cases[0].workload} {cases[0].variant}".strip()
    chart = efficiencies(f"Scaling efficiency of {name} by the number of ranks", drawn) if drawn else None
    return ScalingTable(heads, rows, " and ".join(sorted(kinds)), chart, len(lines) - len(drawn))


def _line(mode: str, found: Mapping[int, CaseView]) -> Efficiency | None:
    """From the size that the others are held against; None where no efficiency is known."""
    known = {
        size: case.record.scaling
        for size, case in found.items()
        if case.counts and case.record and case.record.scaling and 0 <= case.record.scaling.efficiency < _ABSURD
    }
    reference = min((size for size in found if size not in known), default=1)
    values = [(reference, 1.0), *((size, known[size].efficiency) for size in sorted(known) if size > reference)]
    return Efficiency(mode, next(iter(found.values())).column.ink, values) if len(values) > 1 else None


def _heads(size: int, first: bool, shared: bool) -> list[str]:
    if first:
        return [f"×{size}"]
    return [f"×{size}", "efficiency", *(["in communication"] if shared else [])]


def _cells(case: CaseView | None, first: bool, shared: bool) -> list[str]:
    columns = 1 if first else 3 if shared else 2
    if case is None:
        return [""] * columns
    mark = "" if case.counts else f" {case.verdict.symbol} {case.verdict.word}"
    cells = [f"{si(case.throughput)} {plus_minus(case.uncertainty)}{mark}", _efficiency(case) or NOTHING]
    return [*cells, _share(case) or NOTHING][:columns]


def _efficiency(case: CaseView) -> str | None:
    found = case.record.scaling if case.record and case.counts else None
    return percent(found.efficiency) if found else None


def _share(case: CaseView) -> str | None:
    found = case.record.communication if case.record else None
    return percent(found.share) if found else None
