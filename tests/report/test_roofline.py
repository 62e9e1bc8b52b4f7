"""The roofline: how bytes are counted, where a case lies, and what is shown without a bandwidth."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.report import run_page
from llmbench.report.charts.roofline import Point, Roof, frame, roofline
from llmbench.report.charts.scale import Scale
from llmbench.report.palette import ink
from llmbench.report.run.cases import read_cases
from llmbench.report.run.matrix import matrix
from llmbench.report.run.roofline import arithmetic_of, bytes_moved, intensity, roofline_section
from llmbench.results.schema import Bandwidth, MemorySplit, Peak
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page

PLAUSIBLE = st.floats(1e-20, 1e20)


def record_of(mode="eager", world_size=1, **changes):
    record, _ = factory.ok_record(factory.planned("gpt-tiny", mode, world_size))
    record.memory.split = MemorySplit(parameters=100, gradients=100, optimizer=200, activations=600)
    return record.model_copy(update=changes)


def run_of(path, modes, **changes):
    cases = [factory.planned("gpt-tiny", mode) for mode in modes]
    folder = RunFolder.create(path, factory.make_run(cases))
    for case in cases:
        record, series = factory.ok_record(case)
        factory.add(folder, record.model_copy(update=changes), series)
    return folder


def section_of(folder):
    return roofline_section(matrix(read_cases(folder, folder.read_run())))


# Bytes


def test_everything_held_is_read_and_written_once():
    assert bytes_moved(record_of()) == 2 * 1000


def test_activations_move_for_every_micro_batch():
    record = record_of("accum4")
    assert record.config["grad_accum"] == 4
    assert bytes_moved(record) == 2 * (400 + 4 * 600)


@pytest.mark.parametrize("absurd", ["4", True, -1, 10**9, 2.5, None])
def test_an_absurd_number_of_micro_batches_counts_as_one(absurd):
    record = record_of()
    assert bytes_moved(record.model_copy(update={"config": record.config | {"grad_accum": absurd}})) == 2000


def test_what_was_not_measured_is_as_planned():
    record = record_of("compile")
    record.memory.split.activations = None
    record.memory.estimate = MemorySplit(activations=500)
    assert bytes_moved(record) == 2 * 900
    record.memory.estimate = None
    assert bytes_moved(record) is None
    assert bytes_moved(record_of(memory=None)) is None


def test_the_intensity_is_that_of_one_rank():
    assert intensity(record_of(flops_per_step=8000.0)) == 4
    assert intensity(record_of("ddp", 2, flops_per_step=8000.0)) == 2


@pytest.mark.parametrize("flops", [None, 0.0, -1.0, math.nan, math.inf, 1e200])
def test_no_intensity_without_work(flops):
    assert intensity(record_of(flops_per_step=flops)) is None


@pytest.mark.parametrize(
    ("mode", "arithmetic"),
    [("eager", "fp32"), ("compile+bf16", "bf16"), ("bf16-params+fsdp", "bf16"), ("of+a+later+llmbench",) * 2],
)
def test_arithmetic_of_modes_known_and_unknown(mode, arithmetic):
    assert arithmetic_of(mode) == arithmetic


# The chart


def point(intensity=10.0, tflops=1.0, counts=True, name="eager"):
    return Point(ink(0), "circle", intensity, tflops, counts, name, "50 %", f"{name}: {tflops}")


def drawn(points, roofs, bandwidth):
    ends = frame(points, roofs, bandwidth)
    return ET.fromstring(str(roofline("t", points, roofs, bandwidth, ends))), ends


def test_the_slope_meets_the_flat_roof_where_bandwidth_times_intensity_is_the_peak():
    svg, _ = drawn([point()], [Roof("fp32", 2.0), Roof("bf16", 8.0)], 1e11)
    paths = [path.get("d") for path in svg.iter("path") if path.get("class") == "front"]
    flat, slope = paths[:2], paths[2]
    end = tuple(map(float, slope.split("L")[1].split()))
    starts = [tuple(map(float, re.match(r"M([\d.]+) ([\d.]+)H", one).groups())) for one in flat]
    assert starts[0] == pytest.approx(end, abs=0.2)  # the higher roof, bf16, begins where the slope ends
    assert starts[0][0] > starts[1][0]
    assert starts[0][1] < starts[1][1]


def test_a_case_lies_at_its_intensity_and_speed():
    svg, ends = drawn([point(10, 1)], [Roof("fp32", 2.0)], 1e12)
    (group,) = [one for one in svg.iter("g") if one.get("class") == "fill c0"]
    x, y = map(float, re.match(r"M([\d.]+) ([\d.]+)", next(group.iter("path")).get("d")).groups())
    roof = next(path.get("d") for path in svg.iter("path") if path.get("class") == "front")
    left, level, right = map(float, re.match(r"M([\d.]+) ([\d.]+)H([\d.]+)", roof).groups())
    across = Scale(2, ends.intensity[1], left, right, log=True)  # the roof's edge: 2 TFLOP/s at 1 TB/s
    assert x == pytest.approx(across(10), abs=0.2)
    assert y > level


def test_every_roof_has_a_dash_and_a_name_of_its_own():
    svg, _ = drawn([point()], [Roof("fp32", 2.0), Roof("bf16", 8.0), Roof("fp16", 8.01)], 1e11)
    flat = [p.get("stroke-dasharray") for p in svg.iter("path") if p.get("class") == "front" and "H" in p.get("d")]
    assert len(set(flat)) == 3
    names = [t for t in svg.iter("text") if re.match(r"(fp32|bf16|fp16) ", "".join(t.itertext()))]
    levels = sorted(float(text.get("y")) for text in names)
    assert len(levels) == 3
    assert levels[1] - levels[0] >= 14


@given(st.lists(st.tuples(PLAUSIBLE, PLAUSIBLE), min_size=1, max_size=8), PLAUSIBLE, PLAUSIBLE)
def test_any_plausible_numbers_give_a_chart(values, peak, bandwidth):
    svg, _ = drawn([point(*value) for value in values], [Roof("fp32", peak)], bandwidth)
    numbers = [float(x) for p in svg.iter("path") for x in re.findall(r"-?\d+\.?\d*", p.get("d"))]
    assert all(map(math.isfinite, numbers))


# The page


def test_a_roofline_for_each_workload_on_the_same_axes(tmp_path):
    folder = factory.smoke_run(tmp_path / "run")
    section = section_of(folder)
    assert [view.workload for view in section.views] == factory.WORKLOADS
    assert section.bandwidth == "21.4 GB/s"
    roofs = [
        [path.get("d") for path in ET.fromstring(str(view.chart)).iter("path") if path.get("class") == "front"]
        for view in section.views
    ]
    assert all(one == roofs[0] for one in roofs)
    page = Page(run_page(folder))
    assert page.one("h2", id="roofline").text == "Roofline"
    assert "in copying memory (21.4 GB/s)" in page.body


def test_a_case_is_told_by_its_share_of_the_roof_of_its_arithmetic(tmp_path):
    folder = run_of(tmp_path / "run", ["eager", "bf16"])
    svg = ET.fromstring(str(section_of(folder).views[0].chart))
    told = ["".join(text.itertext()) for text in svg.iter("text")]
    for record in folder.records():
        share = 100 * record.tflops / {"eager": 0.132, "bf16": 0.287}[record.mode]
        assert f"{record.mode} {share:.2g} %" in told
    assert {"fp32 0.132", "bf16 0.287"} <= set(told)


def test_what_does_not_count_is_hollow(tmp_path):
    svg = ET.fromstring(str(section_of(run_of(tmp_path / "run", ["eager"], status="invalid")).views[0].chart))
    assert [one.get("class") for one in svg.iter("g")] == ["ghost"]
    assert "invalid" in svg.find("desc").text


@pytest.mark.parametrize("unknown", [{"measured_bandwidth": None}, {"memory": None}, {"flops_per_step": None}])
def test_without_bandwidth_or_bytes_there_are_shares_of_the_peak(tmp_path, unknown):
    folder = run_of(tmp_path / "run", ["eager", "bf16"], **unknown)
    section = section_of(folder)
    assert section.bandwidth is None
    svg = ET.fromstring(str(section.views[0].chart))
    texts = ["".join(text.itertext()) for text in svg.iter("text")]
    assert any(re.fullmatch(r"[\d.]+ % of 0\.132 \(fp32\)", text) for text in texts)
    assert any(re.fullmatch(r"[\d.]+ % of 0\.287 \(bf16\)", text) for text in texts)
    (line,) = [one for one in svg.iter("line") if one.get("class") == "capacity"]
    bars = list(svg.iter("rect"))
    assert all(float(bar.get("x")) + float(bar.get("width")) < float(line.get("x1")) for bar in bars)
    assert Page(run_page(folder)).one("h2", id="roofline").text == "Share of the measured peak"


@pytest.mark.parametrize("unknown", [{"measured_peak": None}, {"tflops": None}, {"tflops": math.nan}])
def test_without_a_peak_or_a_speed_there_is_no_section(tmp_path, unknown):
    folder = run_of(tmp_path / "run", ["eager"], **unknown)
    assert section_of(folder) is None
    assert "Roofline" not in Page(run_page(folder)).body


@pytest.mark.parametrize("absurd", [0.0, -1.0, 1e300, math.inf])
def test_absurd_peaks_and_bandwidths_are_none(tmp_path, absurd):
    folder = run_of(tmp_path / "a", ["eager"], measured_bandwidth=Bandwidth(bytes_per_second=absurd, source="x"))
    if math.isfinite(absurd):  # what is not finite cannot be read back
        assert section_of(folder).bandwidth is None
    folder = run_of(tmp_path / "b", ["eager"], measured_peak=Peak(tflops=min(absurd, 1e300), source="x"))
    assert section_of(folder) is None


def test_of_many_cases_those_of_the_panels_are_drawn(tmp_path):
    section = section_of(factory.modes_run(tmp_path / "run", parallel=[]))
    assert section.left_out > 0
    svg = ET.fromstring(str(section.views[0].chart))
    assert sum(one.get("class") in ("ghost", None) or one.get("class").startswith("fill") for one in svg.iter("g")) <= 8
