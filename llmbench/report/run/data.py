"""What the page of a run carries for its downloads and for Explore: the run, its records, and their curves, thinned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llmbench.report.charts.decimate import buckets
from llmbench.report.columns import compact, pack
from llmbench.report.run.cases import CaseView
from llmbench.results.schema import Part, Run, Series

COLUMNS = ("run.cases", "records")
"""What of it is told column by column."""

_POINTS, _SHARED = 40, 1800
"""Buckets that a curve always has, and those that all curves of a page share: many cases must not make it heavy."""
_MOST = 500
_MANY = 32
"""Cases beyond which a curve has a digit less, and the times of the steps have none."""
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
    limit = points(sum(case.series is not None for case in recorded))
    many = len(recorded) > _MANY
    return compact(
        {
            "run": whole,
            "records": pack([_plain(case.stored) for case in recorded if case.stored]),
            "curves": [_curves(case.series, limit, many) if case.series else None for case in recorded],
        }
        | ({"damage": damage} if damage else {})
    )


def points(curves: int) -> int:
    """Buckets of each curve, by how many curves there are."""
    return min(_MOST, _POINTS + _SHARED // max(1, curves))


def _plain(part: Part) -> Any:
    return json.loads(part.model_dump_json(by_alias=True))


def _curves(series: Series, limit: int, many: bool) -> dict[str, Any]:
    curves = {"loss": buckets(series.loss, limit, 4 if many else 5)}
    if series.step_seconds and not many:
        # Of the first step nothing is known here: it is phase compile.
        curves["seconds"] = {"first": 1} | buckets(series.step_seconds, limit // _TIMES, 4)
    return curves
