"""Ratios to a pinned base over many comparisons: what is one series, what moves it, what leaves a gap."""

from __future__ import annotations

import math

import pytest

from llmbench.errors import UserError
from llmbench.results.ab import AbSide
from llmbench.results.history import read_history
from llmbench.results.schema import Git
from llmbench.stats.followed import followed
from llmbench.stats.metrics import METRICS
from llmbench.stats.ratios import ratio_history
from llmbench.stats.trends import trends
from tests import factory

CASES = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile")]
ID = "gpt-tiny/compile/ws1"


def comparisons(path, amount=20, ratio=lambda number: 1.0, cases=CASES, **changes):
    for number in range(amount):
        changed = {name: value(number) for name, value in changes.items()}
        factory.ab_comparison(path, number, cases, lambda case, session, at=number: ratio(at), **changed)
    return read_history([path])


def ratios(past, metric="ratio"):
    return trends(ratio_history(past), METRICS[metric])


def base(**changes):
    values = {"asked": "x", "label": "x", "kind": "python", "python": "/p", "environment": factory.ENVIRONMENT}
    return AbSide(**(values | changes))


def test_a_candidate_that_became_slower_is_a_step_of_the_ratio_between_its_commits(tmp_path):
    past = comparisons(tmp_path, 20, lambda number: 1.0 if number < 12 else 1.05)
    for metric in ("ratio", "ratio-total"):
        found = ratios(past, metric)
        assert [trend.case for trend in found] == [case.case for case in CASES]
        for trend in found:
            [step] = trend.steps
            assert step.index == 12
            assert step.size == pytest.approx(0.05, abs=0.01)
            assert step.worse
            assert (step.before.commit, step.after.commit) == tuple(factory.night(n).git.commit for n in (11, 12))
            assert trend.unit == "×"
            assert trend.base.name == "ba5e000"


def test_the_interval_is_of_the_sessions_and_noise_widens_it(tmp_path):
    widths = []
    for number, noise in enumerate((0.01, 0.04)):
        path = tmp_path / str(number)
        factory.ab_comparison(path, 3, CASES[:1], lambda case, session: 1.1, sessions=8, noise=noise)
        [trend] = ratios(read_history([path]))
        value = trend.points[0].value
        assert value.interval[0] < value.value < value.interval[1]
        assert value.value == pytest.approx(1.1, rel=0.04)
        widths.append(value.log_half_width)
    assert widths[1] == pytest.approx(4 * widths[0], rel=1e-6)


def test_one_session_has_a_ratio_and_no_interval(tmp_path):
    factory.ab_comparison(tmp_path, 1, CASES[:1], lambda case, session: 1.02, sessions=1, noise=0.0)
    [trend] = ratios(read_history([tmp_path]))
    assert trend.points[0].value.value == pytest.approx(1.02)
    assert trend.points[0].value.interval is None


def test_only_ratios_to_the_same_base_are_one_series(tmp_path):
    def pinned(number):
        return base(git=Git(commit=("a" if number < 6 else "b") * 40, dirty=False), label=f"/tmp/{number}")

    new, old = ratios(comparisons(tmp_path, 10, cases=CASES[:1], base=pinned))
    assert (old.state, old.told_apart[:12], len(old.points)) == ("replaced", "over aaaaaaa", 6)
    assert (new.state, new.told_apart[:12], len(new.points)) == ("few", "over bbbbbbb", 4)


def test_another_torch_in_the_base_is_another_base_and_another_host_is_not(tmp_path):
    def of_torch(number):
        return base(environment=factory.torch_at("2.12.0" if number < 2 else "2.13.0", name=f"pod-{number}"))

    found = ratios(comparisons(tmp_path, 4, cases=CASES[:1], base=of_torch))
    assert sorted((len(one.points), one.told_apart) for one in found) == [
        (2, "over x, its torch.version 2.12.0"),
        (2, "over x, its torch.version 2.13.0"),
    ]


def test_a_mode_against_another_names_both(tmp_path):
    folder = factory.ab_comparison(tmp_path, 1, CASES[1:], lambda case, session: 0.7)
    ab = folder.read()
    ab.cases[0].base = CASES[0]
    folder.write(ab)
    [trend] = ratios(read_history([tmp_path]))
    assert (trend.case, trend.base.name) == (ID, "ba5e000 gpt-tiny/eager/ws1")


def test_a_candidate_that_failed_is_broken_and_a_base_that_did_leaves_a_gap(tmp_path):
    factory.ab_comparison(tmp_path, 1, CASES[:1], lambda case, session: None, sessions=2)
    folder = factory.ab_comparison(tmp_path, 2, CASES[:1], lambda case, session: 1.0, sessions=1)
    [session] = folder.sessions()
    failed = factory.Trained(status="failed", error=factory.OUT_OF_MEMORY)
    (folder.path / "sessions.jsonl").write_text(session.model_copy(update={"base": failed}).model_dump_json() + "\n")
    [trend] = ratios(read_history([tmp_path]))
    assert [(point.status, point.broken, point.value) for point in trend.points] == [
        ("oom", True, None),
        ("skipped", False, None),
    ]
    assert "BASE failed" in trend.points[1].reason


