"""Verdicts of an A/B comparison: of each metric, of each case, of the gate."""

from __future__ import annotations

import math

import pytest

from llmbench.results.ab import AbGate
from llmbench.results.schema import Error
from llmbench.stats.ab import OUTCOMES, UNTOLD, WORSE, compared, course
from llmbench.stats.lockstep import differences
from tests import ab_factory
from tests.ab_factory import CASE, FAILED, LOOKS, OUT_OF_MEMORY, SCENARIOS, made_ab, made_session, made_sessions


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_its_verdict(name):
    made = SCENARIOS[name]
    found = made.comparison
    assert [case.outcome for case in found.cases] == list(made.outcomes)
    assert [(row.case, row.metric) for row in found.failures] == list(made.worse)
    assert found.exit_code == made.code


def test_the_scenarios_have_every_outcome_and_exit_code():
    assert {outcome for made in SCENARIOS.values() for outcome in made.outcomes} == set(OUTCOMES)
    assert {made.code for made in SCENARIOS.values()} == {0, 1, 3}
    assert set(OUTCOMES) > WORSE | UNTOLD


@pytest.mark.parametrize("name", [name for name, made in SCENARIOS.items() if "inconclusive" in made.outcomes])
def test_what_is_open_says_why(name):
    found = SCENARIOS[name].comparison
    assert all(row.reason for case in found.cases for row in case.rows if row.outcome in UNTOLD)


def test_reasons_are_of_their_kind():
    def reason(name):
        return next(row.reason for row in SCENARIOS[name].comparison.rows if row.outcome in UNTOLD)

    assert reason("budget over") == "4 sessions did not settle it yet"
    assert reason("never settled") == "20 sessions did not settle it"
    assert "too noisy" in reason("too noisy")
    assert reason("too few") == reason("not begun") == "too few sessions"
    assert "BASE failed in 1 of 1 sessions" in reason("no base")


@pytest.mark.parametrize(("name", "over"), [("too noisy", True), ("never settled", True), ("budget over", False)])
def test_whether_more_sessions_would_tell(name, over):
    assert SCENARIOS[name].comparison.cases[0].over is over


def test_the_interval_agrees_with_the_verdict():
    gate = made_ab().gate
    rows = [row for made in SCENARIOS.values() for row in made.comparison.rows if row.time]
    for row in rows:
        slower, faster = row.time.low > 1 + gate.tolerance, row.time.high < 1 - gate.tolerance
        if row.outcome in ("slower", "faster"):
            assert {"slower": slower, "faster": faster}[row.outcome]
        elif row.outcome == "same":
            assert row.time.high < 1 + gate.limit
    assert {row.outcome for row in rows} == {"slower", "faster", "same", "inconclusive"}


def test_sessions_after_a_verdict_do_not_change_it():
    """A fail is not retried until it is green."""
    bad = made_sessions(6, step=math.log(1.08), spread=0.001)
    good = [made_session(session=number, step=-0.3) for number in range(6, 12)]
    row = compared(made_ab(), [*bad, *good]).cases[0].row("step")
    assert row.outcome == "slower"
    assert row.time.sessions == row.sessions <= 6


def test_a_failure_in_an_old_session_stays():
    sessions = [made_session(broken={"cand": FAILED}), *(made_session(session=n) for n in range(1, 6))]
    found = compared(made_ab(), sessions)
    (row,) = found.cases[0].rows
    assert (row.outcome, found.exit_code) == ("broken", 1)
    assert row.reason == f"CAND failed in 1 of 6 sessions: {FAILED.message}"


def test_running_out_of_memory_together_is_no_failure_but_apart_it_is():
    both = made_session(broken={"cand": OUT_OF_MEMORY, "base": OUT_OF_MEMORY})
    apart = [made_session(session=number, design="apart") for number in range(1, 6)]
    found = compared(made_ab(), [both, *apart]).cases[0]
    assert (found.outcome, found.design, found.row("step").sessions) == ("same", "apart", 3)
    alone = made_session(session=1, design="apart", broken={"cand": OUT_OF_MEMORY})
    assert compared(made_ab(), [both, alone]).cases[0].outcome == "broken"


def test_a_failure_is_worse_than_a_base_that_could_not_be_run():
    ab = made_ab(["a/eager/ws1", "b/eager/ws1"])
    base = made_session("a/eager/ws1", broken={"base": FAILED})
    assert compared(ab, [base, *made_sessions(5, "b/eager/ws1")]).exit_code == 3
    slow = made_sessions(5, "b/eager/ws1", step=0.1, spread=0.001)
    assert compared(ab, [base, *slow]).exit_code == 1
    assert compared(ab, [base, *made_sessions(5, "b/eager/ws1")], strict=True).exit_code == 3


def test_alpha_is_split_over_the_cases():
    sessions = made_sessions(5, step=math.log(1.05), spread=0.002)
    alone = compared(made_ab(), sessions).cases[0].row("step")
    among = compared(made_ab([CASE, *(f"a/m{number}/ws1" for number in range(30))]), sessions).cases[0].row("step")
    assert alone.outcome == "slower"
    assert among.outcome != "slower"
    assert among.time.low < alone.time.low


