"""The page of a run of many modes: matrix, picks, groups of what was skipped, and weight."""

from __future__ import annotations

import pytest

from llmbench.report import run_page
from llmbench.report.run.cases import read_cases
from llmbench.report.run.kinds import kind
from llmbench.report.run.matrix import matrix
from llmbench.report.run.pick import MOST, inked, picked
from llmbench.results.schema import Error
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_run_page import assert_safe, details


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    folder = factory.modes_run(tmp_path_factory.mktemp("modes") / "run")
    return folder, assert_safe(run_page(folder))


def views(folder):
    return read_cases(folder, folder.read_run())


def of_workload(cases, workload):
    return [case for case in cases if case.workload == workload]


@pytest.mark.parametrize(
    ("mode", "title"),
    [
        ("eager", "Precision"),
        ("bf16-params", "Precision"),
        ("compile-blocks+bf16+fused", "Compile and optimizer"),
        ("fused", "Compile and optimizer"),
        ("bf16+fused+ac+chunked-ce", "Memory"),
        ("bf16+flex", "Attention"),
        ("cpu-offload+fsdp", "Parallel"),
        ("of another llmbench", "Other"),
    ],
)
def test_a_mode_belongs_to_one_kind(mode, title):
    assert kind(mode) == title


def test_modes_are_rows_by_kind_and_those_that_nowhere_ran_are_left_out(modes):
    folder, page = modes
    table = matrix(views(folder))
    assert table.turned
    groups = {group.kind: group for group in table.groups()}
    assert list(groups) == ["Precision", "Compile and optimizer", "Memory", "Attention", "Parallel"]
    assert [row.mode for row in groups["Precision"].rows] == ["eager", "bf16", "fp16", "bf16-params"]
    assert groups["Precision"].columns == ["gpt-tiny", "bert-tiny"]
    assert groups["Parallel"].columns == ["gpt-tiny", "gpt-tiny ×2", "bert-tiny", "bert-tiny ×2"]
    lacking = [mode for mode in (*factory.SINGLE, *factory.PARALLEL) if set(mode.split("+")) & set(factory.LACKING)]
    assert table.left_out() == lacking
    assert f"No case ran of: {', '.join(lacking)}." in page.body
    captions = [caption.text for caption in page.all("caption") if caption.text in groups]
    assert captions == list(groups)


def test_every_cell_of_the_turned_matrix_is_of_its_mode_workload_and_world_size(modes):
    folder, _ = modes
    for group in matrix(views(folder)).groups():
        for row in group.rows:
            for column, cell in zip(group.columns, row.cells, strict=True):
                workload, _, size = column.partition(" ×")
                assert [entry.case.id for entry in cell] == [f"{workload}/{row.mode}/ws{size or 1}"]


def test_up_to_eight_modes_stay_columns(tmp_path):
    folder = factory.plain_run(tmp_path / "run", ["gpt-tiny"], ["eager", *(f"mode{n}" for n in range(7))])
    assert not matrix(views(folder)).turned
    assert Page(run_page(folder)).all("table", class_="turned") == []


def test_a_panel_draws_what_matters(modes):
    folder, _ = modes
    for workload in ("gpt-tiny", "bert-tiny"):
        cases = of_workload(views(folder), workload)
        drawn = picked(cases)
        ids = {case.id for case in drawn}
        counting = [case for case in cases if case.counts]
        assert len(drawn) == MOST
        assert [case for case in cases if case.id in ids] == drawn  # in the order of the suite
        assert f"{workload}/eager/ws1" in ids
        assert max(counting, key=lambda case: case.throughput).id in ids
        assert min(counting, key=lambda case: case.training_bytes).id in ids
        assert f"{workload}/fp16/ws1" in ids  # invalid
        assert {kind(case.column.mode) for case in drawn} >= {"Precision", "Memory", "Attention", "Parallel"}
        assert not any(case.verdict.key == "skipped" for case in drawn)


def test_the_fastest_and_the_lightest_are_drawn_wherever_they_stand(tmp_path):
    """There are more things to show than places: the fastest is of the last kind, the lightest the slowest of all."""
    speeds = {"eager": 100, "bf16": 130, "compile": 120, "ac": 110, "sdpa-math": 105, "fp16": 1, "tf32": 2}
    speeds |= {"a": 125, "fused": 119, "sac": 109, "bf16-params": 50, "ddp": 121, "fsdp": 900}
    cases = [factory.planned("gpt-tiny", mode) for mode in speeds]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        record, _ = factory.ok_record(case)
        record.throughput.value = float(speeds[case.mode])
        record.memory.peak_rss_bytes = record.memory.start_rss_bytes + (1 if case.mode == "bf16-params" else 5000)
        if case.mode in ("fp16", "tf32"):
            factory.stray(record, step=3)
        folder.append(record)
    drawn = [case.column.mode for case in picked(views(folder))]
    assert drawn == ["eager", "bf16", "compile", "ac", "fp16", "tf32", "bf16-params", "fsdp"]


def test_what_did_not_run_takes_no_place_in_a_panel_of_many(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in factory.SINGLE]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, status="interrupted"))
    for case in cases[:2]:
        factory.add(folder, *factory.ok_record(case))
    folder.append(factory.unavailable(cases[2], "no compiler"))
    folder.append(factory.broken_record(cases[3], "failed", None))
    assert [case.column.mode for case in picked(views(folder))] == ["eager", "tf32", "fp16"]


def test_few_cases_are_all_drawn(tmp_path):
    cases = views(factory.smoke_run(tmp_path / "run"))
    assert picked(of_workload(cases, "lora-tiny")) == of_workload(cases, "lora-tiny")


