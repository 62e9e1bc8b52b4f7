"""What a run is called, and when it was."""

from __future__ import annotations

from llmbench.report import environment
from llmbench.report.format import count, duration, moment, timestamp
from llmbench.results.schema import Run


def title(run: Run) -> str:
    if len(run.nodes) > 1:
        return f"{run.suite} on {len(run.nodes)} nodes"
    host = environment.host(run)
    return f"{run.suite} on {host}" if host else f"{run.suite} on {run.device}"


def meta(run: Run) -> list[str]:
    """When it began, how long it took, its id and suite, and whether it was finished at once."""
    seconds = wall_seconds(run)
    state = {"done": None, "interrupted": "interrupted", "running": "not finished"}[run.status]
    resumed = f"resumed {count(run.resumed, 'time')}" if run.resumed else None
    took = duration(seconds) if seconds is not None else None
    parts = [timestamp(run.started_at), took, f"run {run.id}", f"suite {run.suite}", state, resumed]
    return [part for part in parts if part]


def wall_seconds(run: Run) -> float | None:
    """From its begin to its end; None while it has none."""
    begin, end = moment(run.started_at), moment(run.finished_at)
    return (end - begin).total_seconds() if begin and end else None
