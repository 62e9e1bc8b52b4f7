"""The table of all cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llmbench.report.format import NOTHING, duration, is_finite, number, of_limit, percent, plus_minus, si, size, times
from llmbench.report.run.cases import CaseView
from llmbench.report.run.speedup import Speedup
from llmbench.report.run.summary import Calm
from llmbench.report.verdict import URGENCY
from llmbench.results.schema import Record


@dataclass(frozen=True)
class Cell:
    """``value`` is what the column is sorted by."""

    text: str
    value: float | None

    @property
    def key(self) -> str | None:
        return None if self.value is None else f"{self.value:.7g}"


@dataclass(frozen=True)
class TableColumn:
    title: str
    read: Callable[[CaseView, Speedup | None], Cell]


def _of_record(title: str, get: Callable[[Record], float | None], show: Callable[[float | None], str]) -> TableColumn:
    def read(case: CaseView, _: Speedup | None) -> Cell:
        value = get(case.record) if case.record else None
        return Cell(show(value), value if is_finite(value) else None)

    return TableColumn(title, read)


_COLUMNS = (
    TableColumn("Throughput", lambda case, _: Cell(si(case.throughput, case.unit), case.throughput)),
    TableColumn("±95 %", lambda case, _: Cell(plus_minus(case.uncertainty), case.uncertainty)),
    TableColumn("Speed-up", lambda _, ratio: Cell(times(ratio.value), ratio.value) if ratio else Cell(NOTHING, None)),
    _of_record("Step median", lambda r: r.step_seconds.median if r.step_seconds else None, duration),
    _of_record("Step p95", lambda r: r.step_seconds.p95 if r.step_seconds else None, duration),
    _of_record("First step", lambda r: r.phases.compile if r.phases else None, duration),
    TableColumn("Peak memory", lambda case, _: Cell(size(case.peak_bytes), case.peak_bytes)),
    _of_record("Energy", lambda r: r.energy.joules if r.energy else None, lambda value: si(value, "J")),
    _of_record("MFU", lambda r: r.mfu, percent),
    _of_record("Scaling", lambda r: r.scaling.efficiency if r.scaling else None, percent),
    _of_record("Final loss", lambda r: r.loss.final if r.loss else None, lambda value: number(value, 4)),
    _of_record("Held-out loss", lambda r: r.loss.eval if r.loss else None, lambda value: number(value, 4)),
    TableColumn("Parity", lambda case, _: _parity(case)),
    _of_record(
        "Steps", lambda r: r.throughput.n if r.throughput else None, lambda n: NOTHING if n is None else f"{n:.0f}"
    ),
)


def _parity(case: CaseView) -> Cell:
    """The decisive check's value as a share of its limit."""
    found = case.record.parity if case.record else None
    if found is None:
        return Cell(NOTHING, None)
    share = found.value / found.limit if found.value is not None and found.limit else None
    return Cell(of_limit(found.value, found.limit), share if is_finite(share) else None)


@dataclass(frozen=True)
class TableRow:
    case: CaseView
    cells: list[Cell]
    urgency: int


@dataclass(frozen=True)
class CalmRow:
    """Cases without a number that share a cause, in one row; ``numbers`` are theirs among the records."""

    group: Calm
    numbers: list[int]
    urgency: int


@dataclass(frozen=True)
class Table:
    titles: list[str]
    rows: list[TableRow]
    calm: list[CalmRow]


def table(cases: Sequence[CaseView], calm: Sequence[Calm], speedups: Mapping[str, Speedup]) -> Table:
    """The cases that ran, a column that none fills left out; then the groups of those that did not."""
    cells = [[column.read(case, speedups.get(case.id)) for column in _COLUMNS] for case in cases]
    filled = [index for index in range(len(_COLUMNS)) if any(row[index].text != NOTHING for row in cells)]
    rows = [
        TableRow(case, [row[index] for index in filled], URGENCY.index(case.verdict.key))
        for case, row in zip(cases, cells, strict=True)
    ]
    groups = [
        CalmRow(
            group,
            [case.number for case in group.cases if case.number is not None],
            URGENCY.index(group.verdict.key),
        )
        for group in calm
    ]
    return Table([_COLUMNS[index].title for index in filled], rows, groups)
