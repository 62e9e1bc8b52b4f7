"""How a job of several nodes ended: of what each of them tells, the first cause; else, what all of them measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.launch import evidence
from llmbench.launch.target import Outcome, signal_name

OF_NODE = frozenset({"NodeLost", "NodeFailed", "LauncherDied"})
"""Types of errors that are of a node, and of no single rank."""


@dataclass(frozen=True)
class Part:
    """What is known of one node's share.

    Attributes:
        first_rank: of its ranks.
        outcome: None if it never told.
        reason: why it did not.
        lost: the node itself is gone.
        stopped: it was ended since another had failed.
    """

    node: int
    host: str
    first_rank: int
    outcome: Outcome | None
    reason: str | None = None
    lost: bool = False
    stopped: bool = False

    @property
    def name(self) -> str:
        return f"node {self.node} ({self.host})"


def together(parts: Sequence[Part], log: Path) -> Outcome:
    """One outcome of all.

    Args:
        parts: by node, node 0 first if it took part.
        log: of the job on node 0.
    """
    told = [part.outcome for part in parts if part.outcome]
    whole = Outcome(log=log, code=0, parts=told)
    if told:
        first = told[0]
        whole.phase, whole.log_begin = first.phase, first.log_begin if first.log == log else 0
        whole.wall_seconds = max(outcome.wall_seconds for outcome in told)
        whole.steps = min(outcome.steps for outcome in told)
    for outcome in told:
        whole.ranks |= outcome.ranks
    unavailable = next((found for outcome in told if "unavailable" in (found := outcome.result or {})), None)
    part = _first_cause(parts)
    if part is not None and (part.outcome is None or unavailable is None):
        whole.code, whole.result = 1, _error(part)
        whole.oom_killed = bool(part.outcome and part.outcome.oom_killed)
    elif any(outcome.timed_out for outcome in told):
        whole.code, whole.timed_out = -9, True
    elif unavailable is not None:
        whole.result = unavailable
    elif all(outcome.result for outcome in told):
        whole.result = _merged(parts)
    else:  # all were stopped
        whole.code = next(outcome.code for outcome in told if not outcome.result)
    return whole


def _first_cause(parts: Sequence[Part]) -> Part | None:
    causes = sorted((*found, part.node) for part in parts if (found := _cause(part)))
    if not causes:
        return None
    sign, _, node = causes[0]
    if sign == _LATER and any(part.outcome and part.outcome.timed_out for part in parts):
        return None  # it missed one that hung and was killed for it
    return next(part for part in parts if part.node == node)


_GONE, _DIED, _RAISED, _LATER = range(4)


def _cause(part: Part) -> tuple[int, float] | None:
    """How likely this share is the first that failed (the smallest), and when it did; None if it did not by itself."""
    outcome = part.outcome
    if part.lost or outcome is None:
        return _GONE, 0.0
    error = (outcome.result or {}).get("error")
    if error is None:
        died = outcome.result is None and outcome.code != 0 and not outcome.timed_out and not part.stopped
        return (_DIED, outcome.wall_seconds) if died else None
    if "signal" in error or "exit" in error:
        return (_DIED, outcome.wall_seconds)
    return (_LATER if is_consequence(outcome.result) else _RAISED), error.get("at", 0.0)


def is_consequence(found: Outcome | dict[str, Any] | None) -> bool:
    """Whether what failed only missed another."""
    result = found.result if isinstance(found, Outcome) else found
    return evidence.is_consequence((result or {}).get("error") or {})


def _error(part: Part) -> dict[str, Any]:
    """The result of the whole, if this part is the cause."""
    outcome = part.outcome
    of_node = {"rank": part.first_rank, "host": part.host, "where": None, "out_of_memory": False}
    if part.lost:
        return {"error": of_node | {"type": "NodeLost", "message": f"{part.name} was lost: {part.reason}"}}
    if outcome is None:
        return {"error": of_node | {"type": "NodeFailed", "message": f"{part.name}: {part.reason}"}}
    if outcome.result is None:
        how = "died with its server" if outcome.code is None else f"was killed by {signal_name(-outcome.code)}"
        return {"error": of_node | {"type": "LauncherDied", "message": f"the launcher of {part.name} {how}"}}
    error = outcome.result["error"]
    return {"error": of_node | error} if "rank" not in error else {"error": error}


def _merged(parts: Sequence[Part]) -> dict[str, Any]:
    results = [(part.node, part.outcome.result) for part in parts if part.outcome and part.outcome.result]
    ranks = [rank | {"node": node} for node, result in results for rank in result.get("ranks", [])]
    return results[0][1] | {"ranks": ranks}
