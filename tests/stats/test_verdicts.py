from __future__ import annotations

import math

import pytest

from llmbench.results.schema import Throughput
from llmbench.stats.verdicts import final, finite, half_width, learned, noise, parity

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(("count", "last"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (100, 10)])
def test_the_final_loss_is_the_mean_of_the_last_tenth(count: int, last: int) -> None:
    losses = [float(step) for step in range(count)]
    assert final(losses) == sum(losses[-last:]) / last


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_loss_that_is_not_finite_is_seen_wherever_it_is(bad: float) -> None:
    assert finite([3.0, 2.0])
    for place in range(3):
        losses = [3.0, 2.0, 1.0]
        losses[place] = bad
        assert not finite(losses)
        assert not learned(losses)


@pytest.mark.parametrize(
    ("first", "last", "verdict"),
    [
        (4.0, 3.95, True),
        (4.0, 3.96, False),  # 1 % exactly is not enough
        (4.0, 4.0, False),
        (4.0, 5.0, False),
        (-4.0, -4.05, True),  # a likelihood may be above one
        (-4.0, -4.03, False),
        (0.0, 0.0, False),
    ],
)
def test_a_loss_must_fall_by_more_than_1_percent(first: float, last: float, verdict: bool) -> None:
    assert learned([first, *[3.0] * 18, last, last]) is verdict


def test_a_curve_that_only_dips_has_not_learned() -> None:
    assert not learned([4.0] + [1.0] * 15 + [4.0] * 4)


def test_parity_is_the_largest_relative_difference_of_the_smoothed_curves() -> None:
    reference = [2.0] * 30
    found = parity([2.0] * 15 + [2.2] + [2.0] * 14, reference, "gpt-tiny/eager/ws1", limit=0.011)
    assert found.value == pytest.approx(0.01)  # 10 % of one step in ten
    assert (found.reference, found.limit, found.verdict) == ("gpt-tiny/eager/ws1", 0.011, "pass")
    assert "10 steps" in found.metric


def test_parity_at_its_limit() -> None:
    reference = [4.0] * 20
    assert parity([4.5] * 20, reference, "r", limit=0.125).verdict == "pass"
    assert parity([4.5] * 20, reference, "r", limit=0.1249).verdict == "fail"
    assert parity([3.5] * 20, reference, "r", limit=0.125).value == 0.125
    assert parity(reference, reference, "r", limit=0.0).verdict == "pass"


@pytest.mark.parametrize(("mine", "theirs"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (INF, INF), (NAN, NAN)])
def test_parity_cannot_be_told_without_finite_losses(mine: float, theirs: float) -> None:
    found = parity([1.0, mine], [1.0, theirs], "r", limit=1e9)
    assert (found.value, found.verdict) == (None, "fail")


def test_parity_with_a_loss_of_zero() -> None:
    """A text of one letter is learned to a loss of exactly 0 in fp32."""
    assert parity([0.0] * 10, [0.0] * 10, "r", limit=0.0).verdict == "pass"
    found = parity([1e-9] * 10, [0.0] * 10, "r", limit=1e-3)
    assert (found.value, found.verdict) == (INF, "fail")


def throughput(half: float, n: int = 75) -> Throughput:
    return Throughput(value=1000.0, unit="tokens/s", ci95=(1000.0 * (1 - half), 1000.0 * (1 + half)), n=n)


def test_the_half_width_of_an_interval() -> None:
    assert half_width(1000.0, (960.0, 1060.0)) == 0.05


CALM = {"wall_seconds": 10.0, "cpu_seconds": 10.0, "others_cpu_seconds": 0.0, "steal_seconds": 0.0}


def test_noise_at_its_limit() -> None:
    quiet = noise(Throughput(value=1000.0, unit="tokens/s", ci95=(950.0, 1050.0), n=75), 0.3, CALM)
    assert (quiet.verdict, quiet.cause, quiet.cv) == ("quiet", None, 0.3)
    noisy = noise(Throughput(value=1000.0, unit="tokens/s", ci95=(949.0, 1050.0), n=75), 0.3, CALM)
    assert noisy.verdict == "noisy"


@pytest.mark.parametrize(
    ("load", "cause"),
    [
        ({"others_cpu_seconds": 2.6, "steal_seconds": 0.4}, "other processes used 0.3 CPUs; stop them"),
        ({"others_cpu_seconds": 9.0, "steal_seconds": 0.6}, "the hypervisor took 0.06 CPUs away"),
        ({"others_cpu_seconds": 2.5, "steal_seconds": 0.5}, "only 75 timed steps of uneven length"),
        ({"others_cpu_seconds": None, "steal_seconds": None}, "only 75 timed steps"),
        ({"wall_seconds": None, "others_cpu_seconds": 9.0}, "only 75 timed steps"),
        ({"wall_seconds": 0.0, "others_cpu_seconds": 9.0}, "only 75 timed steps"),
    ],
)
def test_noise_names_its_likely_cause_and_the_setting_that_helps(load: dict[str, float | None], cause: str) -> None:
    found = noise(throughput(0.06), 0.3, CALM | load)
    assert found.verdict == "noisy"
    assert str(found.cause).startswith(cause)
    assert str(found.cause).endswith("--set steps=300")


def test_noise_without_any_counter_of_the_machine() -> None:
    assert str(noise(throughput(0.06, n=6), 0.3, {}).cause).startswith("only 6 timed steps")
