"""Scaling efficiency by world size: the ideal line, the values, and what is left out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from llmbench.report import run_page
from llmbench.report.charts.efficiency import Efficiency, efficiencies
from llmbench.report.palette import ink
from llmbench.report.run.cases import read_cases
from llmbench.report.run.scaling import scaling
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page


def run_of(path, modes, sizes=(1, 2, 4), change=lambda record: None):
    cases = [factory.planned("gpt-tiny", mode, size) for mode in modes for size in sizes]
    folder = RunFolder.create(path, factory.make_run(cases))
    for case in cases:
        record, series = factory.ok_record(case)
        change(record)
        factory.add(folder, record, series)
    return folder


def table_of(folder):
    return scaling(read_cases(folder, folder.read_run()))


def texts(svg):
    return ["".join(text.itertext()) for text in ET.fromstring(str(svg)).iter("text")]


def line(name, *values):
    return Efficiency(name, ink(0), [(2**index, value) for index, value in enumerate(values)])


def test_the_ideal_is_a_line_at_a_hundred_percent():
    svg = ET.fromstring(str(efficiencies("t", [line("ddp", 1, 0.9, 0.8)])))
    (ideal,) = [one for one in svg.iter("line") if one.get("class") == "front"]
    path = next(one for one in svg.iter("path") if "line" in one.get("class"))
    first = float(re.match(r"M[\d.]+ ([\d.]+)", path.get("d"))[1])
    assert ideal.get("y1") == ideal.get("y2")
    assert float(ideal.get("y1")) == pytest.approx(first, abs=0.1)
    assert "ideal 100 %" in texts(efficiencies("t", [line("ddp", 1, 0.9)]))


def test_marks_have_their_values():
    told = texts(efficiencies("t", [line("ddp", 1, 0.9, 0.8)]))
    assert {"90 %", "ddp 80 %", "×1", "×2", "×4"} <= set(told)


def test_names_at_the_end_lie_apart():
    svg = ET.fromstring(str(efficiencies("t", [line(f"mode{n}", 1, 0.9 + n / 1000) for n in range(8)])))
    levels = sorted(float(t.get("y")) for t in svg.iter("text") if (t.text or "").startswith(("mode", "ideal")))
    assert len(levels) == 9
    assert all(lower - upper >= 14.9 for upper, lower in pairwise(levels))
    assert levels[-1] < float(svg.get("height"))


def test_better_than_ideal_stays_on_the_chart():
    svg = ET.fromstring(str(efficiencies("t", [line("ddp", 1, 1.6)])))
    assert all(float(one.get("cy")) >= 0 for one in svg.iter("circle"))


def test_efficiency_of_each_mode_beside_the_table(tmp_path):
    folder = run_of(tmp_path / "run", ["ddp", "fsdp"])
    table = table_of(folder)
    described = ET.fromstring(str(table.chart)).find("desc").text
    assert "ddp: 90 % at 2 ranks, 81 % at 4 ranks" in described
    titles = [title.text for title in Page(run_page(folder)).all("title")]
    assert "Scaling efficiency of gpt-tiny by the number of ranks" in titles


def test_what_does_not_count_or_cannot_be_has_no_mark(tmp_path):
    def spoil(record):
        if record.mode == "fsdp" and record.world_size > 1:
            record.status = "invalid"
        if record.mode == "tp" and record.scaling:
            record.scaling.efficiency = 1e12

    table = table_of(run_of(tmp_path / "run", ["ddp", "fsdp", "tp"], change=spoil))
    described = ET.fromstring(str(table.chart)).find("desc").text
    assert described.startswith("ddp")
    assert ";" not in described
    assert len(table.rows) == 3


def test_no_chart_without_an_efficiency(tmp_path):
    def without(record):
        record.scaling = None

    table = table_of(run_of(tmp_path / "run", ["ddp"], change=without))
    assert table.chart is None
    assert len(table.rows) == 1


def test_of_many_modes_the_chart_shows_those_that_scale_best(tmp_path):
    modes = factory.PARALLEL[:10]
    folder = run_of(tmp_path / "run", modes, sizes=(1, 2))
    table = table_of(folder)
    assert table.undrawn == 2
    assert len(list(ET.fromstring(str(table.chart)).iter("path"))) == 8
    assert "Scaling efficiency by the number of ranks, the 8 modes that scale best" in Page(run_page(folder)).body
