import math

import pytest

from llmbench.results.schema import Energy, Noise, Throughput
from llmbench.results.sides import load
from llmbench.stats.comparison import Rules
from llmbench.stats.judge import compare_sides
from tests import factory

CASE = ("gpt-tiny", "eager")
ID = "gpt-tiny/eager/ws1"


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """Between these, every verdict occurs."""
    return [folder.path for folder in factory.compared_runs(tmp_path_factory.mktemp("compared"))]


def judged(base, cand, **rules):
    return compare_sides(*load(base, cand), Rules(**rules))


def rows(comparison):
    return {row.case: row for row in comparison.rows}


def side(path, *records, **changes):
    """A run of these records (with their series), or of what the store leaves of them."""
    folder = factory.steady_run(path, [], **changes)
    for record, series in records:
        factory.add(folder, record, series)
    return path


def steady(factor=1.0, **changes):
    record, series = factory.steadied(*factory.ok_record(factory.planned(*CASE)), factor)
    return record.model_copy(update=changes), series


def test_every_outcome(every):
    outcomes = {case: row.outcome for case, row in rows(judged(*every)).items()}
    assert outcomes == {
        "regression-linear/eager/ws1": "still broken",
        "regression-linear/compile/ws1": "not run",
        "regression-linear/bf16/ws1": "same",
        "regression-linear/compile+bf16/ws1": "same",
        "bert-tiny/eager/ws1": "same",
        "bert-tiny/compile/ws1": "same",
        "bert-tiny/bf16/ws1": "broken",
        "bert-tiny/compile+bf16/ws1": "fixed",
        "gpt-tiny/eager/ws1": "slower",
        "gpt-tiny/compile/ws1": "faster",
        "gpt-tiny/bf16/ws1": "same",
        "gpt-tiny/compile+bf16/ws1": "inconclusive",
        "lora-tiny/eager/ws1": "incomparable",
        "lora-tiny/bf16/ws1": "only base",
        "lora-tiny/compile+bf16/ws1": "incomparable",
        "lora-tiny/compile/ws1": "only cand",
    }


def test_each_gate_names_its_case(every):
    told = {row.case: failure for row, failure in judged(*every).failures}
    assert told == {
        "gpt-tiny/eager/ws1": "−8.0 % throughput",
        "bert-tiny/eager/ws1": "+8.0 % peak memory",
        "bert-tiny/compile/ws1": "loss changed from step 9: by 0.19, allowed 0.001",
        "bert-tiny/bf16/ws1": f"oom: {factory.OUT_OF_MEMORY.message}",
    }


def test_reasons_are_told(every):
    reasons = {case: row.reason for case, row in rows(judged(*every)).items()}
    assert reasons["gpt-tiny/compile+bf16/ws1"] == "CAND: other processes used 6.1 CPUs; stop them"
    assert reasons["lora-tiny/eager/ws1"] == "other settings: micro_batch_size 8 vs 16"
    assert reasons["lora-tiny/compile+bf16/ws1"] == "no throughput with an interval was recorded"
    assert reasons["regression-linear/compile/ws1"] == "skipped: torch.compile needs a C++ compiler"
    assert reasons["gpt-tiny/bf16/ws1"] is None


def test_losses_of_another_torch_may_differ_by_rounding(every):
    losses = {case: row.loss.verdict for case, row in rows(judged(*every)).items() if row.loss}
    assert losses["regression-linear/bf16/ws1"] == "within"
    assert losses["bert-tiny/compile/ws1"] == "changed"
    assert losses["gpt-tiny/eager/ws1"] == "bitwise"


