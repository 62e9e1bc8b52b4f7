"""Cases over many runs: what is one series, its steps, its state, and ratios."""

from __future__ import annotations

import math
import random

import pytest

from llmbench.errors import UserError
from llmbench.results.history import read_history
from llmbench.results.store import RunFolder
from llmbench.stats.metrics import METRICS, Value, ratio
from llmbench.stats.trends import fallen, trends
from tests import factory

THROUGHPUT = METRICS["throughput"]
CASE = factory.planned("gpt-tiny", "compile")


def speeds(*parts, noise=0.01, seed=3):
    """``(runs, factor)`` after each other; a factor of None: it failed."""
    rng = random.Random(seed)
    return [
        None if factor is None else factor * math.exp(rng.gauss(0, noise))
        for runs, factor in parts
        for _ in range(runs)
    ]


def history(path, values, cases=(CASE,), **changes):
    factory.nights(path, len(values), cases, lambda number, case: values[number], **changes)
    return read_history([path])


def only(path, values, **options):
    [trend] = trends(history(path, values), THROUGHPUT, **options)
    return trend


def test_a_step_down_has_its_size_run_commits_and_environment(tmp_path):
    def environment(number):
        return factory.torch_at("2.13.0" if number >= 20 else "2.12.1", name=f"node-{number}")

    past = history(tmp_path, speeds((20, 1.0), (12, 0.92)), environment=environment)
    [trend] = trends(past, THROUGHPUT)
    assert trend.state == "worse"
    [step] = trend.steps
    assert step.index == 20
    assert step.size == pytest.approx(-0.08, abs=0.01)
    assert step.interval[0] < step.size < step.interval[1]
    assert step.worse
    assert (step.before, step.after) == (past.runs[19], past.runs[20])
    assert [str(one) for one in step.changed] == ["torch 2.12.1 → 2.13.0", "name node-19 → node-20"]
    assert [(shift.index, str(shift.changed[0])) for shift in trend.shifts] == [(20, "torch 2.12.1 → 2.13.0")]


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (speeds((30, 1.0)), "steady"),
        (speeds((15, 1.0), (15, 1.2)), "better"),
        (speeds((15, 1.0), (15, 0.8)), "worse"),
        (speeds((10, 1.0), (10, 0.8), (10, 1.0)), "better"),
        (speeds((29, 1.0), (1, 0.7)), "unusual"),
        (speeds((28, 1.0), (2, 0.7)), "unusual"),
        (speeds((10, 1.0), (10, 1.3), (1, 1.0)), "unusual"),
        (speeds((15, 1.0), (1, 0.6), (15, 1.0)), "steady"),
        (speeds((5, 1.0)), "few"),
        (speeds((20, 1.0), (1, None)), "failing"),
        (speeds((15, 1.0), (1, None), (15, 1.0)), "steady"),
    ],
)
def test_states(tmp_path, values, state):
    assert only(tmp_path, values).state == state


def test_a_step_is_found_around_runs_that_failed(tmp_path):
    trend = only(tmp_path, speeds((12, 1.0), (4, None), (12, 0.85)))
    [step] = trend.steps
    assert step.index == 16
    assert (step.before, step.after) == (trend.points[11].run, trend.points[16].run)


def test_invalid_and_absurd_values_do_not_count(tmp_path):
    [folder] = factory.nights(tmp_path, 1, [CASE], lambda number, case: 1.0)
    record = factory.measured(CASE, 1.0)
    for status, value in (("invalid", 5.0), ("ok", 0.0), ("ok", -3.0), ("ok", 1e305)):
        throughput = record.throughput.model_copy(update={"value": value})
        folder.append(record.model_copy(update={"status": status, "throughput": throughput}))
        [trend] = trends(read_history([tmp_path]), THROUGHPUT)
        assert trend.values == [], (status, value)


@pytest.mark.parametrize(
    "throughput",
    [
        *('"fast"', "[1]", '{"value": "1"}', '{"value": true, "unit": "tokens/s"}', '{"value": 1, "unit": 3}'),
        *('{"value": NaN, "unit": "tokens/s"}', '{"value": Infinity, "unit": "tokens/s"}'),
        '{"value": 1' + "0" * 400 + ', "unit": "tokens/s"}',
    ],
)
def test_a_figure_of_the_wrong_kind_is_no_value(tmp_path, throughput):
    [folder] = factory.nights(tmp_path, 1, [], lambda number, case: 1.0)
    (folder.path / "records.jsonl").write_text(f'{{"case": "a/b/ws1", "status": "ok", "throughput": {throughput}}}\n')
    [trend] = trends(read_history([tmp_path]), THROUGHPUT)
    assert trend.values == []
    assert trend.state == "few"


