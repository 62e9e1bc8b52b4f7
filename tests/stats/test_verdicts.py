from __future__ import annotations

import math

import pytest

from llmbench.results.schema import Hardware, ParityCheck, Range, Throughput
from llmbench.stats.verdicts import (
    curve_checks,
    final,
    finite,
    half_width,
    learned,
    machine_load,
    noise,
    parity,
    waited,
)

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


def one_check(losses: list[float], reference: list[float], limit: float) -> ParityCheck:
    (check,) = curve_checks(losses, reference, "gpt-tiny/eager/ws1", limit)
    return check


def test_parity_is_the_largest_relative_difference_of_the_smoothed_curves() -> None:
    reference = [4.0] * 40
    mine = [4.0] * 20 + [5.0] * 10 + [4.0] * 10
    check = one_check(mine, reference, limit=0.1)
    assert (check.value, check.verdict, check.reference) == (0.25, "fail", "gpt-tiny/eager/ws1")
    # Of ten steps in a row the mean reaches 4.4 when four of them are 5: those up to step 23 (0.4 / 4 is rounded up).
    assert check.step == 23
    assert one_check(mine, reference, limit=0.25).step is None


def test_a_single_step_that_jumps_counts_a_tenth() -> None:
    assert one_check([4.0] * 20 + [8.0] + [4.0] * 19, [4.0] * 40, limit=0.1).value == pytest.approx(0.1)


def test_parity_at_its_limit() -> None:
    reference = [4.0] * 20
    assert one_check([4.5] * 20, reference, limit=0.125).verdict == "pass"
    assert one_check([4.5] * 20, reference, limit=0.1249).verdict == "fail"
    assert one_check([3.5] * 20, reference, limit=0.125).value == 0.125
    assert one_check(reference, reference, limit=0.0).verdict == "pass"


def test_a_long_training_is_held_at_its_beginning_and_at_its_end() -> None:
    """Rounding grows with the steps, so that after the first 100 only the end counts, and less strictly."""
    reference = [4.0] * 300
    wanders = [4.0] * 100 + [4.4] * 150 + [4.015] * 50
    start, end = curve_checks(wanders, reference, "r", limit=1e-3)
    assert (start.value, start.verdict) == (0.0, "pass")
    assert end.value == pytest.approx(0.015 / 4)
    assert (end.limit, end.verdict, end.step) == (5e-3, "pass", None)
    _, end = curve_checks([4.0] * 100 + [4.1] * 200, reference, "r", limit=1e-3)
    assert end.verdict == "fail"
    _, end = curve_checks([4.0] * 100 + [4.03] * 200, reference, "r", limit=1e-2)
    assert (end.limit, end.verdict) == (1e-2, "pass")  # never stricter than the mode's own


@pytest.mark.parametrize(("mine", "theirs"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (INF, INF), (NAN, NAN)])
def test_parity_cannot_be_told_without_finite_losses(mine: float, theirs: float) -> None:
    found = one_check([1.0, mine], [1.0, theirs], limit=1e9)
    assert (found.value, found.verdict) == (None, "fail")
    assert found.step == (None if mine == 1.0 else 1)


def test_parity_with_a_loss_of_zero() -> None:
    """A text of one letter is learned to a loss of exactly 0 in fp32."""
    assert one_check([0.0] * 10, [0.0] * 10, limit=0.0).verdict == "pass"
    found = one_check([1e-9] * 10, [0.0] * 10, limit=1e-3)
    assert (found.value, found.verdict) == (INF, "fail")


def check(value: float | None, limit: float, verdict: str, name: str = "r") -> ParityCheck:
    return ParityCheck(reference=name, metric="m", limit=limit, value=value, verdict=verdict)


def test_the_first_check_that_failed_is_the_verdict_of_all() -> None:
    checks = [check(0.5, 1.0, "pass"), check(None, 1.0, "fail", "first"), check(9.0, 1.0, "fail", "second")]
    found = parity(checks, deterministic=True)
    assert (found.verdict, found.reference, found.deterministic) == ("fail", "first", True)
    assert found.checks == checks


def test_of_those_that_passed_the_closest_to_its_limit_is_told() -> None:
    checks = [check(0.5, 1.0, "pass", "half"), check(0.09, 0.1, "pass", "near"), check(0.0, 0.0, "pass", "exact")]
    assert parity(checks, deterministic=None).reference == "near"


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
        ({"others_cpu_seconds": 9.0, "quota_seconds": 6.0}, "0.60 CPUs waited for the container's CPU quota; raise it"),
        ({"quota_seconds": 0.5}, "only 75 timed steps"),
        ({"others_cpu_seconds": None, "steal_seconds": None, "quota_seconds": None}, "only 75 timed steps"),
        ({"wall_seconds": None, "others_cpu_seconds": 9.0}, "only 75 timed steps"),
        ({"wall_seconds": 0.0, "others_cpu_seconds": 9.0}, "only 75 timed steps"),
    ],
)
def test_noise_names_its_likely_cause_and_the_setting_that_helps(load: dict[str, float | None], cause: str) -> None:
    found = noise(throughput(0.06), 0.3, CALM | load, budget_seconds=10)
    assert found.verdict == "noisy"
    assert str(found.cause).startswith(cause)
    assert str(found.cause).endswith("; time longer: --set budget_seconds=40")


