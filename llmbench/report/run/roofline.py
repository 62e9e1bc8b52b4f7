"""Cases against the measured peaks of the machine: arithmetic, and memory where its bandwidth was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.bars import Bar, bars
from llmbench.report.charts.roofline import Point, Roof, frame, roofline
from llmbench.report.format import number, percent, size
from llmbench.report.run.cases import CaseView
from llmbench.report.run.kinds import kind
from llmbench.report.run.matrix import Matrix
from llmbench.report.run.pareto import SHAPE_OF
from llmbench.report.run.pick import picked
from llmbench.results.schema import Record
from llmbench.suite.modes import EAGER, MODES, arithmetic

_MOST = 1e30  # beyond it nothing was measured, and an axis would show nothing else


@dataclass(frozen=True)
class RoofView:
    workload: str
    chart: Markup


@dataclass(frozen=True)
class RooflineSection:
    """All workloads.

    Attributes:
        bandwidth: in words; None where it was not measured. Then the charts are shares of the measured peaks.
        left_out: how many cases are not drawn, because a workload has more than a chart can show.
    """

    views: list[RoofView]
    bandwidth: str | None
    left_out: int


def roofline_section(table: Matrix) -> RooflineSection | None:
    """None where no case has a share of a measured peak."""
    cases = {_name(row.workload, row.variant): [one for one in row.cases if _share(one)] for row in table.rows}
    drawn = {name: picked(found) for name, found in cases.items() if found}
    if not drawn:
        return None
    left_out = sum(map(len, cases.values())) - sum(map(len, drawn.values()))
    bandwidth = _bandwidth([case for found in drawn.values() for case in found])
    points = {name: [(case, _point(case)) for case in found] for name, found in drawn.items()}
    known = [point for found in points.values() for _, point in found if point]
    if bandwidth is None or not known:
        return RooflineSection([_shares(name, found) for name, found in drawn.items()], None, left_out)
    roofs = _roofs([case for found in drawn.values() for case in found])
    ends = frame(known, roofs, bandwidth)
    views = []
    for name, found in points.items():
        told = [point for _, point in found if point]
        if told:
            views.append(RoofView(name, roofline(f"Roofline of {name}", told, roofs, bandwidth, ends)))
    return RooflineSection(views, _per_second(bandwidth), left_out)


def bytes_moved(record: Record) -> float | None:
    """Bytes that one rank's memory moves in a step, at the least; None where a part is not known.

    Parameters, gradients and the state of the optimizer are each read and written once; activations too, for every
    micro-batch. Each is as measured, or else as ``--plan`` estimates it.
    """
    memory = record.memory
    if memory is None:
        return None
    held: dict[str, int] = {}
    for name in ("parameters", "gradients", "optimizer", "activations"):
        known = [getattr(split, name) for split in (memory.split, memory.estimate) if split]
        found = next((value for value in known if value is not None and 0 <= value < _MOST), None)
        if found is None:
            return None
        held[name] = found
    repeats = record.config.get("grad_accum")
    batches = repeats if isinstance(repeats, int) and 1 <= repeats <= 10**6 else 1
    moved = 2.0 * (sum(held.values()) + (batches - 1) * held["activations"])
    return moved if moved > 0 else None


def intensity(record: Record) -> float | None:
    """FLOPs for each byte moved, at the most; of one rank."""
    moved = bytes_moved(record)
    flops = record.flops_per_step
    if moved is None or flops is None or not _positive(flops) or record.world_size < 1:
        return None
    return flops / record.world_size / moved


def arithmetic_of(mode: str) -> str:
    """Of a mode as a record spells it."""
    known = mode == EAGER or all(part in MODES for part in mode.split("+"))
    return arithmetic(mode) if known else mode


def _name(workload: str, variant: str) -> str:
    return f"{workload} {variant}".strip()


def _positive(value: float | None) -> bool:
    return value is not None and 1 / _MOST < value < _MOST


def _reached(case: CaseView) -> float | None:
    """TFLOP/s of one rank."""
    record = case.record
    if record is None or record.tflops is None or record.world_size < 1:
        return None
    reached = record.tflops / record.world_size
    return reached if _positive(reached) else None


def _share(case: CaseView) -> float | None:
    """Of the measured peak of its arithmetic."""
    peak = case.record.measured_peak if case.record else None
    reached = _reached(case)
    if peak is None or reached is None or not _positive(peak.tflops):
        return None
    return reached / peak.tflops


def _bandwidth(cases: Sequence[CaseView]) -> float | None:
    """Bytes per second."""
    known = [case.record.measured_bandwidth for case in cases if case.record and case.record.measured_bandwidth]
    return next((found.bytes_per_second for found in known if _positive(found.bytes_per_second)), None)


def _per_second(bandwidth: float) -> str:
    return f"{number(bandwidth / 1e12)} TB/s" if bandwidth >= 1e12 else f"{number(bandwidth / 1e9)} GB/s"


def _roofs(cases: Sequence[CaseView]) -> list[Roof]:
    peaks: dict[str, float] = {}
    for case in cases:
        peak = case.record.measured_peak if case.record else None
        if peak and _positive(peak.tflops):
            peaks.setdefault(arithmetic_of(case.column.mode), peak.tflops)
    return [Roof(name, tflops) for name, tflops in peaks.items()]


def _point(case: CaseView) -> Point | None:
    reached, share = _reached(case), _share(case)
    found = intensity(case.record) if case.record else None
    if reached is None or share is None or found is None or not _positive(found):
        return None
    moved = bytes_moved(case.record) if case.record else None
    mark = "" if case.counts else case.verdict.symbol
    return Point(
        ink=case.column.ink,
        shape=SHAPE_OF[kind(case.column.mode)],
        intensity=found,
        tflops=reached,
        counts=case.counts,
        name=case.column.name,
        value=f"{mark} {percent(share)}".strip(),
        said=f"{case.column.name}: {number(reached)} TFLOP/s, {percent(share)} of the measured peak, "
        f"at most {number(found)} FLOP per byte ({size(moved)} a step)"
        + ("" if case.counts else f", {case.verdict.word}"),
    )


def _shares(name: str, cases: Sequence[CaseView]) -> RoofView:
    """Without a bandwidth: bars up to the roof of the case's own arithmetic."""
    rows = []
    for case in cases:
        share = _share(case) or 0.0
        peak = case.record.measured_peak if case.record else None
        roof = f" of {number(peak.tflops)} ({arithmetic_of(case.column.mode)})" if peak else ""
        mark = "" if case.counts else f" {case.verdict.symbol}"
        text = f"{percent(share)}{roof}{mark}"
        rows.append(Bar(case.column.name, case.column.ink, (share,), text, ghost=not case.counts))
    chart = bars(f"Share of the measured peak, {name}", rows, capacity=1.0, always=True)
    return RoofView(name, chart)
