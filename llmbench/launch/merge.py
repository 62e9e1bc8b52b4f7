"""What the ranks of a case measured, as fields of one record: sums, the largest, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from llmbench.results.schema import Communication, OverRanks, Rank
from llmbench.stats.estimates import quantile

# Of these a sum means something: seconds of ranks pass together.
_SUMMED = ("peak_allocated_bytes", "peak_rss_bytes", "joules")


def of_ranks(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of a record that several processes measured together.

    Args:
        ranks: the part ``rank`` of each one's result (``worker/case.py``), by rank.
    """
    known = [rank["communication"] for rank in ranks if rank["communication"]]
    communication = None
    if known:
        communication = Communication(
            seconds_per_step=fmean(one["seconds_per_step"] for one in known),
            share=fmean(one["seconds_per_step"] / one["step_seconds"] for one in known),
            source=known[0]["source"],
        )
    each = [_rank(rank) for rank in ranks]
    over = over_ranks(ranks, each)
    return {
        "ranks": each,
        "rank_spread": over["window_seconds"].spread,
        "over_ranks": over,
        "communication": communication,
    }


def over_ranks(ranks: Sequence[Mapping[str, Any]], each: Sequence[Rank]) -> dict[str, OverRanks]:
    """Each quantity of the ranks, by its name; one that no rank knows is left out."""
    values: dict[str, list[tuple[float, int]]] = {}
    for rank, made in zip(ranks, each, strict=True):
        found = {
            "window_seconds": made.window_seconds,
            "step_median_seconds": made.step_median_seconds,
            "step_p95_seconds": made.step_p95_seconds,
            "communication_seconds": made.communication_seconds,
            "peak_allocated_bytes": made.peak_allocated_bytes,
            "peak_rss_bytes": made.peak_rss_bytes,
            "joules": (rank.get("energy") or {}).get("joules"),
        }
        for name, value in found.items():
            if value is not None:
                values.setdefault(name, []).append((float(value), made.rank))
    return {name: _over(name, known) for name, known in values.items()}


def _over(name: str, known: Sequence[tuple[float, int]]) -> OverRanks:
    numbers = [value for value, _ in known]
    largest, mean = max(numbers), fmean(numbers)
    return OverRanks(
        sum=sum(numbers) if name in _SUMMED else None,
        max=largest,
        spread=(largest - min(numbers)) / mean if mean else None,
        max_rank=min(rank for value, rank in known if value == largest),
    )


def _rank(rank: Mapping[str, Any]) -> Rank:
    steps = rank.get("step_seconds") or []
    return Rank(
        **{key: value for key, value in rank.items() if key != "step_seconds"},
        step_median_seconds=median(steps) if steps else None,
        step_p95_seconds=quantile(steps, 0.95) if steps else None,
        communication_seconds=(rank["communication"] or {}).get("seconds_per_step"),
    )