def test_noise_without_any_counter_of_the_machine() -> None:
    assert str(noise(throughput(0.06, n=6), 0.3, {}).cause).startswith("only 6 timed steps")


def hardware(
    clock: tuple[float, float] | None = None, throttled: tuple[str, ...] = (), busy: float | None = 0.99
) -> Hardware:
    return Hardware(
        samples=9,
        source="NVML",
        clock_mhz=Range(mean=sum(clock) / 2, low=clock[0], high=clock[1]) if clock else None,
        utilization=None if busy is None else Range(mean=busy, low=0.0, high=1.0),
        throttled=list(throttled),
    )


FEW = "only 75 timed steps"


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (hardware(), FEW),
        (hardware(clock=(950.0, 1000.0)), FEW),
        (hardware(clock=(949.0, 1000.0)), "the clock fell from 1000 to 949 MHz"),
        (hardware(clock=(1900.0, 1980.0), throttled=("thermal",)), "the clock was held down (thermal); cool"),
        (hardware(throttled=("power brake", "thermal")), "the clock was held down (power brake, thermal)"),
        (hardware(clock=(1400.0, 1980.0)), "the clock fell from 1980 to 1400 MHz; lock it"),
        (hardware(clock=(1400.0, 1980.0), busy=None), "the clock fell from 1980 to 1400 MHz"),
        # An idle device lowers its clock by itself.
        (hardware(clock=(1400.0, 1980.0), busy=0.3), FEW),
        # A big GPU trains at its power limit all the time: that makes no noise while the clock keeps still.
        (hardware(clock=(1700.0, 1750.0), throttled=("power cap",)), FEW),
        (hardware(clock=(1400.0, 1750.0), throttled=("power cap",)), "the clock was held down (power cap)"),
        (hardware(throttled=("power cap",)), "the clock was held down (power cap)"),
        (hardware(clock=(1700.0, 1750.0), throttled=("power cap", "thermal")), "the clock was held down (thermal)"),
    ],
)
def test_noise_by_throttling(state: Hardware, cause: str) -> None:
    found = noise(throughput(0.06), 0.3, CALM, state)
    assert str(found.cause).startswith(cause)
    assert str(found.cause).endswith("; time longer: --set budget_seconds=20")


def test_other_load_is_a_likelier_cause_than_throttling() -> None:
    found = noise(throughput(0.06), 0.3, CALM | {"others_cpu_seconds": 9.0}, hardware(throttled=("thermal",)))
    assert str(found.cause).startswith("other processes")


def test_throttling_is_no_noise_if_the_interval_is_narrow() -> None:
    assert noise(throughput(0.01), 0.3, CALM, hardware(throttled=("thermal",))).verdict == "quiet"


RANK = {
    "wall_seconds": 10.0,
    "cpu_seconds": 9.0,
    "preempted": 3.0,
    "busy_seconds": 20.0,
    "others_cpu_seconds": 11.0,
    "steal_seconds": 0.5,
    "quota_seconds": None,
}


def test_a_rank_is_no_other_process_to_its_siblings() -> None:
    other = RANK | {"wall_seconds": 10.5, "cpu_seconds": 10.0, "others_cpu_seconds": 10.0, "quota_seconds": 0.25}
    assert machine_load([RANK, other]) == {
        "wall_seconds": 10.5,
        "cpu_seconds": 19.0,
        "preempted": 6.0,
        "busy_seconds": 20.0,
        "others_cpu_seconds": 1.0,
        "steal_seconds": 0.5,
        "quota_seconds": 0.25,
    }


def test_the_load_of_one_rank_is_its_own() -> None:
    assert machine_load([RANK]) == RANK


def test_the_load_of_ranks_that_cannot_read_it() -> None:
    blind = dict.fromkeys(RANK, None) | {"wall_seconds": 1.0, "cpu_seconds": 1.0}
    found = machine_load([blind, blind])
    assert (found["cpu_seconds"], found["others_cpu_seconds"], found["steal_seconds"]) == (2.0, None, None)


@pytest.mark.parametrize(
    ("load", "threads", "seconds"),
    [
        ({"cpu_seconds": 10.0, "others_cpu_seconds": 0.2}, 1, 0.0),  # it had its CPU all the time
        ({"cpu_seconds": 5.0, "others_cpu_seconds": 15.0}, 1, 1.0),  # half of the time
        ({"cpu_seconds": 12.0, "others_cpu_seconds": 0.6}, 2, 0.05),  # its threads waited for each other, too
        ({"cpu_seconds": 5.0, "others_cpu_seconds": 0.0, "steal_seconds": 2.0, "quota_seconds": 1.0}, 1, 0.6),
        ({"cpu_seconds": 5.0, "others_cpu_seconds": None}, 1, None),
        ({"cpu_seconds": 0.0, "others_cpu_seconds": 1.0}, 1, None),
    ],
)
def test_what_others_may_have_taken_is_bounded_by_what_was_missing(load, threads, seconds):
    assert waited({"wall_seconds": 10.0} | load, threads) == (seconds if seconds is None else pytest.approx(seconds))
