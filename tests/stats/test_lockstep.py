"""Verdicts of lock-step sessions: what a session says, what many say, and how often that is wrong."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.results.ab import Round, Turn
from llmbench.stats.lockstep import (
    METRICS,
    Difference,
    Gate,
    differences,
    given_up,
    hopeless,
    judge,
    settled,
)

GATE = Gate()
MOST = GATE.looks[-1]


def turn(*steps: float, cpu: float | None = None, waited: float | None = None, wall: float | None = None) -> Turn:
    return Turn(steps=list(steps), wall=sum(steps) if wall is None else wall, cpu=cpu, waited=waited)


def a_round(base: Turn, cand: Turn) -> Round:
    return Round(first="base", base=base, cand=cand)


def swapped(rounds: Sequence[Round]) -> list[Round]:
    return [Round(first="base", base=one.cand, cand=one.base) for one in rounds]


seconds = st.floats(1e-6, 1e3)
turns = st.builds(
    lambda steps, share, waits: turn(*steps, cpu=share * sum(steps), waited=waits * sum(steps)),
    st.lists(seconds, min_size=1, max_size=4),
    st.floats(0.1, 1.0),
    st.floats(0.0, 0.9),
)
some_rounds = st.lists(st.builds(a_round, turns, turns), min_size=1, max_size=9)
anything = st.floats(allow_nan=True, allow_infinity=True)
any_turn = st.builds(
    lambda steps, wall, cpu, waited: Turn(steps=steps, wall=wall, cpu=cpu, waited=waited),
    st.lists(anything, max_size=3),
    anything,
    st.none() | anything,
    st.none() | anything,
)
some_values = st.lists(st.floats(-0.5, 0.5) | st.floats(-1e300, 1e300), min_size=2, max_size=25)
gates = st.builds(
    Gate,
    tolerance=st.sampled_from([0.0, 0.01, 0.03]),
    limit=st.sampled_from([0.05, 0.2]),
    alpha=st.sampled_from([0.001, 0.01, 0.2]),
    beta=st.sampled_from([0.01, 0.05]),
    comparisons=st.sampled_from([1, 7, 100]),
    looks=st.sampled_from([GATE.looks, (3, 5, 8, 12, 20), (2, 4)]),
)


# What one session says


def test_step_is_the_median_ratio_of_the_fastest_steps() -> None:
    rounds = [a_round(turn(1.0, 1.0), turn(ratio, ratio)) for ratio in (1.02, 1.04, 1.30)]
    assert differences(rounds)["step"] == pytest.approx(math.log(1.04))


def test_total_counts_sleep_but_no_waiting_for_a_cpu() -> None:
    base = turn(1.0, 1.0, cpu=2.0, waited=0.0)
    pushed_aside = turn(3.0, 1.0, cpu=2.0, waited=2.0)
    asleep = turn(1.0, 1.2, cpu=2.0, waited=0.0)
    assert differences([a_round(base, pushed_aside)])["total"] == pytest.approx(0.0)
    assert differences([a_round(base, asleep)])["total"] == pytest.approx(math.log(1.1))


def test_total_takes_the_best_clock_that_all_turns_have() -> None:
    base = turn(1.0, cpu=0.9, waited=0.0)
    without_waits = turn(1.3, cpu=0.99)
    without_cpu = turn(1.3)
    no_cpu_at_all = turn(1.3, cpu=0.0)
    assert differences([a_round(base, without_waits)])["total"] == pytest.approx(math.log(1.1))
    assert differences([a_round(base, without_cpu)])["total"] == pytest.approx(math.log(1.3))
    assert differences([a_round(base, no_cpu_at_all)])["total"] == pytest.approx(math.log(1.3))


def test_rare_slow_steps_are_seen_by_the_total_only() -> None:
    plain = [a_round(turn(1.0, 1.0, 1.0, cpu=3.0), turn(1.0, 1.0, 1.0, cpu=3.0)) for _ in range(7)]
    slow = [a_round(turn(1.0, 1.0, 1.0, cpu=3.0), turn(1.0, 1.0, 2.0, cpu=4.0)) for _ in range(2)]
    found = differences(plain + slow)
    assert found["step"] == 0
    assert found["total"] == pytest.approx(math.log(29 / 27))


@given(some_rounds)
def test_swapping_the_sides_changes_the_sign(rounds: list[Round]) -> None:
    one, other = differences(rounds), differences(swapped(rounds))
    for metric in METRICS:
        assert one[metric] == pytest.approx(-other[metric], abs=1e-9)


@given(some_rounds, st.floats(1.0, 3.0))
def test_an_exact_slowdown_is_found_exactly(rounds: list[Round], factor: float) -> None:
    def slow(one: Turn) -> Turn:
        parts = {"wall": one.wall, "cpu": one.cpu or 0.0, "waited": one.waited or 0.0}
        return Turn(steps=[factor * step for step in one.steps], **{k: factor * v for k, v in parts.items()})

    before = differences(rounds)
    after = differences([a_round(one.base, slow(one.cand)) for one in rounds])
    for metric in METRICS:
        assert after[metric] - before[metric] == pytest.approx(math.log(factor), abs=1e-6)


@given(st.lists(st.builds(a_round, any_turn, any_turn), max_size=4))
def test_no_times_raise_and_what_is_said_is_finite(rounds: list[Round]) -> None:
    found = differences(rounds)
    assert set(found) in (set(), set(METRICS))
    assert all(math.isfinite(value) for value in found.values())


def test_rounds_that_tell_nothing_are_left_out() -> None:
    good = a_round(turn(1.0), turn(1.1))
    bad = [a_round(turn(1.0), turn(math.nan)), a_round(turn(1.0), turn(wall=1.0)), a_round(turn(math.inf), turn(1.0))]
    assert differences([good, *bad]) == differences([good])
    assert differences(bad) == {}
    assert differences([]) == {}


def test_no_time_at_all_is_the_shortest_a_clock_can_tell() -> None:
    zero = turn(0.0, 0.0, cpu=0.0)
    assert differences([a_round(zero, zero)]) == {"step": 0.0, "total": 0.0}
    assert differences([a_round(turn(0.0), turn(1.0))])["step"] == pytest.approx(math.log(1e9))


# What many sessions say


@given(some_values, gates)
def test_interval_and_verdict_agree(values: list[float], gate: Gate) -> None:
    found = judge(values, gate)
    assert found is not None
    assert 0 <= found.low <= found.ratio <= found.high
    expected = (
        "slower"
        if found.low > 1 + gate.tolerance
        else "faster"
        if found.high < 1 / (1 + gate.tolerance)
        else "same"
        if found.high < 1 + gate.limit
        else "inconclusive"
    )
    edges = (1 + gate.tolerance, 1 / (1 + gate.tolerance), 1 + gate.limit)
    if not any(math.isclose(end, edge, rel_tol=1e-12) for end in (found.low, found.high) for edge in edges):
        assert found.verdict == expected
    assert found.noise > 0
    assert found.smallest_slowdown > gate.tolerance


@given(some_values, gates)
def test_whoever_is_slower_makes_the_other_faster(values: list[float], gate: Gate) -> None:
    one, other = judge(values, gate), judge([-value for value in values], gate)
    assert one is not None
    assert other is not None
    assert (one.verdict == "slower") == (other.verdict == "faster")
    if abs(math.log(one.ratio or 1e-300)) < 600:
        assert one.ratio * other.ratio == pytest.approx(1)
    assert one.noise == pytest.approx(other.noise)


@given(some_values, gates, st.randoms(use_true_random=False))
def test_the_order_of_sessions_does_not_matter(values: list[float], gate: Gate, rng: random.Random) -> None:
    mixed = rng.sample(values, len(values))
    one, other = judge(values, gate), judge(mixed, gate)
    assert one is not None
    assert other is not None
    assert one.ratio == pytest.approx(other.ratio)


def test_fewer_than_two_sessions_say_nothing() -> None:
    assert judge([], GATE) is None
    assert judge([0.3], GATE) is None


def test_everything_is_plain_json() -> None:
    for values in ([1e300, -1e300], [0.0, 0.0], [700.0, 700.0, 700.0]):
        found = judge(values, GATE)
        assert found is not None
        json.dumps(vars(found), allow_nan=False)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.05, 0.051, 0.049, 0.05], "slower"),
        ([-0.05, -0.051, -0.049, -0.05], "faster"),
        ([0.002, -0.003, 0.001], "same"),
        ([0.03, 0.031, 0.029], "same"),
        ([0.05, 0.051, 0.049], "inconclusive"),  # three that agree may do so by luck
        ([0.2, -0.2, 0.1, 0.0, -0.1], "inconclusive"),
        ([0.001, 0.002], "inconclusive"),  # before the first look
    ],
)
def test_verdicts(values: list[float], verdict: str) -> None:
    found = judge(values, GATE)
    assert found is not None
    assert found.verdict == verdict


def test_faster_is_as_sure_as_slower_although_the_same_is_less() -> None:
    values = [-0.029, -0.021, -0.025, -0.025]
    found, mirrored = judge(values, GATE), judge([-value for value in values], GATE)
    assert found is not None
    assert mirrored is not None
    assert (found.verdict, mirrored.verdict) == ("same", "same")
    assert found.high >= 1 / 1.01


def test_nothing_is_decided_before_the_first_look() -> None:
    for sessions, verdict in ((7, "inconclusive"), (8, "same")):
        found = judge([0.0] * sessions, Gate(looks=(8, 12)))
        assert found is not None
        assert found.verdict == verdict
        assert (found.high < 1.05) == (verdict == "same")


def test_the_more_cases_the_later_luck_is_believed() -> None:
    assert GATE.earliest == 4
    assert Gate(comparisons=10).earliest == 6
    assert Gate(alpha=0.5).earliest == 3
    values = [0.05, 0.051, 0.049, 0.05, 0.05]
    found = judge(values, Gate(comparisons=10))
    assert found is not None
    assert found.verdict == "inconclusive"


def test_settled() -> None:
    slower, same, unclear = (judge(values, GATE) for values in ([0.05] * 4, [0.0] * 4, [0.05, -0.05, 0.05, -0.05]))
    assert slower is not None
    assert same is not None
    assert unclear is not None
    assert settled([slower, unclear], GATE)
    assert settled([same, same], GATE)
    assert not settled([same, unclear], GATE)
    assert not settled([], GATE)


def test_what_looks_faster_is_not_left_at_the_same() -> None:
    """After three sessions nothing may be called faster yet, but the same."""
    early, later = (judge([-0.1] * sessions, GATE) for sessions in (3, 4))
    assert early is not None
    assert later is not None
    assert (early.verdict, later.verdict) == ("same", "faster")
    assert not settled([early, early], GATE)
    assert settled([later, later], GATE)


# How often it is wrong


def over_looks(draw: Callable[[], list[float]], gate: Gate) -> Difference:
    """One metric, looked at until its verdict is in."""
    values = draw()
    for look in gate.looks:
        found = judge(values[:look], gate)
        assert found is not None
        if settled([found], gate):
            break
    return found


def share(draws: int, gate: Gate, verdict: str, draw: Callable[[], list[float]]) -> float:
    return sum(over_looks(draw, gate).verdict == verdict for _ in range(draws)) / draws


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.1, 2.0])
def test_identical_code_is_called_slower_no_more_often_than_alpha_says(spread: float) -> None:
    """A level that shows in few draws: of one metric with a share of 4 %, where noise is far above the tolerance."""
    rng = random.Random(3)
    gate = Gate(alpha=0.08)
    found = share(1500, gate, "slower", lambda: [rng.gauss(0, spread) for _ in range(MOST)])
    assert found <= gate.share + 3 * math.sqrt(gate.share / 1500)


@pytest.mark.parametrize("spread", [0.01, 0.03, 0.06])
def test_a_slowdown_of_the_limit_passes_as_the_same_no_more_often_than_beta_says(spread: float) -> None:
    rng = random.Random(4)
    found = share(1000, GATE, "same", lambda: [math.log(1.05) + rng.gauss(0, spread) for _ in range(MOST)])
    assert found <= GATE.beta + 3 * math.sqrt(GATE.beta / 1000)


def test_tails_that_are_heavy_raise_no_more_alarms() -> None:
    rng = random.Random(5)

    def draw() -> list[float]:
        return [0.05 * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(1.5, 2) / 3) for _ in range(MOST)]

    gate = Gate(alpha=0.08)
    assert share(1000, gate, "slower", draw) <= gate.share + 3 * math.sqrt(gate.share / 1000)


@pytest.mark.parametrize("gap", [0.04, 0.1])
def test_processes_of_two_speeds_raise_no_more_alarms(gap: float) -> None:
    rng = random.Random(6)

    def draw() -> list[float]:
        return [gap * (rng.randrange(2) - rng.randrange(2)) + rng.gauss(0, 0.001) for _ in range(MOST)]

    found = share(3000, GATE, "slower", draw)
    assert found <= GATE.alpha / 2 + 3 * math.sqrt(GATE.alpha / 2 / 3000)


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_the_smallest_slowdown_is_seen_four_times_in_five(spread: float) -> None:
    """A slowdown as large as what comparisons of identical code say they could have seen."""
    rng = random.Random(7)
    told = [over_looks(lambda: [rng.gauss(0, spread) for _ in range(MOST)], GATE).smallest_slowdown for _ in range(300)]
    slowdown = math.log1p(median(told))
    seen = share(600, GATE, "slower", lambda: [slowdown + rng.gauss(0, spread) for _ in range(MOST)])
    assert seen > 0.8


def test_a_few_sessions_are_never_hopeless_and_quiet_ones_neither() -> None:
    rng = random.Random(8)
    assert not hopeless([], GATE)
    assert not hopeless([rng.gauss(0, 5) for _ in range(7)], GATE)
    assert not hopeless([rng.gauss(0, 0.02) for _ in range(8)], GATE)
    assert hopeless([rng.gauss(0, 5) for _ in range(8)], GATE)


@pytest.mark.parametrize(("spread", "lost"), [(0.03, 0.01), (0.05, 0.04), (0.08, 0.07)])
def test_giving_up_costs_few_verdicts(spread: float, lost: float) -> None:
    rng = random.Random(9)
    draws = 300
    early = 0
    for _ in range(draws):
        values = [rng.gauss(0, spread) for _ in range(MOST)]
        patient = over_looks(lambda values=values: values, GATE)
        if patient.verdict != "inconclusive":
            looks = [look for look in GATE.looks if look < patient.sessions]
            early += any(given_up([values[:look]], GATE) for look in looks)
    assert early / draws <= lost


def test_a_case_is_given_up_only_if_all_that_is_open_is_hopeless() -> None:
    wild, wider = ([size * (-1) ** place for place in range(8)] for size in (5.0, 7.0))
    unclear = [0.1 * (-1) ** place for place in range(8)]
    assert not hopeless(unclear, GATE)
    same = [0.001 * (-1) ** place for place in range(8)]
    assert given_up([wild, wider], GATE)
    assert given_up([wild, same], GATE)
    assert not given_up([wild, unclear], GATE)
    assert not given_up([same, same], GATE)
    assert not given_up([[], wild], GATE)