@pytest.mark.parametrize("interval", ["[1]", '["a", 2]', "[3, 2]", "[-1, 2]", "[NaN, 2]", "7", "[0, 1e999]"])
def test_an_interval_of_the_wrong_kind_is_none(tmp_path, interval):
    [folder] = factory.nights(tmp_path, 1, [], lambda number, case: 1.0)
    text = f'{{"value": 1.5, "unit": "tokens/s", "ci95": {interval}}}'
    (folder.path / "records.jsonl").write_text(f'{{"case": "a/b/ws1", "status": "ok", "throughput": {text}}}\n')
    [trend] = trends(read_history([tmp_path]), THROUGHPUT)
    assert trend.points[0].value == Value(1.5, "tokens/s")


def test_to_previous_and_to_the_median_of_those_before(tmp_path):
    trend = only(tmp_path, [1.0, 1.0, 2.0, 1.0, 1.5])
    assert trend.to_previous == pytest.approx(0.5)
    assert trend.to_median == pytest.approx(0.5)
    assert only(tmp_path / "one", [1.0]).to_previous is None


def test_the_newest_runs_only(tmp_path):
    trend = only(tmp_path, speeds((20, 1.0), (15, 0.8)), last=12)
    assert len(trend.points) == 12
    assert trend.steps == []


def test_another_machine_is_another_series_and_another_host_is_not(tmp_path):
    def environment(number):
        host = {"cpu": "Intel Xeon"} if number % 2 else {"name": f"pod-{number}"}
        return factory.torch_at("2.13.0", **host)

    found = trends(history(tmp_path, speeds((20, 1.0)), environment=environment), THROUGHPUT)
    assert sorted((trend.told_apart, len(trend.points)) for trend in found) == [
        ("AMD EPYC 9654, 16 CPUs", 10),
        ("Intel Xeon, 16 CPUs", 10),
    ]
    assert [trend.shifts for trend in found] == [[], []]


