"""A history as one JSON document: what ``--json`` prints and the page carries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import llmbench
from llmbench.report.history import selfchecks
from llmbench.report.history.views import commit_range
from llmbench.results.history import History
from llmbench.results.past import PastRun
from llmbench.stats.metrics import Metric
from llmbench.stats.selfcheck import SelfChecks
from llmbench.stats.trends import Point, Shift, Step, Trend


def history_document(
    history: History, found: Sequence[Trend], metric: Metric, reference: str | None, checks: SelfChecks
) -> dict[str, Any]:
    """Trends with their steps, and under ``records`` a row for each case of each run, the oldest run first.

    ``trends[i]["records"]`` are the places of its rows. Numbers have 6 digits that matter.
    """
    ordered = sorted(
        ((point, trend, number) for number, trend in enumerate(found) for point in trend.points),
        key=lambda one: (one[0].run.started_at, one[0].run.id),
    )
    places: list[list[int]] = [[] for _ in found]
    for place, (_, _, number) in enumerate(ordered):
        places[number].append(place)
    shared = {id(run): _shared(run) for run in history.runs}
    records = [_row(trend, point, shared[id(point.run)]) for point, trend, _ in ordered]
    trends = [_trend(trend, numbers) for trend, numbers in zip(found, places, strict=True)]
    return {
        "schema_version": 1,
        "llmbench": llmbench.__version__,
        "metric": metric.name,
        "better": "higher" if metric.higher else "lower",
        "reference": reference,
        "of": "comparisons" if metric.of_comparisons else "runs",
        "runs": [_run(run) for run in history.runs],
        "trends": trends,
        "records": records,
        "self_checks": selfchecks.document(checks),
        "copies": [str(folder) for folder in history.copies],
        "faults": [str(fault) for fault in history.faults],
    }


def _run(run: PastRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "folder": str(run.folder),
        "started_at": run.started_at.isoformat(),
        "suite": run.suite,
        "status": run.status,
        "commit": run.commit,
        "dirty": run.dirty,
    }


def _trend(trend: Trend, numbers: list[int]) -> dict[str, Any]:
    return {
        "case": trend.case,
        "told_apart": trend.told_apart,
        "machine": trend.machine,
        "base": trend.base and trend.base.name,
        "unit": trend.unit,
        "state": trend.state,
        "latest": _rounded(trend.latest),
        "to_previous": _rounded(trend.to_previous),
        "to_median": _rounded(trend.to_median),
        "steps": [_step(step) for step in trend.steps],
        "environment_changes": [_shift(shift) for shift in trend.shifts],
        "records": numbers,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "index": step.index,
        "size": _rounded(step.size),
        "interval": [_rounded(end) for end in step.interval],
        "worse": step.worse,
        "before": step.before.id,
        "after": step.after.id,
        "commits": [step.before.commit, step.after.commit],
        "commit_range": commit_range(step),
        "changed": [str(one) for one in step.changed],
    }


def _shift(shift: Shift) -> dict[str, Any]:
    return {"index": shift.index, "run": shift.run.id, "changed": [str(one) for one in shift.changed]}


def _shared(run: PastRun) -> dict[str, Any]:
    """What all rows of a run say."""
    return {"run": run.id, "started_at": run.started_at.isoformat(), "commit": run.commit and run.commit[:12]}


def _row(trend: Trend, point: Point, shared: Mapping[str, Any]) -> dict[str, Any]:
    value = point.value
    low, high = value.interval if value and value.interval else (None, None)
    return {
        **shared,
        "case": trend.case,
        "machine": trend.machine,
        "status": point.status,
        "reason": point.reason,
        "value": _rounded(value.value if value else None),
        "low": _rounded(low),
        "high": _rounded(high),
        "unit": trend.unit,
    }


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
