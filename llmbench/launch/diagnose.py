"""Why a case has no result: its status, the cause in words, and what to do about it."""

from __future__ import annotations

from llmbench.launch import causes
from llmbench.launch.evidence import RankEvidence, gather, of_rank, verdict
from llmbench.launch.target import Outcome
from llmbench.launch.together import OF_NODE
from llmbench.results.schema import Error, Status
from llmbench.suite.cases import Case


def diagnose(case: Case, outcome: Outcome, deadline: float) -> tuple[Status, Error] | None:
    """Status and error of a case that did not end well; None if it did."""
    result = outcome.result or {}
    if "unavailable" in result:
        reason, _, fix = result["unavailable"].partition(": ")
        return "skipped", Error(type="Unavailable", message=reason, hint=fix or None)
    error = result.get("error", {})
    if error.get("type") not in OF_NODE and ("rank" in error or (outcome.timed_out and case.world_size > 1)):
        found = verdict(case, gather(outcome), {}, deadline, outcome.timed_out)
        if found:
            return found
    if "error" in result:
        raised = causes.raised(case, error)
        return of_rank(case, RankEvidence(error["rank"], error["host"]), raised) if "rank" in error else raised
    if outcome.timed_out:
        return "timeout", _timeout(outcome, deadline)
    if outcome.code is None:
        return "failed", Error(
            type="ServerDied",
            message=f"the server process that forks the cases died in phase {outcome.phase}",
            hint="`--resume` repeats it; `llmbench doctor` if it happens again",
        )
    if outcome.code < 0:
        return _killed(case, outcome, -outcome.code)
    return causes.left(outcome.code, outcome.phase) if outcome.result is None else None


def _timeout(outcome: Outcome, deadline: float) -> Error:
    alone = next(iter(outcome.ranks), None)  # a parallel mode in one process has a rank too
    place = f"in phase {outcome.phase} after {outcome.steps} steps; {causes.where(outcome.log_text(alone))}"
    hint = f"--set deadline_seconds={2 * deadline:g} if it only was slow; its log holds the stack"
    return Error(type="Timeout", message=f"no end after {deadline:g} s, {place}", hint=hint)


def _killed(case: Case, outcome: Outcome, number: int) -> tuple[Status, Error]:
    status, error = causes.killed(case, number, outcome.phase, outcome.log_text(), outcome.oom_killed)
    if outcome.ranks and status != "oom":
        message = f"the launcher of the {case.world_size} ranks was {error.message}"
        error = error.model_copy(update={"message": message})
    return status, error
