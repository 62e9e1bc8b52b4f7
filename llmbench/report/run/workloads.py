"""A panel for each workload: speeds, memory, loss curves, and what held-out data says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmbench.report.charts.bars import Bar, bars
from llmbench.report.charts.bars import height as bars_height
from llmbench.report.charts.lines import Curve, Reference, lines, smoothing_window, wants_log
from llmbench.report.format import NOTHING, amount, number, of_limit, percent, plus_minus, si
from llmbench.report.run.cases import EAGER, CaseView
from llmbench.report.run.matrix import Matrix, Row
from llmbench.report.run.memory import MemoryView, memory_view
from llmbench.report.run.pick import picked
from llmbench.report.run.scaling import ScalingTable, scaling
from llmbench.results.schema import Record


@dataclass(frozen=True)
class HeldOutRow:
    """Of a case, or of a reference (then ``case`` is None)."""

    name: str
    case: CaseView | None
    cells: list[str]


@dataclass(frozen=True)
class Panel:
    """One workload. ``facts`` says what was trained; ``left_out`` names the cases that are not drawn."""

    workload: str
    variant: str
    facts: str
    speed: Markup
    speed_unit: str
    memory: MemoryView
    loss: Markup
    loss_title: str
    held_out_heads: list[str]
    held_out: list[HeldOutRow]
    scaling: ScalingTable | None
    left_out: list[str]


def panels(table: Matrix) -> list[Panel]:
    return [_panel(row) for row in table.rows]


def _panel(row: Row) -> Panel:
    drawn = picked(row.cases)
    ids = {case.id for case in drawn}
    ran = [case for case in row.cases if case.verdict.key not in ("skipped", "missing")]
    curves = [
        Curve(case.column.name, case.column.ink, case.series.loss) for case in drawn if case.series and case.series.loss
    ]
    references = _references(row.cases)
    unit = next((case.unit for case in drawn if case.unit), "")
    heads, held_out = _held_out(drawn)
    tall = max(190, 2 * bars_height(len(drawn)) + 46)
    return Panel(
        workload=row.workload,
        variant=row.variant,
        facts=_facts(row.cases),
        speed=bars(f"Throughput of {row.workload} by mode, in {unit or 'no unit'}", [_speed(case) for case in drawn]),
        speed_unit=unit,
        memory=memory_view(row.workload, drawn),
        loss=lines(f"Training loss of {row.workload} by step and mode", curves, references, tall=min(tall, 420)),
        loss_title=_loss_title(curves, references),
        held_out_heads=heads,
        held_out=held_out,
        scaling=scaling(row.cases),
        left_out=[case.column.name for case in ran if case.id not in ids],
    )


def _facts(cases: Sequence[CaseView]) -> str:
    """Parameters, batch shape and steps, as far as the first record tells."""
    record = next((case.record for case in cases if case.record), None)
    if record is None:
        return "no record yet"
    config = record.config
    parameters = record.parameters
    said = []
    if parameters:
        share = parameters.trainable / parameters.total if parameters.total else 1.0
        said.append(f"{amount(parameters.total)} parameters" + (f", {percent(share)} trainable" if share < 1 else ""))
    # All modes of a workload train on the same batch, however they cut it.
    batch = "global_batch_size" if config.get("global_batch_size") is not None else "micro_batch_size"
    shape = [str(config[key]) for key in (batch, "sequence_length") if config.get(key) is not None]
    if shape:
        said.append(f"batch {' × '.join(shape)}")
    if config.get("steps") is not None:
        said.append(f"{config['steps']} steps")
    return " · ".join(said)


def _speed(case: CaseView) -> Bar:
    column, value = case.column, case.throughput
    if value is None or not math.isfinite(value):
        return Bar(column.name, column.ink, (), f"{case.verdict.symbol} {case.verdict.word}")
    mark = "" if case.verdict.key == "ok" else f" {case.verdict.symbol}"
    word = "" if case.counts else f" {case.verdict.word}"
    text = f"{si(value)} {plus_minus(case.uncertainty)}{mark}{word}"
    return Bar(column.name, column.ink, (value,), text, case.interval, ghost=not case.counts)


def _references(cases: Sequence[CaseView]) -> list[Reference]:
    """Of the first case that has any: all modes of a workload train on the same data."""
    for case in cases:
        if case.record and case.record.loss and case.record.loss.references:
            return [Reference(one.name, one.value, one.kind == "floor") for one in case.record.loss.references]
    return []


def _loss_title(curves: Sequence[Curve], references: Sequence[Reference]) -> str:
    if not curves:
        return "Training loss: no curve was recorded"
    window = smoothing_window(curves)
    notes = ["logarithmic"] if wants_log(curves, references) else []
    notes += [f"bold: median of {window} steps"] if window else []
    return "Training loss by step" + (f" ({', '.join(notes)})" if notes else "")


def _held_out(cases: Sequence[CaseView]) -> tuple[list[str], list[HeldOutRow]]:
    """Eval loss and the metrics of the field by mode, and the references in the same columns."""
    known = [case for case in cases if case.record and (case.record.loss or case.record.metrics)]
    names = list(dict.fromkeys(name for case in known if case.record for name in case.record.metrics))
    rows = [HeldOutRow(case.column.name, case, _held_out_cells(case, names)) for case in known]
    for reference in _references(cases):
        name = f"{reference.name} ({'floor' if reference.floor else 'baseline'})"
        cells = [number(reference.value, 4), *(_of_reference(name, reference.value) for name in names), ""]
        rows.append(HeldOutRow(name, None, cells))
    return ["loss", *(metric_title(name) for name in names), "parity"], rows


def _held_out_cells(case: CaseView, names: Sequence[str]) -> list[str]:
    record = case.record
    if record is None:
        return []
    loss = number(record.loss.eval, 4) if record.loss else NOTHING
    return [loss, *(metric_text(name, record.metrics.get(name)) for name in names), _parity(record)]


def _of_reference(metric: str, loss: float) -> str:
    """A loss in nats per token is a perplexity of exp(loss); of other metrics a reference says nothing."""
    if metric == "perplexity":
        return metric_text(metric, math.exp(loss) if loss < 700 else math.inf)
    return metric_text(metric, loss) if metric == "mse" else NOTHING


def metric_title(name: str) -> str:
    return {"r2": "R²", "mse": "MSE"}.get(name, name.replace("_", " "))


def metric_text(name: str, value: float | None) -> str:
    if value is None:
        return NOTHING
    return percent(value, 3) if name.endswith(("accuracy", "fraction")) else number(value, 4)


def _parity(record: Record) -> str:
    if record.parity is None:
        return "reference" if record.mode == EAGER and record.status == "ok" else NOTHING
    mark = "✓" if record.parity.verdict == "pass" else "✖"
    return f"{mark} {of_limit(record.parity.value, record.parity.limit)}"
