"""False alarms over many comparisons of a side with itself: how many chance allows, the noise, the order of start."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from llmbench.results.history import read_history
from llmbench.stats.selfcheck import chance_of_so_many, judged_self_checks, mann_whitney, self_checks
from tests import factory

CASES = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile")]
ID = "gpt-tiny/eager/ws1"


def checks(path, amount, ratio=lambda number: 1.0, **changes):
    """Self-checks of as many nights, of which one has so large a ratio."""
    for number in range(amount):
        factory.ab_comparison(
            path, number, CASES[:1], lambda case, session, at=number: ratio(at), self_check=True, **changes
        )
    return self_checks([path])


def test_no_alarm_is_no_warning(tmp_path):
    found = checks(tmp_path, 12)
    assert (len(found.checks), found.alarmed, found.false_alarms) == (12, 0, [])
    assert found.p_value == 1.0
    assert not found.distrusted
    assert found.expected == pytest.approx(12 * 0.02)
    assert found.usual_noise == pytest.approx(0.01, rel=0.4)


def test_one_alarm_in_ten_is_chance_and_three_are_not(tmp_path):
    one = checks(tmp_path / "one", 10, lambda number: 1.1 if number == 4 else 1.0)
    assert [(alarm.run.id, alarm.case, alarm.verdict) for alarm in one.false_alarms] == [
        (factory.night(4).id, ID, "slower"),
        (factory.night(4).id, ID, "slower"),
    ]
    assert [alarm.metric for alarm in one.false_alarms] == ["step", "total"]
    assert one.alarmed == 1
    assert one.p_value == pytest.approx(stats.binomtest(1, 10, 0.02, alternative="greater").pvalue)
    assert not one.distrusted
    three = checks(tmp_path / "three", 10, lambda number: 1.1 if number < 3 else 1.0)
    assert {alarm.verdict for alarm in three.false_alarms} == {"slower"}
    assert three.p_value == pytest.approx(stats.binomtest(3, 10, 0.02, alternative="greater").pvalue)
    assert three.distrusted


@pytest.mark.parametrize(("alarms", "amount", "chance"), [(0, 5, 0.1), (1, 1, 0.02), (4, 200, 0.01), (30, 1000, 0.02)])
def test_equal_chances_are_the_binomial_test(alarms, amount, chance):
    expected = stats.binomtest(alarms, amount, chance, alternative="greater").pvalue
    assert chance_of_so_many(alarms, [chance] * amount) == pytest.approx(expected, rel=1e-9)


def test_chances_may_differ():
    """Two coins: both fall on 1 with the product of their chances, either with what is left of neither."""
    assert chance_of_so_many(2, [0.1, 0.3]) == pytest.approx(0.03)
    assert chance_of_so_many(1, [0.1, 0.3]) == pytest.approx(1 - 0.9 * 0.7)
    assert chance_of_so_many(3, [0.1, 0.3]) == 0.0
    assert chance_of_so_many(0, []) == 1.0


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("digits", [1, 6])
def test_mann_whitney_is_scipys(shift, digits):
    rng = random.Random(3)
    one = [round(rng.gauss(0, 1), digits) for _ in range(14)]
    other = [round(rng.gauss(shift, 1), digits) for _ in range(25)]
    expected = stats.mannwhitneyu(one, other, alternative="two-sided", method="asymptotic").pvalue
    assert mann_whitney(one, other) == pytest.approx(expected, rel=1e-9)
    assert mann_whitney([1.0] * 10, [1.0] * 12) == 1.0


def test_comparisons_of_two_sides_are_no_self_checks(tmp_path):
    for number in range(3):
        factory.ab_comparison(tmp_path, number, CASES, lambda case, session: 2.0)
    assert self_checks([tmp_path]).checks == []


@pytest.mark.parametrize("sessions", [0, 1, 2])
def test_too_few_sessions_are_no_verdict(tmp_path, sessions):
    assert checks(tmp_path, 2, lambda number: 2.0, sessions=sessions).checks == []


def test_a_case_that_failed_has_no_part(tmp_path):
    factory.ab_comparison(
        tmp_path, 1, CASES, lambda case, session: None if case.mode == "eager" else 1.0, self_check=True
    )
    [check] = self_checks([tmp_path]).checks
    assert (check.alarms, check.chance) == ([], 0.02)


def test_rules_that_are_none_are_named(tmp_path):
    for number, spoilt in enumerate(({"alpha": 0.0}, {"looks": []}, {"looks": [5, 3]}, {"limit": 7.0}, {"beta": -1.0})):
        folder = factory.ab_comparison(tmp_path, number, CASES, lambda case, session: 1.0, self_check=True)
        ab = folder.read()
        folder.write(ab.model_copy(update={"gate": ab.gate.model_copy(update=spoilt)}))
    factory.ab_comparison(tmp_path, 5, CASES, lambda case, session: 1.0, self_check=True)
    found = self_checks([tmp_path])
    assert len(found.checks) == 1
    fields = {fault.message.split(":")[0] for fault in found.faults}
    assert fields == {"gate.alpha", "gate.looks", "gate.limit", "gate.beta"}


def test_damaged_files_are_named_and_the_others_count(tmp_path):
    checks(tmp_path, 4)
    first, second, *_ = sorted(tmp_path.iterdir())
    (first / "ab.json").write_text("{")
    with (second / "sessions.jsonl").open("a") as file:
        file.write('{"schema_version":1,"case":"gpt')
    found = self_checks([tmp_path])
    assert len(found.checks) == 3
    assert sorted(fault.path.name for fault in found.faults) == ["ab.json", "sessions.jsonl"]


def test_noise_that_grew_is_a_step(tmp_path):
    for number in range(24):
        noise = 0.01 if number < 12 else 0.06
        ratio = lambda case, session: 1.0  # noqa: E731
        factory.ab_comparison(tmp_path, number, CASES[:1], ratio, self_check=True, sessions=12, noise=noise)
    found = judged_self_checks(read_history([tmp_path]).comparisons)
    [step] = found.noise_steps
    assert step.index == 12
    assert math.exp(step.size) == pytest.approx(6, rel=0.4)
    assert found.noise > 2 * found.checks[0].noise


def test_the_order_of_start(tmp_path):
    even = checks(tmp_path / "even", 10)
    assert not even.order.matters
    assert sum(even.order.sessions) == 50
    for number in range(10):
        folder = factory.ab_comparison(
            tmp_path / "biased", number, CASES[:1], lambda case, session: 1.0, self_check=True
        )
        sessions = folder.sessions()
        (folder.path / "sessions.jsonl").unlink()
        for session in sessions:
            factor = 1.03 if session.first == "cand" else 1 / 1.03
            for one in session.rounds:
                one.cand.steps = [step * factor for step in one.cand.steps]
            folder.append(session)
    order = self_checks([tmp_path / "biased"]).order
    assert order.matters
    assert order.shift == pytest.approx(2 * math.log(1.03), abs=0.01)


def test_few_sessions_tell_nothing_of_the_order(tmp_path):
    assert checks(tmp_path, 2).order is None