@pytest.mark.parametrize(
    ("factor", "rules", "code"),
    [
        (1.0, {}, 0),
        (1.1, {}, 0),
        (0.9, {}, 1),
        (0.9, {"fail_slower": 0.05}, 1),
        (0.9, {"fail_slower": 0.15}, 0),
        (0.9, {"equal_within": 0.2}, 0),
        (0.97, {}, 0),  # inconclusive
        (0.97, {"strict": True}, 1),
        (1.0, {"strict": True}, 0),
    ],
)
def test_exit_codes(tmp_path, factor, rules, code):
    base, cand = side(tmp_path / "base", steady()), side(tmp_path / "cand", steady(factor))
    assert judged(base, cand, **rules).exit_code == code


def test_nothing_to_compare_is_no_regression_unless_strict(tmp_path):
    base, cand = side(tmp_path / "base"), side(tmp_path / "cand")
    assert judged(base, cand).exit_code == 0
    assert judged(base, cand, strict=True).exit_code == 1


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_a_case_that_is_gone_is_no_regression_unless_strict(tmp_path, strict, code):
    base, cand = side(tmp_path / "base", steady()), side(tmp_path / "cand")
    assert judged(base, cand, strict=strict).exit_code == code


OTHER_CPU = factory.ENVIRONMENT | {"host": factory.ENVIRONMENT["host"] | {"cpu": "Intel Xeon 8592+"}}


def test_other_hardware_is_no_regression_unless_asked(tmp_path):
    base, cand = side(tmp_path / "base", steady()), side(tmp_path / "cand", steady(0.5), environment=OTHER_CPU)
    refused, asked = judged(base, cand, strict=True), judged(base, cand, across_hardware=True)
    assert refused.hardware == asked.hardware == ["cpu: AMD EPYC 9654 → Intel Xeon 8592+"]
    assert rows(refused)[ID].outcome == "slower"
    assert (refused.exit_code, refused.failures) == (0, [])
    assert asked.exit_code == 1


def test_what_cannot_be_told_on_other_hardware_is_no_failure_even_if_strict(tmp_path):
    base, cand = side(tmp_path / "base", steady()), side(tmp_path / "cand", steady(0.97), environment=OTHER_CPU)
    found = judged(base, cand, strict=True)
    assert rows(found)[ID].outcome == "inconclusive"
    assert found.exit_code == 0


def test_a_host_of_the_same_make_is_the_same_hardware(tmp_path):
    other = factory.ENVIRONMENT | {"host": factory.ENVIRONMENT["host"] | {"name": "node-18", "load_1min": 3.2}}
    base, cand = side(tmp_path / "base", steady()), side(tmp_path / "cand", steady(0.5), environment=other)
    assert judged(base, cand).exit_code == 1


def changed_loss(factor):
    record, series = steady()
    series.loss = [loss * factor for loss in series.loss]
    return record, series


@pytest.mark.parametrize(
    ("factor", "environment", "verdict"),
    [
        (1 + 1e-4, factory.ENVIRONMENT, "changed"),  # the same torch on the same machine, and eager repeats itself
        (1 + 1e-4, factory.ELSEWHERE, "within"),
        (1.01, factory.ELSEWHERE, "changed"),
    ],
)
def test_the_limit_of_a_loss_is_tight_where_nothing_but_the_code_differs(tmp_path, factor, environment, verdict):
    base = side(tmp_path / "base", steady())
    cand = side(tmp_path / "cand", changed_loss(factor), environment=environment)
    found = judged(base, cand)
    assert rows(found)[ID].loss.verdict == verdict
    assert found.exit_code == (verdict == "changed")


def test_a_case_that_does_not_repeat_itself_has_the_limit_of_its_mode(tmp_path):
    """Two runs of the base differ in the last bits, so a difference of the candidate proves nothing."""
    for name, factor in (("one", 1.0), ("two", 1 + 1e-7)):
        (tmp_path / "base").mkdir(exist_ok=True)
        side(tmp_path / "base" / name, changed_loss(factor))
    cand = side(tmp_path / "cand", changed_loss(1 + 1e-4))
    assert rows(judged(tmp_path / "base", cand))[ID].loss.verdict == "within"