def test_memory_has_a_gate_of_its_own():
    cpu = [
        compared(made_ab(), made_sessions(3, more=more)).cases[0].row("memory").outcome for more in (0.02, 0.04, -0.04)
    ]
    assert cpu == ["same", "more", "less"]
    device = compared(made_ab(), made_sessions(3, more=0.02, device="cuda")).cases[0].row("memory")
    assert device.outcome == "more"
    assert device.memory.ratio == pytest.approx(1.02)


def test_loss_has_a_gate_of_its_own():
    row = compared(made_ab(), made_sessions(3, loss=lambda at: 1.0 if at < 12 else 1.01)).cases[0].row("loss")
    assert (row.outcome, row.loss.verdict, row.loss.step) == ("changed", "changed", 12)
    row = compared(made_ab(), made_sessions(3)).cases[0].row("loss")
    assert (row.outcome, row.loss.verdict) == ("same", "bitwise")
    row = compared(made_ab(), made_sessions(3, loss=lambda _: 1 + 1e-7)).cases[0].row("loss")
    assert (row.outcome, row.loss.verdict) == ("same", "within")


def test_a_loss_that_is_not_finite_has_changed():
    sessions = made_sessions(3)
    for one in sessions:
        one.cand.loss[20] = None
    row = compared(made_ab(), sessions).cases[0].row("loss")
    assert (row.outcome, row.loss.value, row.loss.step) == ("changed", None, 20)


def test_what_trains_something_else_has_no_loss_to_compare():
    case = ab_factory.made_case()
    case.cand.config["seed"] = 99
    assert compared(made_ab([case]), made_sessions(3)).cases[0].row("loss") is None


def test_other_weights_are_named_where_a_loss_changed():
    sessions = made_sessions(3, loss=lambda _: 1.1)
    sessions[0].cand.facts["weights_sha256"] = "other"
    assert compared(made_ab(), sessions).cases[0].row("loss").reason == "the first weights differ"


def test_a_margin_needs_five_sessions_and_the_whole_interval():
    def outcome(amount, factor, spread):
        sessions = [
            made_session(session=number, seed_of_loss=number, loss=lambda _, n=number: factor + spread * (-1) ** n)
            for number in range(amount)
        ]
        return compared(made_ab(gate={"loss_margin": 0.01}), sessions).cases[0].row("loss").outcome

    assert outcome(4, 1.0, 0.001) == "inconclusive"
    assert outcome(5, 1.0, 0.001) == "declared"
    assert outcome(5, 1.0, 0.05) == "inconclusive"
    assert outcome(5, 1.03, 0.001) == outcome(5, 0.97, 0.001) == "changed"


def test_a_self_check_counts_what_is_told_to_differ():
    assert SCENARIOS["self-check"].comparison.false_alarms == []
    for name, metrics in (("false alarm", ["step", "total"]), ("false praise", ["step"])):
        assert [row.metric for row in SCENARIOS[name].comparison.false_alarms] == metrics
    assert SCENARIOS["slower"].comparison.false_alarms == []


def test_the_course_ends_with_what_the_verdict_was_made_by():
    for name in ("same", "never settled", "budget over", "slower step", "apart"):
        made = SCENARIOS[name].comparison
        case = made.cases[0]
        values, looks = course(made.ab, case, "step")
        assert looks[-1] is case.row("step").time
        assert [look.sessions for look in looks[:-1]] == [n for n in LOOKS if n < looks[-1].sessions]
        whole = [one for one in case.sessions if one.whole and one.design == case.design]
        assert values == [differences(one.rounds)["step"] for one in whole]
        assert [one for one, _ in case.counted] == whole


def test_the_course_of_too_few_sessions_has_no_look():
    made = SCENARIOS["too few"].comparison
    values, looks = course(made.ab, made.cases[0], "total")
    assert (len(values), looks) == (1, [])


def test_a_clock_that_did_not_tick_does_not_divide_by_zero():
    session = made_session()
    for one in session.rounds:
        one.base.waited = one.base.wall
    assert math.isfinite(differences(session.rounds)["total"])


@pytest.mark.parametrize("steps", [[], [math.nan]])
def test_a_session_without_a_time_counts_nowhere(steps):
    sessions = made_sessions(6)
    for one in sessions[0].rounds:
        one.cand.steps = steps
    case = compared(made_ab(), sessions).cases[0]
    assert [one for one, _ in case.counted] == sessions[1:]
    assert case.row("step").time.sessions <= 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"looks": []},
        {"looks": [1, 3]},
        {"looks": [5, 3]},
        {"looks": [3, 3]},
        {"alpha": 0.0},
        {"alpha": 0.6},
        {"beta": math.nan},
        {"tolerance": -0.01},
        {"limit": 1.0},
    ],
)
def test_rules_that_are_none_are_refused(wrong):
    rules = {"tolerance": 0.01, "limit": 0.05, "alpha": 0.01, "beta": 0.05, "looks": LOOKS}
    assert AbGate(**rules)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AbGate(**rules | wrong)


def test_a_session_of_another_case_counts_for_none():
    found = compared(
        made_ab(), [*made_sessions(5), made_session("other/eager/ws1", broken={"cand": Error(type="a", message="b")})]
    )
    assert found.exit_code == 0
    assert len(found.cases[0].sessions) == 5