def test_the_gpus_are_the_machine_of_what_runs_on_them(tmp_path):
    def environment(number):
        devices = [{"kind": "cuda", "name": "NVIDIA H200", "uuid": f"{number}"}] * (1 + number // 3)
        return factory.ENVIRONMENT | {"devices": devices}

    folders = factory.nights(tmp_path, 6, [], lambda number, case: 1.0, environment=environment)
    for folder in folders:
        folder.append(factory.measured(CASE, 1.0).model_copy(update={"device": "cuda"}))
        folder.append(factory.measured(factory.planned("bert-tiny", "eager"), 1.0))
    found = trends(read_history([tmp_path]), THROUGHPUT)
    assert sorted((trend.case, trend.machine) for trend in found) == [
        ("bert-tiny/eager/ws1", "AMD EPYC 9654, 16 CPUs"),
        ("gpt-tiny/compile/ws1", "1× NVIDIA H200, AMD EPYC 9654"),
        ("gpt-tiny/compile/ws1", "2× NVIDIA H200, AMD EPYC 9654"),
    ]


def test_another_configuration_is_another_series_and_another_deadline_is_not(tmp_path):
    folders = factory.nights(tmp_path, 30, [], lambda number, case: 1.0)
    for number, folder in enumerate(folders):
        record = factory.measured(CASE, 1.0 if number < 20 else 3.0)
        config = record.config | {"micro_batch_size": 8 if number < 20 else 32, "deadline_seconds": float(number + 1)}
        folder.append(record.model_copy(update={"config": config}))
    new, old = trends(read_history([tmp_path]), THROUGHPUT)
    assert (new.state, new.told_apart, len(new.points)) == ("steady", "micro_batch_size 32", 10)
    assert (old.state, old.told_apart, len(old.points)) == ("replaced", "micro_batch_size 8", 20)
    assert not new.steps
    assert not old.steps


def test_other_data_is_another_loss_and_the_same_speed(tmp_path):
    data = {"data": lambda number: {"name": "mine", "train_sha256": "b" if number >= 5 else "a"}}
    past = history(tmp_path, speeds((10, 1.0)), **data)
    assert len(trends(past, THROUGHPUT)) == 1
    assert sorted(len(trend.points) for trend in trends(past, METRICS["loss"])) == [5, 5]


@pytest.mark.parametrize(
    ("metric", "unit", "latest"),
    [("step", "s", 0.064), ("memory", "bytes resident", 533e6), ("loss", "held out", 4.18)],
)
def test_other_metrics_are_better_low(tmp_path, metric, unit, latest):
    [trend] = trends(history(tmp_path, speeds((15, 1.0), (15, 0.7))), METRICS[metric])
    assert trend.unit == unit
    assert trend.latest == pytest.approx(latest, rel=0.5)
    if metric == "step":
        assert trend.steps[0].size > 0.3
        assert trend.steps[0].worse
    else:
        assert trend.steps == []


def test_energy_is_that_of_a_step_and_may_be_missing(tmp_path):
    [folder] = factory.nights(tmp_path, 1, [CASE], lambda number, case: 1.0)
    assert trends(read_history([tmp_path]), METRICS["energy"])[0].values == []
    record = factory.measured(CASE, 1.0)
    energy = factory.Energy(joules=840.0, source="RAPL")
    folder.append(record.model_copy(update={"energy": energy}))
    [trend] = trends(read_history([tmp_path]), METRICS["energy"])
    assert trend.values == [pytest.approx(840 / record.throughput.n)]


CASES = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile", "bf16")]


def busy_machine(path):
    """From run 20 on everything is 30 % slower; from run 30 on bf16 is another 10 % slower."""
    rng = random.Random(5)

    def factor(number, case):
        load = 0.7 if number >= 20 else 1.0
        return load * (0.9 if case.mode == "bf16" and number >= 30 else 1.0) * math.exp(rng.gauss(0, 0.01))

    factory.nights(path, 45, CASES, factor)
    return read_history([path])


def test_a_busy_machine_is_a_step_of_all_cases_and_none_of_their_ratios(tmp_path):
    past = busy_machine(tmp_path)
    raw = trends(past, THROUGHPUT)
    assert all(20 in [step.index for step in trend.steps] for trend in raw)
    for reference in ("eager", "gpt-tiny/eager/ws1"):
        ratios = {trend.case: trend for trend in trends(past, THROUGHPUT, reference=reference)}
        assert set(ratios) == {"gpt-tiny/compile/ws1", "gpt-tiny/bf16/ws1"}
        assert ratios["gpt-tiny/compile/ws1"].state == "steady"
        assert [step.index for step in ratios["gpt-tiny/bf16/ws1"].steps] == [30]
        assert ratios["gpt-tiny/bf16/ws1"].unit == "×"
        assert ratios["gpt-tiny/compile/ws1"].latest == pytest.approx(1.42, rel=0.15)


def test_a_reference_that_failed_leaves_a_gap(tmp_path):
    def factor(number, case):
        return None if case.mode == "eager" and number == 2 else 1.0

    factory.nights(tmp_path, 5, CASES, factor)
    trend = trends(read_history([tmp_path]), THROUGHPUT, reference="eager")[0]
    assert [point.value is None for point in trend.points] == [False, False, True, False, False]
    assert not trend.points[2].broken


def test_an_unknown_reference_names_the_nearest(tmp_path):
    with pytest.raises(UserError) as caught:
        trends(history(tmp_path, [1.0]), THROUGHPUT, reference="gpt-tiny/compil/ws1")
    assert "gpt-tiny/compile/ws1" in caught.value.hint


def test_the_interval_of_a_ratio():
    found = ratio(Value(10.0, "x", (9.0, 11.0)), Value(5.0, "x", (4.5, 5.5)))
    assert found.value == 2
    assert found.log_half_width == pytest.approx(math.sqrt(2) * math.log(11 / 9) / 2)
    assert ratio(Value(1e299, "x"), Value(1e-299, "x")) is None
    assert ratio(Value(1.0, "x"), Value(1.0, "y")) is None


def test_the_gate_looks_at_the_newest_step(tmp_path):
    down = trends(history(tmp_path / "down", speeds((15, 1.0), (15, 0.9))), THROUGHPUT)
    mended = trends(history(tmp_path / "up", speeds((10, 1.0), (10, 0.8), (10, 1.0))), THROUGHPUT)
    assert fallen(down, 0.05) == down
    assert fallen(down, 0.2) == []
    assert fallen(mended, 0.0) == []


def test_the_most_urgent_first(tmp_path):
    folders = factory.eventful_history(tmp_path)
    assert len(folders) == 40
    found = trends(read_history([tmp_path]), THROUGHPUT)
    states = [trend.state for trend in found]
    assert states == ["failing", "worse", "worse", "better", *["steady"] * 12]
    assert {trend.case for trend in found[1:3]} == {"bert-tiny/eager/ws1", "gpt-tiny/compile+bf16/ws1"}


def test_a_record_is_read_whatever_else_it_holds(tmp_path):
    run = RunFolder.create(tmp_path / "run", factory.night(1))
    line = '{"case": "a/b/ws1", "status": "ok", "config": {}, "error": [], "device": {}, "loss": "x", "memory": null}'
    (run.path / "records.jsonl").write_text(line + "\n")
    past = read_history([tmp_path])
    for metric in METRICS.values():
        [trend] = trends(past, metric)
        assert trend.values == []
