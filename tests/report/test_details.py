"""What unfolds for one case: every instrument, concisely, and only what is there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from llmbench.report import run_page
from llmbench.results.schema import (
    Compile,
    Error,
    Hardware,
    Parity,
    ParityCheck,
    Range,
    Rank,
    Record,
    Sampling,
)
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_run_page import assert_safe


def page_of(tmp_path, *, mode="bf16", world_size=1, **changes: Any) -> Page:
    """The page of a run of one case, with these fields of its record changed."""
    case = factory.planned("gpt-tiny", mode, world_size)
    folder = RunFolder.create(tmp_path / "run", factory.make_run([case]))
    record, series = factory.ok_record(case)
    factory.add(folder, record.model_copy(update=changes), series)
    return assert_safe(run_page(folder))


def facts(page: Page) -> dict[str, str]:
    """Names and texts of all definition lists."""
    return {
        " ".join(name.text.split()): " ".join(text.text.split())
        for name, text in pairwise(page.elements)
        if (name.tag, text.tag) == ("dt", "dd")
    }


CHECKS = [
    ParityCheck(
        reference="eager fp64",
        metric="RMS error / RMS of the gradient of the first step",
        limit=0.022,
        value=0.004,
        verdict="pass",
        tensor="blocks.0.attention.proj.bias",
    ),
    ParityCheck(
        reference="gpt-tiny/eager/ws1",
        metric="largest relative difference of the loss in 30 steps, smoothed over 10",
        limit=0.01,
        value=0.083,
        verdict="fail",
        step=12,
    ),
    ParityCheck(
        reference="gpt-tiny/eager/ws1",
        metric="relative difference of the mean loss of the last tenth",
        limit=0.01,
        value=None,
        verdict="fail",
    ),
]


def test_parity_checks_one_by_one(tmp_path):
    parity = Parity(**CHECKS[1].model_dump(), checks=CHECKS, deterministic=False)
    told = facts(page_of(tmp_path, parity=parity))
    assert told["against eager fp64"] == "pass: 0.0040 of 0.022 (18 %), at blocks.0.attention.proj.bias"
    assert told["measure against eager fp64"] == "RMS error / RMS of the gradient of the first step"
    assert told["against gpt-tiny/eager/ws1"] == "fail: 0.083 of 0.01 (8.3×), from step 12"
    assert told["against gpt-tiny/eager/ws1 (2)"] == "fail: not finite of 0.01"
    assert told["measure against gpt-tiny/eager/ws1 (2)"] == CHECKS[2].metric
    assert told["eager fp32 twice"] == "not bitwise the same, from the same weights and batches"


def test_parity_of_a_record_without_a_list_of_checks(tmp_path):
    told = facts(page_of(tmp_path, parity=Parity(**CHECKS[0].model_dump())))
    assert told["against eager fp64"].startswith("pass: 0.0040 of 0.022 (18 %)")
    assert "eager fp32 twice" not in told


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"steps_to_target": 37, "extra_steps": 40},
            "±1.4 % in 80 steps, 12.0 s, 40 beyond the training; ±2.0 % reached after 37",
        ),
        ({"steps_to_target": 37}, "±1.4 % in 80 steps, 12.0 s; ±2.0 % reached after 37"),
        (
            {"half_width": 0.1, "reached": False},
            "±10 % in 80 steps, 12.0 s; ±2.0 % not reached within the budget of 30.0 s",
        ),
    ],
)
def test_sampling_tells_target_reached_steps_and_budget(tmp_path, changes, text):
    sampling = Sampling(target=0.02, half_width=0.014, reached=True, steps=80, seconds=12.0, budget_seconds=30.0)
    assert facts(page_of(tmp_path, sampling=sampling.model_copy(update=changes)))["sampling"] == text


def test_compiling_tells_cold_warm_graphs_breaks_and_why(tmp_path):
    found = Compile(
        cold_seconds=21.04,
        cold_at="2026-11-20T17:02:11+00:00",
        warm_seconds=2.5,
        graphs=3,
        graph_breaks=2,
        recompiles=1,
        reasons=["2 × print() <in forward>", "1 × the size of a tensor changed"],
    )
    page = page_of(tmp_path, mode="compile", compile=found)
    told = facts(page)
    assert told["cold cache"] == "21.0 s, 2026-11-20 17:02 UTC"
    assert told["warm cache"] == "2.50 s"
    assert (told["graphs"], told["graph breaks"], told["recompilations"]) == ("3", "2", "1")
    assert "2 × print() <in forward>" in page.one("ul", class_="reasons").text


def test_a_case_that_does_not_compile_says_nothing_of_it(tmp_path):
    assert "Compiling" not in page_of(tmp_path, mode="bf16").body


def test_memory_split_stands_beside_the_estimate(tmp_path):
    told = facts(page_of(tmp_path, mode="eager"))
    assert told["gradients"] == "2.19 MiB, planned 2.19 MiB"
    assert told["activations"].endswith("MiB, planned 21.1 MiB")
    assert told["planned in all"] == "29.8 MiB"


def test_a_part_that_was_not_measured_still_tells_its_estimate(tmp_path):
    case = factory.planned("gpt-tiny", "eager")
    memory = factory.ok_record(case)[0].memory
    memory.split.activations = None
    told = facts(page_of(tmp_path, mode="eager", memory=memory))
    assert told["activations"] == "not measured, planned 21.1 MiB"


def test_hardware_of_a_gpu_that_was_throttled(tmp_path):
    hardware = Hardware(
        samples=44,
        source="NVML",
        clock_mhz=Range(mean=1700.0, low=1410.0, high=1980.0),
        temperature_celsius=Range(mean=61.2, low=58.0, high=66.0),
        power_watts=Range(mean=655.0, low=600.0, high=701.0),
        utilization=Range(mean=0.98, low=0.9, high=1.0),
        throttled=["power cap", "thermal"],
        reason="no memory clock",
    )
    told = facts(page_of(tmp_path, hardware=hardware))
    assert told["clock"] == "1700 MHz (1410 to 1980)"
    assert told["temperature"] == "61.2 °C (58.0 to 66.0)"
    assert told["power"] == "655 W (600 to 701)"
    assert told["busy"] == "98 % (90 % to 100 %)"
    assert told["clock held down by"] == "power cap, thermal"
    assert (told["samples"], told["sampled from"]) == ("44", "NVML")
    assert told["not known"] == "no memory clock"
    assert "memory clock" not in told


def test_ranks_one_by_one_with_host_and_device_where_they_differ(tmp_path):
    ranks = [
        Rank(rank=0, host="a", device="cuda:0", window_seconds=10.0, communication_seconds=0.5, peak_allocated_bytes=1),
        Rank(rank=1, host="b", device="cuda:0", window_seconds=10.2, communication_seconds=0.1, peak_allocated_bytes=2),
    ]
    page = page_of(tmp_path, mode="ddp", world_size=2, ranks=ranks, rank_spread=0.0198)
    rows = [" ".join(row.text.split()) for row in page.all("tr")]
    head = rows.index("rank host timed communication memory")
    assert rows[head + 1 : head + 3] == ["0 a 10.0 s 500 ms 1 B", "1 b 10.2 s 100 ms 2 B"]
    told = facts(page)
    assert told["device"] == "cuda:0"
    assert told["spread of their time"] == "2.0 %"
    assert told["communication"].endswith("of a step (torch.profiler, gloo)")
    assert told["scaling efficiency"] == "90 % of gpt-tiny/ddp/ws1 (strong)"


def test_of_many_ranks_the_slowest_are_shown(tmp_path):
    ranks = [
        Rank(rank=rank, host="a", device="cpu", window_seconds=20.0 if rank == 40 else 10.0 + rank / 100)
        for rank in range(64)
    ]
    page = page_of(tmp_path, mode="ddp", world_size=64, ranks=ranks)
    rows = [" ".join(row.text.split()) for row in page.all("tr")]
    head = rows.index("rank timed")
    assert [int(row.split()[0]) for row in rows[head + 1 : head + 17]] == [40, *range(49, 64)]
    assert facts(page)["shown"] == "the 16 slowest of 64"


def test_an_error_names_rank_and_host_once(tmp_path):
    error = Error(type="RuntimeError", message="it broke", rank=1, host="node-18")
    assert "rank 1 on node-18" in page_of(tmp_path, status="failed", error=error).body
    error.message = "rank 1 of 2 on node-18: it broke"
    assert page_of(tmp_path / "again", status="failed", error=error).body.count("rank 1 on node-18") == 0


def test_where_the_flops_come_from(tmp_path):
    told = facts(page_of(tmp_path, flops_source="counted by FlopCounterMode"))
    assert told["FLOPs of a step"] == "3.60 GFLOP (counted by FlopCounterMode)"


def test_what_all_cases_share_is_told_once_and_each_keeps_its_own(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16", "compile", "accum4")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    same = factory.ok_record(cases[0])[0]
    for case in cases:
        record, series = factory.ok_record(case)
        record.loss, record.throughput, record.parity = same.loss, same.throughput, same.parity
        factory.add(folder, record, series)
    page = assert_safe(run_page(folder))
    shared = page.one("details", id="shared").text
    assert "learning_rate" in shared
    assert "no temperature sensor" in shared
    names = [one.text for one in page.all("dt")]
    assert names.count("learning_rate") == 1
    assert names.count("not known") == 1
    assert names.count("grad_accum") == 2  # of all, and of the one that differs
    assert names.count("micro_batch_size") == 2
    # Results are each case's own, even where they are the same.
    assert names.count("throughput") == names.count("loss") == 4
    assert names.count("against eager fp64") == 4


def test_a_setting_that_half_of_the_cases_have_is_told_by_each(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16", "accum4", "accum4+ddp")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        factory.add(folder, *factory.ok_record(case))
    assert [one.text for one in Page(run_page(folder)).all("dt")].count("grad_accum") == 4


def test_nothing_is_read_into_the_silence_of_a_case(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16", "compile", "ac")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        record, series = factory.ok_record(case)
        if case.mode == "ac":
            del record.config["seed"]
        factory.add(folder, record, series)
    page = Page(run_page(folder))
    assert "seed" not in page.one("details", id="shared").text
    assert [one.text for one in page.all("dt")].count("seed") == 3


def test_two_cases_share_nothing(tmp_path):
    page = Page(run_page(factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager", "bf16"])))
    assert page.all("details", id="shared") == []
    assert [one.text for one in page.all("dt")].count("learning_rate") == 2


def test_a_record_of_an_older_llmbench_has_fewer_facts(tmp_path):
    case = factory.planned("gpt-tiny", "eager")
    record = factory.ok_record(case)[0]
    bare = dict.fromkeys(("sampling", "compile", "hardware", "communication", "scaling", "parity", "flops_source"))
    record = Record.model_validate(record.model_copy(update=bare | {"ranks": []}).model_dump(by_alias=True))
    folder = RunFolder.create(tmp_path / "run", factory.make_run([case]))
    folder.append(record)
    told = facts(assert_safe(run_page(folder)))
    assert told["FLOPs of a step"] == "3.60 GFLOP"
    assert not {"sampling", "busy", "communication", "scaling efficiency", "eager fp32 twice"} & set(told)


def test_rerun_narrows_to_workload_mode_and_world_size(tmp_path):
    cases = [factory.planned("gpt-tiny", "ddp", size) for size in (1, 2)]
    command = ["llmbench", "run", "modes", "-m", "ddp", "-w", "gpt", "--world-size", "1", "--world-size", "2", "--plan"]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, command=command))
    for case in cases:
        factory.add(folder, *factory.ok_record(case))
    commands = [code.text for code in Page(run_page(folder)).all("code")]
    assert "llmbench run modes --workload gpt-tiny --mode ddp --world-size 2" in commands


def test_charts_of_many_cases_are_drawn_where_they_matter(tmp_path):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager", *(f"mode{n}" for n in range(30))])
    page = Page(run_page(folder))
    titles = [title.text for title in page.all("title")]
    assert sum(title.startswith("Step times of") for title in titles) == 8
    assert sum(title.startswith("Memory of gpt-tiny") for title in titles) == 8
    assert page.body.count("Memory over time") == 8
    assert page.body.count("Where the time went") == 23
