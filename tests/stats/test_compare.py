import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.stats.compare import FLOOR, Sample, assumed_spread, change, judged, spread_of_variation
from tests.stats.stored_runs import any_two, distilled, neighbours, shares

QUIET = 0.0005
speeds = st.floats(0.1, 1e6)
samples = st.builds(Sample, speeds, st.floats(0, 1), st.floats(FLOOR, 1))
sides = st.lists(samples, min_size=1, max_size=4)


def side(*speeds, spread=FLOOR):
    return [Sample(speed, QUIET, spread) for speed in speeds]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.90, 0.979, "slower"),
        (0.90, 0.981, "inconclusive"),
        (0.98, 1.02, "same"),
        (0.979, 1.0, "inconclusive"),
        (0.5, 2.0, "inconclusive"),
        (1.014, 1.048, "inconclusive"),  # +3.1 % [1.4, 4.8]: differs, but from the band it cannot be told
        (1.021, 1.5, "faster"),
    ],
)
def test_the_verdict_is_what_the_interval_says(low, high, verdict):
    assert judged(low, high, 0.02) == verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.92, "slower"), (1.09, "faster"), (1.0, "same"), (0.975, "inconclusive")]
)
def test_one_quiet_run_on_each_side(ratio, verdict):
    found = change(side(1000), side(1000 * ratio), 0.02)
    assert found.verdict == verdict
    assert found.ratio == pytest.approx(ratio)
    assert found.runs == (1, 1)


@given(sides, sides, st.floats(0, 0.2))
def test_estimate_lies_within_its_interval_and_the_verdict_agrees(base, cand, equal_within):
    found = change(base, cand, equal_within)
    assert found.low <= found.ratio * (1 + 1e-9)
    assert found.ratio <= found.high * (1 + 1e-9)
    assert found.verdict == judged(found.low, found.high, equal_within)
    assert equal_within <= found.smallest_slowdown <= 1


@given(sides, sides)
def test_swapped_sides_give_the_inverse(base, cand):
    one, other = change(base, cand, 0.02), change(cand, base, 0.02)
    assert one.ratio == pytest.approx(1 / other.ratio)
    assert one.low == pytest.approx(1 / other.high)


def test_runs_that_agree_make_it_narrower_and_runs_that_do_not_make_it_wider():
    def width(base, cand):
        found = change(base, cand, 0.02)
        return math.log(found.high / found.low)

    alike = [width(side(*[1000] * runs), side(*[1000] * runs)) for runs in (1, 2, 3, 5)]
    assert alike == sorted(alike, reverse=True)
    assert width(side(900, 1100), side(900, 1100)) > 3 * alike[1]


def test_a_spread_between_runs_hides_what_two_lucky_runs_would_show():
    base, cand = side(1000, 1100, 920), side(930, 1040, 860)
    assert change(base, cand, 0.02).verdict == "inconclusive"
    assert change(side(1000), side(930), 0.02).verdict == "slower"


def test_a_disturbed_run_is_not_believed():
    """Steps of 20 ms, now and then far more: the mean is 30 % above what the code can do."""
    steps = [0.02] * 60 + [0.04] * 40
    spread = assumed_spread(steps)
    assert spread == pytest.approx(0.75 * math.log(1.4))
    assert change(side(1000), side(800, spread=spread), 0.02).verdict == "inconclusive"
    assert change(side(1000), side(800), 0.02).verdict == "slower"


def test_a_run_that_others_kept_from_its_cpus_is_not_believed_however_even_its_steps():
    spread = assumed_spread([0.02] * 100, waited=1.0)
    assert spread == pytest.approx(0.75 * math.log(2))
    assert change(side(1000), side(600, spread=spread), 0.02).verdict == "inconclusive"
    assert spread_of_variation(0.01, waited=1.0) == spread


def test_no_run_is_believed_to_repeat_itself_exactly():
    assert assumed_spread([0.02] * 100) == FLOOR
    assert spread_of_variation(0.0) == FLOOR


def test_step_times_and_their_variation_tell_the_same_of_normal_noise():
    rng = random.Random(1)
    told = [assumed_spread([rng.gauss(1.0, 0.01) for _ in range(80)]) for _ in range(200)]
    assert fmean(told) == pytest.approx(spread_of_variation(0.01), rel=0.05)


def test_the_smallest_slowdown_is_seen_four_times_in_five():
    """Simulated: runs that differ by exactly the spread that is assumed."""
    rng = random.Random(2)
    spread, runs = 0.01, 8000
    expected = change(side(1, spread=spread), side(1, spread=spread), 0.02).smallest_slowdown

    def one(speed):
        return [Sample(speed * math.exp(rng.gauss(0, spread)), 0.0, spread)]

    seen = sum(change(one(1.0), one(1 - expected), 0.02).verdict == "slower" for _ in range(runs))
    assert 0.79 < seen / runs < 0.9


def test_identical_code_is_hardly_ever_called_slower_on_a_noisy_machine():
    """Recorded processes, between which rules in use err in 40 of 100 (docs/compare.md)."""
    processes = distilled()
    assert len(processes) == 60
    assert shares(any_two(processes))["slower"] < 0.005
    for runs in (2, 3, 5, 10):
        assert shares(neighbours(processes, runs))["slower"] <= 0.01


def test_what_is_called_inconclusive_there_could_still_be_told_if_it_were_large():
    assert shares(neighbours(distilled(), 10), 0.5)["slower"] > 0.8
