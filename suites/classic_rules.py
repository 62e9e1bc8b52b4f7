"""The rules in use today: whether the candidate's processes are slower than the base's, by the steps of each.

A side is some fresh processes of the same code. Where a tool takes one process, its steps are those of all together.
Needs numpy and scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Side = Sequence[np.ndarray]  # seconds of the steps, of each process
RESAMPLES = 300


@dataclass(frozen=True)
class Rule:
    """One tool's way to call a candidate slower.

    Attributes:
        paired: it takes the processes of both sides in pairs, so they must have run in turns.
    """

    name: str
    slower: Callable[[Side, Side, np.random.Generator], bool]
    paired: bool = False


def _pooled(side: Side) -> np.ndarray:
    return np.concatenate(list(side))


def _medians(side: Side) -> np.ndarray:
    return np.array([np.median(steps) for steps in side])


def _mean_5(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    return bool(_pooled(cand).mean() > 1.05 * _pooled(base).mean())


def _min_5(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    return bool(_pooled(cand).min() > 1.05 * _pooled(base).min())


def _median_7(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    return bool(np.median(_medians(cand)) > 1.07 * np.median(_medians(base)))


def _rank_sum(base: np.ndarray, cand: np.ndarray) -> float:
    """Two-sided p of the U test."""
    return float(stats.mannwhitneyu(cand, base, method="asymptotic").pvalue)


def _asv(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    one, other = _pooled(base), _pooled(cand)
    return bool(np.median(other) > 1.1 * np.median(one) and _rank_sum(one, other) < 0.002)


def _pyperf(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    """Three values of each process, each the mean of a third of its steps."""
    one, other = (
        np.array([part.mean() for steps in side for part in np.array_split(steps, min(3, len(steps)))])
        for side in (base, cand)
    )
    found = stats.ttest_ind(other, one)
    return bool(found.pvalue < 0.05 and found.statistic > 0)


def _means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of resamples."""
    return np.asarray(values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1))


def _criterion(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    """The t of resamples of both sides together gives p; the interval of the change must lie outside ±1 %."""
    one, other = _pooled(base), _pooled(cand)

    def t(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        error = np.sqrt(first.var(axis=-1, ddof=1) / first.shape[-1] + second.var(axis=-1, ddof=1) / second.shape[-1])
        return np.asarray((second.mean(axis=-1) - first.mean(axis=-1)) / error)

    change = np.quantile(_means(other, rng) / _means(one, rng), 0.025)
    if change <= 1.01:
        return False
    both = np.concatenate([one, other])
    drawn = both[rng.integers(0, len(both), (RESAMPLES, len(both)))]
    chance = (np.abs(t(drawn[:, : len(one)], drawn[:, len(one) :])) >= abs(t(one, other))).mean()
    return bool(chance < 0.05)


def _u_pooled(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    one, other = _pooled(base), _pooled(cand)
    return bool(np.median(other) > np.median(one) and _rank_sum(one, other) < 0.05)


def _bootstrap_pooled(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    return bool(np.quantile(_means(_pooled(cand), rng) / _means(_pooled(base), rng), 0.025) > 1)


def _paired_t(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    found = stats.ttest_1samp(np.log(_medians(cand) / _medians(base)), 0, alternative="greater")
    return bool(found.pvalue < 0.05)


def _wilcoxon(base: Side, cand: Side, rng: np.random.Generator) -> bool:
    change = np.log(_medians(cand) / _medians(base))
    return bool(np.any(change) and stats.wilcoxon(change, alternative="greater").pvalue < 0.05)


RULES = (
    Rule("pytest-benchmark mean:5%", _mean_5),
    Rule("pytest-benchmark min:5%", _min_5),
    Rule("TorchBench median:7%", _median_7),
    Rule("asv: U p<.002, 1.1x", _asv),
    Rule("pyperf: t, 3 values a process", _pyperf),
    Rule("criterion-like: bootstrap t, 1%", _criterion),
    Rule("U .05, pooled steps", _u_pooled),
    Rule("bootstrap 95%, pooled steps", _bootstrap_pooled),
    Rule("paired t .05, process medians", _paired_t, paired=True),
    Rule("Wilcoxon .05, process medians", _wilcoxon, paired=True),
)
