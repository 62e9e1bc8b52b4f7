"""A comparison as one JSON document: what ``--json`` prints, and what the page carries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from llmbench.report.compare.environment import Environments
from llmbench.report.compare.settle import settling, settling_row
from llmbench.report.compare.verdicts import gate, title
from llmbench.results.sides import Side, Trained
from llmbench.stats.comparison import Comparison, Row


def document(comparison: Comparison, environments: Environments, command: list[str]) -> dict[str, Any]:
    """Verdict, rules, environments and a record for each row, in the order of ``comparison.rows``."""
    told = {
        "command": command,
        "title": title(comparison),
        "gate": gate(comparison),
        "exit_code": comparison.exit_code,
        "failures": [{"case": row.case, "failure": failure} for row, failure in comparison.failures],
        "counts": dict(comparison.counts),
        "rules": asdict(comparison.rules),
        "base": _side(comparison.base),
        "cand": _side(comparison.cand),
        "hardware_differs": list(comparison.hardware),
        "environment": {
            "keys": environments.total,
            "differs": [asdict(one) for one in environments.differs],
        },
        "settle": [asdict(one) for one in settling(comparison)],
        "records": [record(row) | {"settle": _settle(comparison, row)} for row in comparison.rows],
    }
    return {key: _finite(value) for key, value in told.items()}


def _settle(comparison: Comparison, row: Row) -> str | None:
    found = settling_row(comparison, row)
    return found.command if found else None


def _finite(value: Any) -> Any:
    """The value as JSON can hold it: a number that is not finite is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record(row: Row) -> dict[str, Any]:
    """One case; ratios are CAND over BASE."""
    change = row.change
    return {
        "case": row.case,
        "verdict": row.outcome,
        "reason": row.reason,
        "failures": list(row.failures),
        "throughput": {
            "base": throughput(row.base),
            "cand": throughput(row.cand),
            "unit": unit(row),
            "ratio": change and change.ratio,
            "low": change and change.low,
            "high": change and change.high,
            "smallest_slowdown": change and change.smallest_slowdown,
        },
        "runs": {"base": len(row.base), "cand": len(row.cand)},
        "memory": row.memory and {**asdict(row.memory), "ratio": row.memory.ratio},
        "loss": row.loss and asdict(row.loss),
        "loss_reason": row.loss_reason,
        "energy_ratio": row.energy,
    }


def throughput(side: Sequence[Trained]) -> float | None:
    """The median of a side's runs."""
    found = [one.record.throughput.value for one in side if one.record.throughput]
    return median(found) if found else None


def unit(row: Row) -> str | None:
    return next((one.record.throughput.unit for one in (*row.base, *row.cand) if one.record.throughput), None)


def _side(side: Side) -> dict[str, Any]:
    return {"path": str(side.path), "runs": [run.id for run in side.runs], "damage": side.damage}
