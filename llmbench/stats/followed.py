"""What a history follows: ratios to a base where there are comparisons, else what runs measured."""

from __future__ import annotations

from llmbench.errors import UserError
from llmbench.results.history import History
from llmbench.stats.metrics import METRICS, Metric
from llmbench.stats.ratios import ratio_history


def followed(history: History, name: str | None, reference: str | None) -> tuple[History, Metric]:
    """The runs, or the candidates of the comparisons, and the metric to follow.

    Ratios come first, since what a machine does to a time it does to both sides of a comparison. Runs are not divided
    by their eager cases unasked: those are no pinned base, and what slows all cases alike would not be seen any more.

    Args:
        name: of a metric; None to choose.
        reference: by which values of runs are divided.

    Raises:
        UserError: nothing there has this metric.
    """
    compared = any(not one.ab.self_check for one in history.comparisons)
    ratios = compared and reference is None
    metric = METRICS[name or ("ratio" if ratios or not history.runs else "throughput")]
    if metric.of_comparisons and reference is not None:
        raise UserError(f"--metric {metric.name} has a base already", "leave --reference out")
    if metric.of_comparisons and name and not compared:
        raise UserError("no comparison lies there, so there is no ratio", "llmbench ab writes comparisons")
    if not metric.of_comparisons and not history.runs:
        raise UserError(f"only comparisons lie there, and none has a {metric.name}", "leave --metric out")
    return (ratio_history(history) if metric.of_comparisons else history), metric
