"""What can be chosen in Explore: the workloads and the modes of which there is a curve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.report.palette import DASHES, Ink
from llmbench.report.run.cases import CaseView
from llmbench.report.run.matrix import Matrix
from llmbench.report.run.pick import MOST, picked


@dataclass(frozen=True)
class Choice:
    """A box to tick.

    Attributes:
        key: what the address of the page knows it by; unique among its like.
        chosen: from the start.
    """

    key: str
    name: str
    ink: Ink | None
    chosen: bool


@dataclass(frozen=True)
class Explore:
    """The boxes, and ``record/workload/mode`` (three positions) of each case that has a curve."""

    workloads: list[Choice]
    modes: list[Choice]
    cases: str
    most: int
    dashes: str


def explore(table: Matrix) -> Explore | None:
    """None if no case has a curve. From the start, the drawn cases of the first workload are chosen."""
    rows = [row for row in table.rows if any(map(_is_curved, row.cases))]
    if not rows:
        return None
    curved = {case.column for row in rows for case in row.cases if _is_curved(case)}
    columns = [column for column in table.columns if column in curved]
    first = {case.column for case in picked(rows[0].cases) if _is_curved(case)}
    names = [f"{row.workload} {row.variant}".strip() for row in rows]
    cases = [
        f"{case.number}/{index}/{columns.index(case.column)}"
        for index, row in enumerate(rows)
        for case in row.cases
        if _is_curved(case)
    ]
    return Explore(
        workloads=[
            Choice(key, name, None, index == 0)
            for index, (key, name) in enumerate(zip(_keys(names), names, strict=True))
        ],
        modes=[
            Choice(key, column.name, column.ink, column in first)
            for key, column in zip(_keys([column.name for column in columns]), columns, strict=True)
        ],
        cases=" ".join(cases),
        most=MOST,
        dashes=",".join(dash or "" for dash in DASHES),
    )


def _is_curved(case: CaseView) -> bool:
    return case.number is not None and case.series is not None and bool(case.series.loss)


def _keys(names: Sequence[str]) -> list[str]:
    """The names as the address holds them: without its own separators, and never the same twice."""
    keys: list[str] = []
    for name in names:
        wanted = re.sub(r"[^A-Za-z0-9._+/-]+", "-", name)[:80]
        key, turn = wanted, 1
        while key in keys:
            turn += 1
            key = f"{wanted}-{turn}"
        keys.append(key)
    return keys
