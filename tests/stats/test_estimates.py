from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmbench.results.schema import StepSeconds
from llmbench.stats.blocks import MOST_BLOCKS
from llmbench.stats.estimates import (
    coefficient_of_variation,
    quantile,
    smooth,
    step_seconds,
    throughput_interval,
)

SECONDS = st.floats(1e-4, 1e2)


def test_the_summary_of_known_times() -> None:
    step = step_seconds([1.0, 2.0, 3.0, 4.0, 10.0])
    assert (step.mean, step.median) == (4.0, 3.0)
    assert step.p95 == pytest.approx(4.0 + 0.8 * 6.0)


def test_equal_times_leave_no_doubt() -> None:
    assert step_seconds([0.25] * 75) == StepSeconds(median=0.25, mean=0.25, p95=0.25, ci95=(0.25, 0.25))


@pytest.mark.parametrize("n", range(2, MOST_BLOCKS + 1))
def test_the_interval_of_few_steps_is_student_s(n: int) -> None:
    times = np.random.default_rng(n).gamma(50, 0.01, n)
    low, high = stats.t.interval(0.95, n - 1, times.mean(), stats.sem(times))
    assert step_seconds(times.tolist()).ci95 == pytest.approx((low, high), rel=2e-4)


@pytest.mark.parametrize("n", [11, 19, 20, 75, 1000])
def test_the_interval_of_many_steps_is_that_of_the_means_of_10_blocks(n: int) -> None:
    times = np.random.default_rng(n).gamma(50, 0.01, n)
    edges = [block * n // 10 for block in range(11)]
    means = [times[begin:end].mean() for begin, end in pairwise(edges)]
    half = stats.t.ppf(0.975, 9) * stats.sem(means)
    assert step_seconds(times.tolist()).ci95 == pytest.approx((times.mean() - half, times.mean() + half), rel=1e-4)


def test_every_step_counts() -> None:
    """One slow step widens the interval, wherever it is."""
    calm = [1.0] * 39
    for place in range(39):
        low, high = step_seconds([*calm[:place], 2.0, *calm[place + 1 :]]).ci95
        assert high - low > 0.01, place


def test_times_are_not_below_zero() -> None:
    low, high = step_seconds([1e-3, 1.0]).ci95
    assert low == 0.0
    assert high > 1.0


def simulate(correlation: float, steps: int = 300, runs: int = 600) -> tuple[float, float]:
    """How often the interval holds the true mean, and how often the one that takes steps for independent does."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((runs, steps))
    times = np.empty((runs, steps))
    times[:, 0] = noise[:, 0]
    for step in range(1, steps):  # AR(1) of variance 1
        times[:, step] = correlation * times[:, step - 1] + math.sqrt(1 - correlation**2) * noise[:, step]
    times = 1 + 0.05 * times
    intervals = np.array([step_seconds(run).ci95 for run in times.tolist()])
    half = stats.t.ppf(0.975, steps - 1) * times.std(axis=1, ddof=1) / math.sqrt(steps)
    naive = np.abs(times.mean(axis=1) - 1) <= half
    return float(((intervals[:, 0] <= 1) & (intervals[:, 1] >= 1)).mean()), float(naive.mean())


def test_the_interval_holds_the_truth_in_95_of_100_runs() -> None:
    covered, _ = simulate(correlation=0.0)
    assert 0.93 <= covered <= 0.97


def test_the_interval_is_not_fooled_by_steps_that_are_alike() -> None:
    covered, naive = simulate(correlation=0.7)
    assert covered >= 0.90
    assert naive <= 0.65


@given(st.lists(SECONDS, min_size=2, max_size=100))
def test_a_summary_is_in_order(times: list[float]) -> None:
    step = step_seconds(times)
    slack = 1e-9 * max(times)
    assert min(times) - slack <= step.median <= step.p95 + slack <= max(times) + 2 * slack
    assert 0 <= step.ci95[0] <= step.mean + slack
    assert step.mean <= step.ci95[1] + slack


@given(st.lists(SECONDS, min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_numpy_s(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9)


def test_the_interval_of_throughput_is_as_wide_as_that_of_the_time() -> None:
    step = StepSeconds(median=2.0, mean=2.0, p95=2.0, ci95=(1.8, 2.2))
    assert throughput_interval(500.0, step) == pytest.approx((450.0, 550.0))
    unsure = StepSeconds(median=2.0, mean=2.0, p95=2.0, ci95=(0.0, 5.0))
    assert throughput_interval(500.0, unsure) == pytest.approx((0.0, 1250.0))


def test_the_coefficient_of_variation() -> None:
    assert coefficient_of_variation([1.0, 1.0, 1.0]) == 0.0
    assert coefficient_of_variation([1.0, 3.0]) == pytest.approx(math.sqrt(2) / 2)


def test_smoothing() -> None:
    assert smooth([1.0, 2.0, 6.0, 4.0], 2) == [1.5, 4.0, 5.0]
    assert smooth([1.0, 2.0, 6.0], 10) == [3.0]
    assert smooth([1.0, 2.0, 6.0], 1) == [1.0, 2.0, 6.0]
