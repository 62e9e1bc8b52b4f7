"""The matrix: workloads × modes, each cell the speed-up over the same workload's eager case.

More modes than fit side by side are shown as rows, in a table for each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.report.format import NOTHING, plus_minus, si, times
from llmbench.report.run.cases import CaseView, Column
from llmbench.report.run.kinds import KINDS, kind
from llmbench.report.run.speedup import Speedup, base_of, speedup
from llmbench.results.salvage import UNKNOWN

STEPS = (1.05, 1.25, 1.5, 2.0, 3.0)
"""Speed-ups at which the ramp takes the next shade: fixed, so that pages can be held side by side."""

MOST_COLUMNS = 8
"""Modes that fit side by side on the first screen."""


@dataclass(frozen=True)
class Entry:
    """One case in a cell.

    Attributes:
        main, detail: the two lines of text.
        note: a symbol after the first line, explained in the legend.
        shade: step of the ramp, or ``hatched`` or ``plain``.
    """

    case: CaseView
    main: str
    detail: str
    note: str
    shade: str
    speedup: Speedup | None


@dataclass(frozen=True)
class Row:
    workload: str
    variant: str
    cases: list[CaseView]
    cells: list[list[Entry]]
    has_base: bool


@dataclass(frozen=True)
class ModeRow:
    """A mode in a group: a cell for each column of the group, empty where the suite has no such case."""

    mode: str
    cells: list[list[Entry]]


@dataclass(frozen=True)
class Group:
    """Modes of one kind, as rows; the columns are workloads, at each world size that the group has."""

    kind: str
    columns: list[str]
    rows: list[ModeRow]


@dataclass(frozen=True)
class Matrix:
    columns: list[Column]
    rows: list[Row]

    @property
    def turned(self) -> bool:
        """Whether there are more modes than fit side by side; then ``groups`` shows them."""
        return len(self.columns) > MOST_COLUMNS

    def groups(self) -> list[Group]:
        """The modes as rows, by kind. A mode of which no case ran is left out: its reason stands elsewhere."""
        found: dict[str, list[str]] = {}
        for mode in dict.fromkeys(column.mode for column in self.columns):
            if any(case.record and case.verdict.key != "skipped" for case in self._cases(mode)):
                found.setdefault(kind(mode), []).append(mode)
        return [self._group(title, found[title]) for title in KINDS if title in found]

    def left_out(self) -> list[str]:
        """Modes of which ``groups`` has no row."""
        shown = {row.mode for group in self.groups() for row in group.rows}
        return [mode for mode in dict.fromkeys(column.mode for column in self.columns) if mode not in shown]

    def _cases(self, mode: str) -> list[CaseView]:
        return [case for row in self.rows for case in row.cases if case.column.mode == mode]

    def _group(self, title: str, modes: Sequence[str]) -> Group:
        sizes = sorted({case.column.world_size for mode in modes for case in self._cases(mode)})
        places = [(row, size) for row in self.rows for size in sizes]
        entries = {
            (id(row), column.mode, column.world_size): cell
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
        }
        rows = [ModeRow(mode, [entries.get((id(row), mode, size), []) for row, size in places]) for mode in modes]
        used = [index for index in range(len(places)) if any(row.cells[index] for row in rows)]
        return Group(
            title,
            [_place(places[index][0], places[index][1]) for index in used],
            [ModeRow(row.mode, [row.cells[index] for index in used]) for row in rows],
        )

    def speedups(self) -> dict[str, Speedup]:
        """By case id."""
        entries = (entry for row in self.rows for cell in row.cells for entry in cell)
        return {entry.case.id: entry.speedup for entry in entries if entry.speedup}

    def by_column(self) -> dict[Column, list[Speedup]]:
        """Of each mode but eager."""
        found: dict[Column, list[Speedup]] = {}
        for row in self.rows:
            base = base_of(row.cases)
            for cell in row.cells:
                for entry in cell:
                    if entry.speedup and entry.case is not base:
                        found.setdefault(entry.case.column, []).append(entry.speedup)
        return found


def _place(row: Row, world_size: int) -> str:
    name = f"{row.workload} {row.variant}".strip()
    return name if world_size == 1 else f"{name} ×{world_size}"


def matrix(cases: Sequence[CaseView]) -> Matrix:
    cases = [case for case in cases if not (case.damage and UNKNOWN in (case.workload, case.column.mode))]
    columns = sorted({case.column for case in cases}, key=lambda column: _order(column, cases))
    rows: dict[tuple[str, str], list[CaseView]] = {}
    for case in cases:
        rows.setdefault((case.workload, case.variant), []).append(case)
    return Matrix(columns, [_row(workload, variant, row, columns) for (workload, variant), row in rows.items()])


def _order(column: Column, cases: Sequence[CaseView]) -> tuple[bool, int, int]:
    first = next(index for index, case in enumerate(cases) if case.column.mode == column.mode)
    return column.mode != "eager", first, column.world_size


def _row(workload: str, variant: str, cases: list[CaseView], columns: Sequence[Column]) -> Row:
    base = base_of(cases)
    cells = [[_entry(case, base) for case in cases if case.column == column] for column in columns]
    return Row(workload, variant, cases, cells, has_base=base is not None and base.counts)


def _entry(case: CaseView, base: CaseView | None) -> Entry:
    ratio = speedup(case, base)
    speed = f"{si(case.throughput, case.unit)} {plus_minus(case.uncertainty)}" if case.throughput is not None else ""
    if not case.counts:
        shade = "hatched" if case.verdict.tone == "bad" else "plain"
        return Entry(case, f"{case.verdict.symbol} {case.verdict.word}", speed, "", shade, None)
    if ratio is None:
        return Entry(case, NOTHING, speed, _note(case, None), "plain", None)
    shade = f"r{sum(ratio.value >= step for step in STEPS)}"
    return Entry(case, times(ratio.value), speed, _note(case, ratio), shade, ratio)


def _note(case: CaseView, ratio: Speedup | None) -> str:
    marks = []
    if ratio is not None and ratio.half_width is not None:
        if ratio.undecided:
            marks.append("≈")
        elif ratio.value < 1:
            marks.append("▼")
    if case.verdict.tone == "warn":
        marks.append(case.verdict.symbol)
    return " ".join(marks)
