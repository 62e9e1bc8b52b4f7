"""An A/B comparison as one JSON document: what ``--json`` prints, and what the page carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmbench.report.ab import verdicts
from llmbench.report.ab.environment import environments
from llmbench.report.page import plain_json
from llmbench.results.ab import AbSession, AbSide
from llmbench.stats.ab import AbComparison, CaseVerdict, LossMargin, Row


def ab_document(comparison: AbComparison) -> dict[str, Any]:
    """Verdict, rules, sides, a record for each case and metric, and each session in a few numbers.

    Ratios are of the candidate over the base: above 1 it takes more. What is not finite, or beyond 1e12, is null.
    """
    ab = comparison.ab
    found = environments(ab)
    told = {
        "id": ab.id,
        "title": verdicts.headline(comparison),
        "gate": verdicts.gate(comparison),
        "exit_code": comparison.exit_code,
        "self_check": ab.self_check,
        "false_alarms": len(comparison.false_alarms),
        "failures": [
            {"case": row.case, "metric": row.metric, "failure": verdicts.failure(row)} for row in comparison.failures
        ],
        "counts": dict(comparison.counts),
        "rules": ab.gate.model_dump() | {"strict": comparison.strict},
        "suite": ab.suite,
        "device": ab.device,
        "seed": ab.seed,
        "command": ab.command,
        "started_at": ab.started_at,
        "base": _side(ab.base),
        "cand": _side(ab.cand),
        "environment": {"keys": found.total, "differs": [asdict(one) for one in found.differs]},
        "records": [record(case, row) for case in comparison.cases for row in case.rows],
        "cases": [_case(case) for case in comparison.cases],
    }
    finite: dict[str, Any] = json.loads(plain_json(told))
    return finite


def record(case: CaseVerdict, row: Row) -> dict[str, Any]:
    """One metric of one case; its estimate and interval as ratios of time, of bytes or of the final loss."""
    time, loss = row.time, row.loss
    margin = loss if isinstance(loss, LossMargin) else None
    estimates = (
        time.ratio if time else None,
        row.memory.ratio if row.memory else None,
        1 + margin.value if margin else None,
    )
    return {
        "case": row.case,
        "metric": row.metric,
        "verdict": row.outcome,
        "worse": row.worse,
        "estimate": _bounded(next((value for value in estimates if value is not None), None)),
        "low": _bounded(time.low if time else 1 + margin.low if margin else None),
        "high": _bounded(time.high if time else 1 + margin.high if margin else None),
        "sessions": verdicts.sessions(row),
        "seconds": row.seconds,
        "noise": _bounded(time.noise if time else None),
        "smallest_slowdown": _bounded(time.smallest_slowdown if time else None),
        "reason": row.reason,
        "design": case.design,
        "memory": row.memory and asdict(row.memory),
        "loss": loss and asdict(loss),
    }


def _bounded(value: float | None) -> float | None:
    """None for what is beyond all that a clock could tell: the page shows it as infinite."""
    return value if value is not None and abs(value) < verdicts.NO_NUMBER else None


def _case(case: CaseVerdict) -> dict[str, Any]:
    differences = {id(one): told for one, told in case.counted}
    return {
        "case": case.case.id,
        "modes": [case.case.base.mode, case.case.cand.mode],
        "verdict": case.outcome,
        "design": case.design,
        "over": case.over,
        "seconds": case.seconds,
        "sessions": [_session(one, differences.get(id(one))) for one in case.sessions],
    }


def _session(one: AbSession, differences: Mapping[str, float] | None) -> dict[str, Any]:
    """Its differences are of logarithms, candidate over base; none of a session that does not count."""
    return {
        "session": one.session,
        "whole": one.whole,
        "design": one.design,
        **(differences or {}),
        "rounds": len(one.rounds),
        "seed": one.seed,
        "first": one.first,
        "cpus": one.cpus,
        "load_1min": one.load_1min,
        "preempted": [one.base.preempted, one.cand.preempted],
        "seconds": one.seconds,
        "status": [one.base.status, one.cand.status],
    }


def _side(side: AbSide) -> dict[str, Any]:
    return {"label": side.label, "asked": side.asked, "kind": side.kind, "python": side.python} | {
        "git": side.git and side.git.model_dump()
    }