def test_legend_and_charts_use_the_inks_of_what_is_drawn(modes):
    """The eighth mode drawn is no further down the palette than the eighth, wherever the suite has it."""
    folder, page = modes
    cases = views(folder)
    drawn = {case.id for name in ("gpt-tiny", "bert-tiny") for case in picked(of_workload(cases, name))}
    names = {case.column.mode for case in cases if case.id in drawn}
    legend = page.all("ul", class_="legend")[1]
    inside = page.elements[page.elements.index(legend) :]
    lines = [
        one.attributes["class"].split()[1] for one in inside if one.attributes.get("class", "").startswith("line c")
    ]
    assert lines[:6] == [f"c{slot}" for slot in range(6)]
    assert len(names) > 6


def test_drawn_modes_have_inks_that_differ(modes):
    folder, _ = modes
    cases = views(folder)
    drawn = [case for name in ("gpt-tiny", "bert-tiny") for case in picked(of_workload(cases, name))]
    again = {case.id: case for case in inked(cases, drawn)}
    for workload in ("gpt-tiny", "bert-tiny"):
        inks = [again[case.id].column.ink for case in drawn if case.workload == workload]
        assert len(set(inks)) == len(inks) == MOST
    assert again["gpt-tiny/eager/ws1"].column.ink == again["bert-tiny/eager/ws1"].column.ink


def test_what_is_not_drawn_is_named(modes):
    folder, page = modes
    cases = of_workload(views(folder), "gpt-tiny")
    drawn = {case.id for case in picked(cases)}
    left = [case.column.name for case in cases if case.verdict.key != "skipped" and case.id not in drawn]
    assert f"{len(left)} more in the table of all cases" in page.body
    assert f"Not drawn: {', '.join(left)}." in page.body


def test_skipped_cases_take_one_line_for_each_reason(modes):
    folder, page = modes
    records = folder.records()
    skipped = [record for record in records if record.status == "skipped"]
    rows = [row for row in page.all("tr") if row.attributes.get("data-tone") == "muted"]
    assert len(rows) == 7
    words = [" ".join(row.text.split()) for row in rows]
    assert words[1] == (
        "– skipped 4 cases fp8, compile-blocks+fp8 of gpt-tiny, bert-tiny "
        "fp8 needs a CUDA device of compute capability 8.9"
    )
    assert words[0].endswith("tf32 needs a CUDA device → --device cuda")
    numbers = sorted(int(number) for row in rows for number in row.attributes["data-record"].split())
    assert [records[number] for number in numbers] == skipped
    assert sum(int(row.attributes["data-cases"]) for row in rows) == len(skipped) == 26
    assert len(details(page)) == 116 + 7
    assert "26 cases, for 7 reasons" in page.body


def test_every_link_leads_somewhere_even_to_what_was_skipped(modes):
    folder, page = modes
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {element.attributes["href"][1:] for element in page.all("a")} <= set(ids)
    assert {record.case for record in folder.records()} <= set(ids)


def test_skipped_case_with_more_to_say_than_a_line(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "bf16")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    factory.add(folder, *factory.ok_record(cases[0]))
    error = Error(type="Unavailable", message="no compiler\nlooked for g++ and clang++")
    factory.add(folder, factory.broken_record(cases[1], "skipped", error))
    page = assert_safe(run_page(folder))
    assert page.one("pre", class_="log").text == "no compiler\nlooked for g++ and clang++"
    assert "– skipped gpt-tiny/bf16/ws1 no compiler" in page.body


def test_cases_that_were_not_run_stand_together(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in factory.SINGLE]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases, status="interrupted"))
    factory.add(folder, *factory.ok_record(cases[0]))
    page = assert_safe(run_page(folder))
    (row,) = [row for row in page.all("tr") if row.attributes.get("data-tone") == "muted"]
    assert f"{len(cases) - 1} cases" in row.text
    assert "data-record" not in row.attributes
    assert len(page.data["records"]) == 1


def test_scaling_of_each_mode_and_its_share_of_communication(modes):
    folder, page = modes
    rows = [" ".join(row.text.split()) for row in page.all("tr")]
    record = next(record for record in folder.records() if record.case == "gpt-tiny/ddp/ws2")
    head = rows.index("Mode ×1 ×2 efficiency in communication")
    assert rows[head + 1].startswith("ddp 11.1 k ±0.82 % 21.6 k ±0.50 % 90 % ")
    assert rows[head + 1].endswith(f"{100 * record.communication.share:.0f} %")
    assert "Scaling, strong: throughput in tokens/s by the number of ranks" in page.body


def test_a_broken_case_has_no_efficiency(tmp_path):
    cases = [factory.planned("gpt-tiny", "ddp", size) for size in (1, 2, 4)]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case in cases:
        record, series = factory.ok_record(case)
        if case.world_size == 2:
            factory.stray(record, step=3)
        factory.add(folder, record, series)
    page = assert_safe(run_page(folder))
    rows = [" ".join(row.text.split()) for row in page.all("tr")]
    row = rows[rows.index("Mode ×1 ×2 efficiency in communication ×4 efficiency in communication") + 1]
    assert "✖ invalid –" in row
    assert " 81 % " in row  # 4 ** -0.15


def test_a_run_of_one_world_size_has_no_scaling(tmp_path):
    assert "by the number of ranks" not in Page(run_page(factory.smoke_run(tmp_path / "run"))).body


def test_the_title_counts_workloads_modes_and_ranks(modes):
    _, page = modes
    assert "142 cases: 2 workloads, 49 modes, 1 and 2 ranks" in page.body
