"""What the page of a run carries for its downloads and for Explore: the run, its records, and their curves, thinned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llmbench.report.charts.decimate import buckets
from llmbench.report.columns import compact, pack
from llmbench.report.run.cases import CaseView
from llmbench.results.schema import Part, Record, Run, Series

COLUMNS = ("run.cases", "records")
"""What of it is told column by column."""

_POINTS, _SHARED = 40, 1200
"""Buckets that a curve always has, and those that all curves of a page share: many cases must not make it heavy."""
_MOST = 500
_MANY = 32
"""Cases beyond which a curve has a digit less, and the times of the steps have none."""
_ALL_RANKS, _SLOWEST = 512, 16
"""Ranks of all records together up to which all are told; of more, so many of each record."""
_ALL_NODES = 32
_TIMES = 4
"""A curve of times has one bucket where a curve of losses has so many: it tells a trend, and outliers."""


def document(run: Run, cases: Sequence[CaseView]) -> str:
    """``{"run": …, "records": […], "curves": […]}`` as JSON; a curve, or null, for each record. Beside them
    ``damage``, the faults of the records, if there are any.
    """
    recorded = sorted((case for case in cases if case.number is not None), key=lambda case: case.number or 0)
    damage = [told for case in recorded for told in case.damage]
    whole = _plain(run)
    whole["cases"] = pack(whole["cases"])
    _without_repetition(whole["nodes"])
    limit = points(sum(case.series is not None for case in recorded))
    many = len(recorded) > _MANY
    return compact(
        {
            "run": whole,
            "records": pack(_records([case.stored for case in recorded if case.stored])),
            "curves": [_curves(case.series, limit, many) if case.series else None for case in recorded],
        }
        | ({"damage": damage} if damage else {})
    )


def points(curves: int) -> int:
    """Buckets of each curve, by how many curves there are."""
    return min(_MOST, _POINTS + _SHARED // max(1, curves))


def _records(stored: Sequence[Record]) -> list[dict[str, Any]]:
    """As they are stored. Of very many ranks each has its slowest ones, and says in ``ranks_left_out`` how many more
    there were: the sums and the largest stand in ``over_ranks``, all of them in ``records.jsonl``.
    """
    records = [_plain(record) for record in stored]
    if sum(len(record["ranks"]) for record in records) > _ALL_RANKS:
        for record in records:
            left = len(record["ranks"]) - _SLOWEST
            if left > 0:
                slowest = sorted(record["ranks"], key=lambda rank: -(rank["window_seconds"] or 0.0))[:_SLOWEST]
                record["ranks"] = sorted(slowest, key=lambda rank: int(rank["rank"]))
                record["ranks_left_out"] = left
    return records


def _without_repetition(nodes: list[dict[str, Any]]) -> None:
    """Of many nodes, each tells what is not as on the first one, and the first tells all."""
    if len(nodes) > _ALL_NODES:
        first = nodes[0]["facts"]
        for node in nodes[1:]:
            node["facts"] = {key: value for key, value in node["facts"].items() if first.get(key) != value}


def _plain(part: Part) -> Any:
    return json.loads(part.model_dump_json(by_alias=True))


def _curves(series: Series, limit: int, many: bool) -> dict[str, Any]:
    curves = {"loss": buckets(series.loss, limit, 4 if many else 5)}
    if series.step_seconds and not many:
        # Of the first step nothing is known here: it is phase compile.
        curves["seconds"] = {"first": 1} | buckets(series.step_seconds, limit // _TIMES, 4)
    return curves
