"""What each technique of a ladder brought, without a page."""

from __future__ import annotations

import pytest

from llmbench.report.run.rungs import ladders
from llmbench.results.schema import Memory, Throughput
from llmbench.results.store import RunFolder
from tests import factory

MIB = 2**20


def climb(tmp_path, values, ladder, workload="gpt-tiny", sizes=None):
    """The only ladder of a run with these results: {mode: (throughput, MiB of the training, status)}."""
    cases = [factory.planned(workload, mode, (sizes or {}).get(mode, 1)) for mode in values]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, ladder=ladder))
    for case, (value, memory, status) in zip(cases, values.values(), strict=True):
        if status == "skipped":
            folder.append(factory.unavailable(case, "no compiler\nat all"))
            continue
        record, _ = factory.ok_record(case)
        record.throughput = Throughput(value=value, unit="tokens/s", ci95=(value * 0.99, value * 1.01), n=80)
        record.memory = Memory(peak_rss_bytes=(memory + 400) * MIB, start_rss_bytes=400 * MIB)
        record.status = status
        folder.append(record)
    (found,) = ladders(folder.read_run(), folder.records())
    return found


def test_each_rung_is_held_against_eager_and_against_the_rung_before(tmp_path):
    found = climb(
        tmp_path,
        {"eager": (100.0, 40, "ok"), "bf16": (150.0, 20, "ok"), "bf16+fused": (180.0, 30, "ok")},
        ["bf16", "fused"],
    )
    assert [rung.name for rung in found.rungs] == ["eager", "+ bf16", "+ fused"]
    eager, bf16, fused = found.rungs
    assert (eager.over_eager, eager.over_before, eager.memory_change) == (None, None, None)
    assert bf16.over_before == bf16.over_eager
    assert bf16.over_eager.value == pytest.approx(1.5)
    assert bf16.memory_change == pytest.approx(-0.5)
    assert fused.before == "bf16"
    assert fused.over_eager.value == pytest.approx(1.8)
    assert fused.over_before.value == pytest.approx(1.2)
    assert fused.memory_bytes == 30 * MIB
    assert fused.memory_change == pytest.approx(0.5)


@pytest.mark.parametrize("status", ["skipped", "failed", "oom", "invalid"])
def test_after_a_rung_that_does_not_count_the_next_looks_to_the_last_valid_one(tmp_path, status):
    found = climb(
        tmp_path,
        {
            "eager": (100.0, 40, "ok"),
            "bf16": (150.0, 20, "ok"),
            "bf16+fused": (900.0, 1, status),
            "compile+bf16+fused": (300.0, 10, "ok"),
        },
        ["bf16", "fused", "compile"],
    )
    broken, after = found.rungs[2:]
    assert not broken.counts
    assert (broken.over_eager, broken.over_before, broken.memory_change) == (None, None, None)
    assert broken.reason == ("no compiler" if status == "skipped" else "no cause was recorded")
    assert after.before == "bf16"
    assert after.over_before.value == pytest.approx(2.0)
    assert after.memory_change == pytest.approx(-0.5)


def test_without_a_valid_eager_case_there_is_nothing_to_hold_it_against(tmp_path):
    found = climb(tmp_path, {"eager": (100.0, 40, "invalid"), "bf16": (150.0, 20, "ok")}, ["bf16"])
    assert found.rungs[1].counts
    assert (found.rungs[1].over_eager, found.rungs[1].before) == (None, None)


def test_a_rung_that_was_not_run_is_there(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, ladder=["bf16"]))
    folder.append(factory.ok_record(cases[0])[0])
    (found,) = ladders(folder.read_run(), folder.records())
    assert [(rung.name, rung.reason) for rung in found.rungs] == [("eager", None), ("+ bf16", "not run")]


def test_rungs_stand_in_the_order_of_the_ladder_and_world_sizes_of_one_rung_beside_each_other(tmp_path):
    cases = [factory.planned("gpt-tiny", *one) for one in (("ddp", 2), ("ddp", 1), ("eager", 1), ("bf16+ddp", 2))]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, ladder=["ddp", "bf16"]))
    for case in cases:
        folder.append(factory.ok_record(case)[0])
    (found,) = ladders(folder.read_run(), folder.records())
    assert [rung.name for rung in found.rungs] == ["eager", "+ ddp", "+ ddp ×2", "+ bf16 ×2"]
    assert [rung.before for rung in found.rungs] == [None, "eager", "eager", "ddp"]


def test_every_workload_has_a_ladder_of_its_own(tmp_path):
    folder = factory.ladder_run(tmp_path / "run")
    found = ladders(folder.read_run(), folder.records())
    assert [ladder.workload for ladder in found] == ["gpt-tiny", "bert-tiny"]
    assert [len(ladder.rungs) for ladder in found] == [6, 6]


def test_a_run_without_a_ladder_has_none(tmp_path):
    folder = factory.smoke_run(tmp_path / "run")
    assert ladders(folder.read_run(), folder.records()) == []


def test_techniques_that_this_llmbench_does_not_know_are_joined_as_they_stand(tmp_path):
    found = climb(tmp_path, {"eager": (100.0, 40, "ok"), "warp": (150.0, 20, "ok"), "warp+drive": (200.0, 20, "ok")},
                  ["warp", "drive"])  # fmt: skip
    assert [rung.name for rung in found.rungs] == ["eager", "+ warp", "+ drive"]