@pytest.mark.parametrize(
    ("fact", "reason"), [("weights_sha256", "other first weights"), ("batches_sha256", "other batches")]
)
def test_losses_of_other_trainings_are_not_compared(tmp_path, fact, reason):
    record, series = changed_loss(2.0)
    record.facts = record.facts | {fact: "0" * 64}
    found = judged(side(tmp_path / "base", steady()), side(tmp_path / "cand", (record, series)))
    assert rows(found)[ID].loss is None
    assert rows(found)[ID].loss_reason == reason
    assert found.exit_code == 0


def test_a_run_that_waited_for_its_cpus_is_not_called_slower(tmp_path):
    record, series = steady(0.5)
    record.noise = Noise(cv=1e-4, verdict="quiet", waited=1.5)
    found = judged(side(tmp_path / "base", steady()), side(tmp_path / "cand", (record, series)))
    assert rows(found)[ID].outcome == "inconclusive"
    assert found.exit_code == 0


def test_without_series_the_noise_that_was_recorded_says_how_sure_it_is(tmp_path):
    def alone(factor, cv):
        record, _ = steady(factor)
        return record.model_copy(update={"noise": Noise(cv=cv, verdict="quiet")}), None

    quiet = judged(side(tmp_path / "a", alone(1, 1e-4)), side(tmp_path / "b", alone(0.9, 1e-4)))
    noisy = judged(side(tmp_path / "c", alone(1, 0.2)), side(tmp_path / "d", alone(0.9, 0.2)))
    assert rows(quiet)[ID].outcome == "slower"
    assert rows(noisy)[ID].outcome == "inconclusive"
    assert rows(quiet)[ID].loss_reason == "no curve"


@pytest.mark.parametrize("value", [0.0, -5.0, math.inf, math.nan, 1e-320, 1.7e308])
def test_absurd_throughputs_are_not_compared(tmp_path, value):
    record, series = steady()
    record.throughput = Throughput.model_construct(value=value, unit="tokens/s", ci95=(value, value), n=80)
    found = judged(side(tmp_path / "base", steady()), side(tmp_path / "cand", (record, series)))
    assert rows(found)[ID].outcome == "incomparable"
    assert found.exit_code == 0


def test_several_runs_count_how_many_are_broken(tmp_path):
    case = factory.planned(*CASE)
    for name in ("1", "2", "3"):
        for where in ("base", "cand"):
            (tmp_path / where).mkdir(exist_ok=True)
            broken = (factory.broken_record(case, "oom", factory.OUT_OF_MEMORY), None)
            side(tmp_path / where / name, broken if (where, name) == ("cand", "2") else steady())
    found = judged(tmp_path / "base", tmp_path / "cand")
    assert rows(found)[ID].outcome == "broken"
    assert rows(found)[ID].reason.startswith("1 of 3 runs oom: killed by the kernel")
    assert found.exit_code == 1


def test_a_case_that_breaks_now_and_then_on_both_sides_is_compared_by_its_good_runs(tmp_path):
    case = factory.planned(*CASE)
    for where in ("base", "cand"):
        (tmp_path / where).mkdir()
        side(tmp_path / where / "1", (factory.broken_record(case, "oom", factory.OUT_OF_MEMORY), None))
        side(tmp_path / where / "2", steady())
    found = rows(judged(tmp_path / "base", tmp_path / "cand"))[ID]
    assert found.outcome == "same"
    assert found.change.runs == (1, 1)


def test_energy_is_of_a_token(tmp_path):
    joules = [
        steady(1.0, energy=Energy(joules=100.0, source="RAPL")),
        steady(1.0, energy=Energy(joules=110.0, source="RAPL")),
    ]
    found = judged(side(tmp_path / "base", joules[0]), side(tmp_path / "cand", joules[1]))
    assert rows(found)[ID].energy == pytest.approx(1.1)
