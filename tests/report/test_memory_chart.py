"""Peak memory by kind: what adds up, what cannot be, and how it is told without colour."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.report import run_page
from llmbench.report.charts.stacks import LOOKS, Part, Stack, patterns, stacks
from llmbench.report.palette import ink
from llmbench.report.run.cases import read_cases
from llmbench.report.run.memory import memory_split, memory_view
from llmbench.results.schema import Memory, MemorySplit
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page

GIB = 2**30


def cpu(**changes):
    values = {"peak_rss_bytes": 1000, "start_rss_bytes": 300, "capacity_bytes": 100_000} | changes
    return Memory(**values)


def gpu(**changes):
    return Memory(**({"peak_allocated_bytes": 10 * GIB, "peak_rss_bytes": GIB, "capacity_bytes": 24 * GIB} | changes))


def parts(**changes):
    return MemorySplit(**({"parameters": 100, "gradients": 100, "optimizer": 200, "activations": 150} | changes))


def gib(**changes):
    return MemorySplit(
        **{name: value * GIB for name, value in ({"parameters": 1, "gradients": 1, "optimizer": 2} | changes).items()}
    )


def views(tmp_path, memories):
    """The cases of a run whose modes have these memories: {mode: Memory}."""
    cases = [factory.planned("gpt-tiny", mode) for mode in memories]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    for case, memory in zip(cases, memories.values(), strict=True):
        record, series = factory.ok_record(case)
        factory.add(folder, record.model_copy(update={"memory": memory}), series)
    return read_cases(folder, folder.read_run()), folder


def split_of(memory):
    record, _ = factory.ok_record(factory.planned("gpt-tiny", "eager"))
    return memory_split(record.model_copy(update={"memory": memory}))


def test_other_is_what_the_peak_held_besides():
    found = split_of(cpu(split=parts()))
    assert found.parts == {"parameters": 100, "gradients": 100, "optimizer": 200, "activations": 150, "other": 150}
    assert (found.start, found.peak, found.overlap, found.faults) == (300, 700, False, [])
    assert sum(found.parts.values()) + found.start == 1000


def test_reserved_is_what_lies_beyond_the_allocated():
    found = split_of(gpu(split=gib(activations=5), peak_reserved_bytes=11 * GIB))
    assert found.parts["other"] == GIB
    assert found.parts["reserved"] == GIB
    assert found.start == 0


def test_parts_that_were_not_there_at_once_reach_beyond_the_peak():
    found = split_of(gpu(split=gib(activations=9), peak_reserved_bytes=11 * GIB))
    assert found.overlap
    assert "other" not in found.parts
    assert "reserved" not in found.parts  # 13 GiB of parts reach beyond it


def test_what_was_not_measured_is_in_other():
    found = split_of(cpu(split=parts(activations=None)))
    assert found.unknown == ["activations"]
    assert found.parts["other"] == 300


def test_a_number_below_zero_is_named_and_not_drawn():
    found = split_of(cpu(split=parts(gradients=-5)))
    assert found.faults == ["-5 B of gradients cannot be"]
    assert "gradients" not in found.parts


@pytest.mark.parametrize("memory", [None, Memory(), cpu(peak_rss_bytes=-1), cpu(peak_rss_bytes=10**300)])
def test_no_split_without_a_peak(memory):
    assert split_of(memory) is None


def test_a_start_beyond_the_peak_leaves_nothing_of_the_case():
    found = split_of(cpu(start_rss_bytes=5000, split=parts()))
    assert (found.start, found.peak) == (1000, 0)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return views(tmp_path_factory.mktemp("example"), {"eager": cpu()})[0][0]


NUMBERS = st.one_of(st.none(), st.integers(-(10**300), 10**300), st.integers(0, 10**6))


@given(*[NUMBERS] * 8)
def test_any_numbers_give_a_chart(example, peak, start, allocated, reserved, capacity, parameters, gradients, kept):
    memory = Memory(
        peak_rss_bytes=peak,
        start_rss_bytes=start,
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=reserved,
        capacity_bytes=capacity,
        split=MemorySplit(parameters=parameters, gradients=gradients, activations=kept),
    )
    record, _ = factory.ok_record(factory.planned("gpt-tiny", "eager"))
    case = replace(example, record=record.model_copy(update={"memory": memory}))
    svg = ET.fromstring(str(memory_view("gpt-tiny", [case]).chart))
    assert not re.search(r"nan|inf\b", ET.tostring(svg, encoding="unicode").replace("infer", ""))


def drawn(view):
    svg = ET.fromstring(str(view.chart))
    return svg, ["".join(text.itertext()) for text in svg.iter("text")]


def test_a_capacity_within_reach_is_a_line(tmp_path):
    cases, _ = views(tmp_path, {"eager": gpu(peak_allocated_bytes=15 * GIB, split=gib(activations=10))})
    view = memory_view("gpt-tiny", cases)
    svg, texts = drawn(view)
    assert view.title == "Peak memory by kind; dashed: 24.0 GiB, all there is"
    (line,) = [one for one in svg.iter("line") if one.get("class") == "capacity"]
    ends = [float(one.get("d").split("H")[0].split("h")[1].split("v")[0]) for one in svg.iter("path")]
    assert float(line.get("x1")) > max(ends)
    assert "15.0 GiB" in texts


def test_a_capacity_out_of_reach_is_said_in_words(tmp_path):
    memory = gpu(peak_allocated_bytes=GIB, split=MemorySplit(parameters=GIB // 2))
    cases, _ = views(tmp_path, {"eager": memory})
    view = memory_view("gpt-tiny", cases)
    svg, _ = drawn(view)
    assert view.title == "Peak memory by kind, at most 4.2 % of 24.0 GiB"
    assert not [one for one in svg.iter("line") if one.get("class") == "capacity"]


def test_python_and_torch_are_cut_short_where_they_are_most(tmp_path):
    cases, _ = views(tmp_path, {"eager": cpu(peak_rss_bytes=10_700, start_rss_bytes=10_000, split=parts())})
    view = memory_view("gpt-tiny", cases)
    assert "700 B + 9.77 KiB" in drawn(view)[1]
    assert view.kinds[-1] == "Python and torch"
    cases, _ = views(tmp_path / "2", {"eager": cpu(split=parts())})
    assert "1000 B" in drawn(memory_view("gpt-tiny", cases))[1]


def test_the_peak_is_marked_where_the_parts_reach_beyond_it(tmp_path):
    cases, _ = views(tmp_path, {"eager": gpu(split=gib(activations=9)), "ac": gpu(split=gib(activations=3))})
    view = memory_view("gpt-tiny", cases)
    svg, _ = drawn(view)
    (tick,) = [one for one in svg.iter("line") if one.get("stroke-width") == "2"]
    assert view.overlap
    axis = next(one for one in svg.iter("line") if one.get("class") == "axis")
    x = float(axis.get("x1"))
    right = max(
        x + sum(float(p.get("d").split("h")[1].split("v")[0]) for p in group.iter("path") if p.get("stroke") != "none")
        for group in svg.iter("g")
        if "fill" in (group.get("class") or "")
    )
    assert (float(tick.get("x1")) - x) / (right - x) == pytest.approx(10 / 13, abs=0.01)


def test_kinds_differ_in_texture_and_shade_not_in_colour(tmp_path):
    cases, _ = views(tmp_path, {"eager": gpu(split=gib(activations=5), peak_reserved_bytes=11 * GIB)})
    svg, _ = drawn(memory_view("gpt-tiny", cases))
    looks = [(path.get("fill"), path.get("fill-opacity")) for path in svg.iter("path")]
    assert looks == [
        (None, None),
        (None, None),
        ("url(#cut-stripes)", None),
        (None, None),
        ("url(#cut-dots)", None),
        (None, "0.5"),
        (None, "0.1"),
        ("#d0d7de", None),
    ]
    (group,) = [one for one in svg.iter("g") if (one.get("class") or "").startswith("fill")]
    assert group.get("fill") == ink(0).colour


def test_a_run_without_a_split_keeps_two_parts(tmp_path):
    cases, folder = views(tmp_path, {"eager": cpu(), "bf16": cpu(peak_rss_bytes=900)})
    view = memory_view("gpt-tiny", cases)
    assert view.title == "Peak memory of 97.7 KiB (pale: Python and torch)"
    assert view.kinds == []
    page = Page(run_page(folder))
    assert not page.all("pattern")
    assert not page.all("ul", **{"aria-label": "What memory holds"})


def test_the_page_explains_what_it_draws(tmp_path):
    memories = {
        "eager": cpu(split=parts()),
        "compile": cpu(split=parts(activations=None)),
        "bf16": cpu(split=parts(gradients=-7, activations=600)),
        "ac": cpu(),
    }
    _, folder = views(tmp_path, memories)
    page = Page(run_page(folder))
    (legend,) = [one for one in page.all("ul") if one.attributes.get("aria-label") == "What memory holds"]
    for word in ("parameters", "gradients", "optimizer", "activations", "other", "Python and torch before the case"):
        assert word in legend.text
    remarks = [" ".join(one.text.split()) for one in page.all("p", class_="remark")]
    assert "compile: activations not measured, drawn as other" in remarks
    assert "ac: parameters and gradients and optimizer and activations not measured, drawn as other" in remarks
    assert "! bf16: -7 B of gradients cannot be; not drawn" in remarks
    assert any(remark.startswith("┃ the peak") for remark in remarks)
    described = [one.text for one in page.all("desc") if "Python and torch before the case" in one.text]
    assert "eager: peak 1000 B (parameters 100 B, gradients 100 B, optimizer 200 B" in described[0]


def test_patterns_have_the_ids_that_are_used():
    used = {f"cut-{look}" for look in ("stripes", "dots")}
    assert {one.get("id") for one in ET.fromstring(str(patterns())).iter("pattern")} == used
    assert {"stripes", "dots"} < set(LOOKS)


def test_names_are_whole(tmp_path):
    cases, _ = views(tmp_path, dict.fromkeys(["eager", "compile", "compile+bf16"], cpu(split=parts())))
    assert {"eager", "compile", "compile+bf16"} <= set(drawn(memory_view("gpt-tiny", cases))[1])
    assert "compile" in drawn(memory_view("gpt-tiny", cases[:2]))[1]


def test_parts_that_are_no_lengths_are_left_out():
    row = Stack("a", ink(0), tuple(Part("k", "solid", v) for v in (float("nan"), -3, float("inf"), 4)), "4", "4")
    assert len(list(ET.fromstring(str(stacks("t", [row]))).iter("path"))) == 1
