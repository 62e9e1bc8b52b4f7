"""A history as one JSON document: what ``--json`` prints and the page carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llmbench
from llmbench.results.history import History, PastRun
from llmbench.stats.metrics import Metric
from llmbench.stats.trends import Point, Shift, Step, Trend


def history_document(history: History, found: Sequence[Trend], metric: Metric, reference: str | None) -> dict[str, Any]:
    """Trends with their steps, and under ``records`` a row for each case of each run, in the order of the trends.

    ``trends[i]["records"]`` are the places of its rows.
    """
    records: list[dict[str, Any]] = []
    trends = []
    for trend in found:
        numbers = range(len(records), len(records) + len(trend.points))
        records += [_row(trend, point) for point in trend.points]
        trends.append(_trend(trend, numbers))
    return {
        "schema_version": 1,
        "llmbench": llmbench.__version__,
        "metric": metric.name,
        "better": "higher" if metric.higher else "lower",
        "reference": reference,
        "runs": [_run(run) for run in history.runs],
        "trends": trends,
        "records": records,
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


def _trend(trend: Trend, numbers: range) -> dict[str, Any]:
    return {
        "case": trend.case,
        "told_apart": trend.told_apart,
        "machine": trend.machine,
        "unit": trend.unit,
        "state": trend.state,
        "latest": trend.latest,
        "to_previous": trend.to_previous,
        "to_median": trend.to_median,
        "steps": [_step(step) for step in trend.steps],
        "environment_changes": [_shift(shift) for shift in trend.shifts],
        "records": list(numbers),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "index": step.index,
        "size": step.size,
        "interval": list(step.interval),
        "worse": step.worse,
        "before": step.before.id,
        "after": step.after.id,
        "commits": [step.before.commit, step.after.commit],
        "changed": [str(one) for one in step.changed],
    }


def _shift(shift: Shift) -> dict[str, Any]:
    return {"index": shift.index, "run": shift.run.id, "changed": [str(one) for one in shift.changed]}


def _row(trend: Trend, point: Point) -> dict[str, Any]:
    low, high = (point.value.interval if point.value else None) or (None, None)
    return {
        "case": trend.case,
        "run": point.run.id,
        "started_at": point.run.started_at.isoformat(),
        "machine": trend.machine,
        "commit": point.run.commit,
        "status": point.status,
        "reason": point.reason,
        "value": point.value.value if point.value else None,
        "unit": trend.unit,
        "low": low,
        "high": high,
    }
