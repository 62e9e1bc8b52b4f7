import math

import pytest

from llmbench.report.palette import ink
from llmbench.report.run.cases import Column, read_cases
from llmbench.report.run.matrix import matrix
from llmbench.report.run.speedup import Speedup, geometric_mean, headline
from llmbench.results.schema import Throughput
from llmbench.results.store import RunFolder
from tests import factory


def speeds(tmp_path, values, unit="tokens/s"):
    """The matrix of a run with these speeds: {case: (value, half-width, status)}."""
    cases = [factory.planned(*name.split("/")[:2], int(name.split("/")[2])) for name in values]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case, (value, half, status) in zip(cases, values.values(), strict=True):
        record, series = factory.ok_record(case)
        record.throughput = Throughput(value=value, unit=unit, ci95=(value - half, value + half), n=80)
        record.status = status
        factory.add(folder, record, series)
    return matrix(read_cases(folder, folder.read_run()))


def test_speedup_is_over_the_same_workloads_eager_case(tmp_path):
    table = speeds(
        tmp_path,
        {
            "gpt-tiny/eager/1": (100.0, 3.0, "ok"),
            "gpt-tiny/bf16/1": (150.0, 6.0, "ok"),
            "bert-tiny/eager/1": (10.0, 0.1, "ok"),
            "bert-tiny/bf16/1": (5.0, 0.1, "ok"),
        },
    )
    found = table.speedups()
    assert found["gpt-tiny/bf16/ws1"].value == pytest.approx(1.5)
    assert found["bert-tiny/bf16/ws1"].value == pytest.approx(0.5)
    half = math.hypot(math.log(156 / 144) / 2, math.log(103 / 97) / 2)
    assert found["gpt-tiny/bf16/ws1"].half_width == pytest.approx(half)
    assert found["gpt-tiny/bf16/ws1"].interval == pytest.approx((1.5 / math.exp(half), 1.5 * math.exp(half)))
    marks = {entry.case.id: entry.note for row in table.rows for cell in row.cells for entry in cell}
    assert marks == {
        "gpt-tiny/eager/ws1": "",
        "gpt-tiny/bf16/ws1": "",
        "bert-tiny/eager/ws1": "",
        "bert-tiny/bf16/ws1": "▼",
    }


def test_a_difference_within_the_interval_is_marked_as_undecided(tmp_path):
    table = speeds(tmp_path, {"gpt-tiny/eager/1": (100.0, 3.0, "ok"), "gpt-tiny/compile/1": (103.0, 3.0, "ok")})
    assert table.speedups()["gpt-tiny/compile/ws1"].undecided
    assert table.rows[0].cells[1][0].note == "≈"


def test_an_invalid_speed_is_shown_but_counts_nowhere(tmp_path):
    table = speeds(tmp_path, {"gpt-tiny/eager/1": (100.0, 3.0, "ok"), "gpt-tiny/bf16/1": (900.0, 3.0, "invalid")})
    entry = table.rows[0].cells[1][0]
    assert (entry.main, entry.shade, entry.speedup) == ("✖ invalid", "hatched", None)
    assert entry.detail.startswith("900 tokens/s")
    assert table.by_column() == {}


def test_without_a_valid_eager_case_there_is_no_speedup(tmp_path):
    table = speeds(tmp_path, {"gpt-tiny/eager/1": (100.0, 3.0, "invalid"), "gpt-tiny/bf16/1": (150.0, 3.0, "ok")})
    assert table.speedups() == {}
    assert not table.rows[0].has_base
    assert table.rows[0].cells[1][0].main == "–"


def test_world_sizes_are_columns_over_one_eager_case(tmp_path):
    table = speeds(
        tmp_path,
        {
            "gpt-tiny/eager/1": (100.0, 1.0, "ok"),
            "gpt-tiny/eager/2": (180.0, 1.0, "ok"),
            "gpt-tiny/bf16/1": (150.0, 1.0, "ok"),
        },
    )
    assert [column.name for column in table.columns] == ["eager", "eager ×2", "bf16"]
    one, two, _ = table.columns
    assert one.ink.slot == two.ink.slot
    assert one.ink.dash != two.ink.dash
    assert table.speedups()["gpt-tiny/eager/ws2"].value == pytest.approx(1.8)
    assert [column.name for column in table.by_column()] == ["eager ×2", "bf16"]


def test_geometric_mean_and_its_interval():
    mean = geometric_mean([Speedup(2.0, 0.03), Speedup(8.0, 0.04)])
    assert mean.value == pytest.approx(4.0)
    assert mean.half_width == pytest.approx(0.025)
    assert geometric_mean([Speedup(2.0, None), Speedup(8.0, 0.04)]).half_width is None


def test_the_headline_is_not_won_by_a_mode_measured_once():
    compile_, bf16 = Column("compile", 1, ink(1)), Column("bf16", 1, ink(2))
    best = headline({compile_: [Speedup(9.0, None)], bf16: [Speedup(1.2, None)] * 3})
    assert best.column == bf16
    assert best.workloads == 3
    assert headline({}) is None