def test_times_that_cannot_be_compared_are_named(tmp_path):
    folder = factory.ab_comparison(tmp_path, 1, CASES[:1], lambda case, session: 1.0, sessions=3)
    text = (folder.path / "sessions.jsonl").read_text().splitlines()
    empty = [line.replace('"steps":[0.05,0.05,0.05]', '"steps":[]') for line in text[:2]]
    spoilt = [*empty, text[2]]
    assert spoilt[:2] != text[:2]
    (folder.path / "sessions.jsonl").write_text("\n".join(spoilt) + "\n")
    past = ratio_history(read_history([tmp_path]))
    assert [record.parts["status"] for record in past.records] == ["ok"]
    [fault] = past.faults
    assert str(fault).endswith(f"{CASES[0].case}: 2 of 3 sessions have no times that can be compared")


@pytest.mark.parametrize(
    ("name", "text", "told", "line"),
    [
        ("ab.json", "{", "document: ", None),
        ("ab.json", "[]", "document: ", None),
        ("ab.json", None, "started_at: no time", None),
        ("sessions.jsonl", "{}", "case: ", 2),
        ("sessions.jsonl", '{"schema_version":1,"case":"gpt', "half a session", 2),
    ],
)
def test_a_damaged_comparison_is_named_and_the_others_count(tmp_path, name, text, told, line):
    comparisons(tmp_path, 3, cases=CASES[:1])
    file = min(tmp_path.rglob(name))
    if line:
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], text, *lines[2:]]) + "\n")
    else:
        file.write_text(text or file.read_text().replace("2026-08-01T02", "yesterday"))
    past = read_history([tmp_path])
    assert len(past.comparisons) == (3 if line else 2)
    [fault] = past.faults
    assert (fault.path, fault.line) == (file, line)
    assert fault.message.startswith(told)


def test_a_session_of_no_case_and_sessions_without_a_comparison_are_named(tmp_path):
    comparisons(tmp_path, 1, cases=CASES[:1])
    file = min(tmp_path.rglob("sessions.jsonl"))
    with file.open("a") as lines:
        lines.write(file.read_text().splitlines()[0].replace("gpt-tiny", "other") + "\n")
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "sessions.jsonl").touch()
    told = sorted(fault.message for fault in read_history([tmp_path]).faults)
    assert told == ["case: other/eager/ws1 is none of the comparison's", "sessions.jsonl without an ab.json"]


def test_a_copy_counts_once(tmp_path):
    past = comparisons(tmp_path / "a", 2)
    comparisons(tmp_path / "b", 2)
    both = read_history([tmp_path])
    assert len(both.comparisons) == len(past.comparisons) == 2
    assert len(both.copies) == 2


def test_ratios_are_followed_where_there_are_any(tmp_path):
    factory.nights(tmp_path / "runs", 3, CASES, lambda number, case: 1.0)
    runs = read_history([tmp_path / "runs"])
    assert followed(runs, None, None)[1].name == "throughput"
    comparisons(tmp_path / "ab", 2)
    both = read_history([tmp_path])
    shown, metric = followed(both, None, None)
    assert (metric.name, len(shown.runs), shown.others) == ("ratio", 2, 3)
    shown, metric = followed(both, "memory", None)
    assert (metric.name, len(shown.runs)) == ("memory", 3)
    assert followed(both, None, "eager")[1].name == "throughput"


def test_a_self_check_is_no_ratio(tmp_path):
    past = comparisons(tmp_path, 2, self_check=lambda _: True)
    shown, metric = followed(past, None, None)
    assert (metric.name, shown.runs, shown.records) == ("ratio", [], [])


@pytest.mark.parametrize(("name", "reference"), [("ratio", None), ("ratio", "eager")])
def test_a_ratio_of_runs_is_a_usage_error(tmp_path, name, reference):
    factory.nights(tmp_path, 1, CASES, lambda number, case: 1.0)
    with pytest.raises(UserError):
        followed(read_history([tmp_path]), name, reference)


def test_throughput_of_comparisons_alone_is_a_usage_error(tmp_path):
    with pytest.raises(UserError, match="only comparisons"):
        followed(comparisons(tmp_path, 1), "throughput", None)


def test_a_comparison_that_has_just_begun_has_no_record(tmp_path):
    factory.ab_comparison(tmp_path, 1, CASES, lambda case, session: 1.0, sessions=0, status="running")
    past = ratio_history(read_history([tmp_path]))
    assert (len(past.runs), past.records, past.faults) == (1, [], [])


def test_a_ratio_beyond_all_numbers_is_none(tmp_path):
    factory.ab_comparison(tmp_path, 1, CASES[:1], lambda case, session: 1e305, sessions=2)
    [trend] = ratios(read_history([tmp_path]))
    assert trend.points[0].value is None or math.isfinite(trend.points[0].value.value)
