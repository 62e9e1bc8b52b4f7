"""The table of all benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmbench.report.benchmarks.views import VERDICTS, WORKS, BenchmarkView, Work
from llmbench.report.format import NOTHING, amount, duration, percent, plus_minus, si


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | None


@dataclass(frozen=True)
class Column:
    title: str
    read: Callable[[BenchmarkView], float | None]
    show: Callable[[float | None], str]

    def cell(self, view: BenchmarkView) -> Cell:
        value = self.read(view)
        return Cell(self.show(value), value)


def _count(value: float | None) -> str:
    return NOTHING if value is None else amount(int(value))


def _of_rate(work: Work) -> Column:
    def read(view: BenchmarkView) -> float | None:
        return next((rate.value for rate in view.rates if rate.work == work), None)

    return Column("bus B/s" if work.key == "bus_bytes" else work.unit, read, si)


_COLUMNS = (
    Column("Median", lambda view: view.stats.median, duration),
    Column("±95 %", lambda view: view.uncertainty, plus_minus),
    Column("IQR", lambda view: view.spread, percent),
    Column("Min", lambda view: view.stats.min, duration),
    Column("Max", lambda view: view.stats.max, duration),
    Column("Mean", lambda view: view.stats.mean, duration),
    Column("Deviation", lambda view: view.stats.stddev, duration),
    Column("ops/s", lambda view: view.stats.ops, si),
    Column("Rounds", lambda view: view.stats.rounds, _count),
    Column("Iterations", lambda view: view.stats.iterations, _count),
    *(_of_rate(work) for work in WORKS.values()),
)


@dataclass(frozen=True)
class Row:
    view: BenchmarkView
    cells: list[Cell]
    urgency: int


@dataclass(frozen=True)
class Table:
    titles: list[str]
    rows: list[Row]


def table(seen: Sequence[BenchmarkView]) -> Table:
    """All benchmarks; a column that none fills is left out."""
    columns = [column for column in _COLUMNS if any(column.read(view) is not None for view in seen)]
    urgency = list(VERDICTS)
    rows = [Row(view, [column.cell(view) for column in columns], urgency.index(view.verdict.key)) for view in seen]
    return Table([column.title for column in columns], rows)
