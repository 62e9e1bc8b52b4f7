import json

import pytest

from llmbench.errors import UserError
from llmbench.results.sides import load, load_side, pairs
from tests import factory

CASES = [("gpt-tiny", "eager"), ("gpt-tiny", "bf16")]


def three_runs(folder, **changes):
    return [
        factory.steady_run(folder / name, CASES, id=name, started_at=f"2026-11-2{day}T00:00:00+00:00", **changes)
        for name, day in (("b", 1), ("a", 3), ("deep/er/c", 2))
    ]


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "base" / "deep" / "er").mkdir(parents=True)


def test_one_run_is_a_side(tmp_path):
    folder = factory.steady_run(tmp_path / "r1", CASES)
    side = load_side(folder.path)
    assert [run.id for run in side.runs] == ["20261122-081204-7f3a"]
    assert side.cases == ["gpt-tiny/eager/ws1", "gpt-tiny/bf16/ws1"]
    assert side.damage == []


def test_a_folder_tree_is_a_side_of_all_its_runs_oldest_first(tmp_path):
    three_runs(tmp_path / "base")
    side = load_side(tmp_path / "base")
    assert [run.id for run in side.runs] == ["b", "deep/er/c", "a"]
    assert len(side.of("gpt-tiny/eager/ws1")) == 3


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("{}"), lambda path: path.mkdir()])
def test_what_holds_no_run_is_the_users_fault(tmp_path, make):
    path = tmp_path / "nothing"
    make(path)
    with pytest.raises(UserError, match="nothing") as error:
        load_side(path)
    assert error.value.hint


def test_runs_of_several_suites_are_no_side(tmp_path):
    three_runs(tmp_path / "base")
    factory.steady_run(tmp_path / "base" / "d", CASES, suite="ladder")
    with pytest.raises(UserError, match="several suites: ladder, smoke"):
        load_side(tmp_path / "base")


def test_a_run_is_never_held_against_itself(tmp_path):
    three_runs(tmp_path / "base")
    (tmp_path / "link").symlink_to(tmp_path / "base" / "a")
    with pytest.raises(UserError, match="on both sides"):
        load(tmp_path / "base", tmp_path / "link")


def test_every_case_of_either_side_has_a_pair_in_the_order_of_the_base(tmp_path):
    base = factory.steady_run(tmp_path / "r1", [("gpt-tiny", "eager"), ("gpt-tiny", "bf16")])
    cand = factory.steady_run(tmp_path / "r2", [("bert-tiny", "eager"), ("gpt-tiny", "bf16")])
    found = pairs(*load(base.path, cand.path))
    assert [(pair.case, len(pair.base), len(pair.cand)) for pair in found] == [
        ("gpt-tiny/eager/ws1", 1, 0),
        ("gpt-tiny/bf16/ws1", 1, 1),
        ("bert-tiny/eager/ws1", 0, 1),
    ]


def differing(tmp_path, **config):
    base = factory.steady_run(tmp_path / "r1", CASES[:1])
    cand = factory.steady_run(tmp_path / "r2", [])
    record, series = factory.ok_record(factory.planned(*CASES[0]))
    record.config = record.config | config
    factory.add(cand, record, series)
    return pairs(*load(base.path, cand.path))[0].difference


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({}, None),
        ({"micro_batch_size": 16}, "micro_batch_size 8 vs 16"),
        ({"steps": 50, "threads": 2}, "steps 100 vs 50, threads None vs 2"),
        ({"model": {"d_model": 256}}, "model.d_model 128 vs 256"),
        ({"budget_seconds": 1.0, "deadline_seconds": 5.0, "interval_target": 0.5}, None),
        ({"setting_of_a_newer_version": 3}, None),
    ],
)
def test_other_settings_are_named(tmp_path, config, difference):
    assert differing(tmp_path, **config) == difference


def test_other_settings_within_a_side_are_named(tmp_path):
    (tmp_path / "base").mkdir(exist_ok=True)
    for name, batch in (("r1", 8), ("r2", 16)):
        folder = factory.steady_run(tmp_path / "base" / name, [])
        record, series = factory.ok_record(factory.planned(*CASES[0]))
        record.config = record.config | {"micro_batch_size": batch}
        factory.add(folder, record, series)
    cand = factory.steady_run(tmp_path / "cand", CASES[:1])
    assert pairs(*load(tmp_path / "base", cand.path))[0].difference == "micro_batch_size 8 and 16 vs 8"


def test_damage_is_named_and_hides_no_valid_record(tmp_path):
    folder = factory.steady_run(tmp_path / "r1", CASES)
    torn = json.loads((folder.path / "records.jsonl").read_text().splitlines()[0]) | {"throughput": "fast"}
    with open(folder.path / "records.jsonl", "a") as file:
        file.write(json.dumps(torn) + "\n")
    side = load_side(folder.path)
    assert "line 3" in side.damage[0]
    assert "throughput" in side.damage[0]
    assert side.of("gpt-tiny/eager/ws1")[0].record.throughput is not None


def test_step_times_that_mean_nothing_are_not_used(tmp_path):
    folder = factory.steady_run(tmp_path / "r1", CASES[:1])
    record, series = factory.ok_record(factory.planned(*CASES[1]))
    series.step_seconds[30] = -1.0
    factory.add(folder, record, series)
    good, bad = (load_side(folder.path).of(case)[0] for case in ("gpt-tiny/eager/ws1", "gpt-tiny/bf16/ws1"))
    assert len(good.timed_seconds) == 80
    assert bad.timed_seconds == []
