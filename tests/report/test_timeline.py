"""Memory over time as it is drawn, and what differs from eager."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.report import run_page
from llmbench.report.charts.timeline import timeline
from llmbench.report.palette import ink
from llmbench.results.schema import Hardware, MemoryTimeline, Range, Series
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_run_page import assert_safe

GIB = 2**30
PHASES = {"import": 0.0, "build": 0.2, "compile": 0.4, "warmup": 5.0, "timed": 6.0, "evaluate": 9.5}
FOUND = MemoryTimeline(
    seconds=[index / 10 for index in range(101)],
    bytes=[GIB if index < 4 else 3 * GIB if index != 70 else 4 * GIB for index in range(101)],
    source="resident memory of the process",
    phases=PHASES,
)


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(str(svg)).iter("text")]


def described(svg: str) -> str:
    return ET.fromstring(str(svg)).findtext("desc") or ""


def test_phases_stand_above_in_order_and_each_is_told():
    svg = timeline("Memory", FOUND, ink(0))
    paths = ET.fromstring(str(svg)).iter("path")
    bands = [float(path.get("d").split()[0][1:]) for path in paths if re.fullmatch(r"p\d", path.get("class"))]
    assert len(bands) == 6
    assert bands == sorted(bands)
    assert [text for text in texts(svg) if text in ("first step", "timed", "warm-up")] == ["first step", "timed"]
    assert described(svg) == (
        "import from 0 s, up to 1.00 GiB; build from 200 ms, up to 1.00 GiB; first step from 400 ms, up to 3.00 GiB; "
        "warm-up from 5.00 s, up to 3.00 GiB; timed from 6.00 s, up to 4.00 GiB; evaluate from 9.50 s, up to 3.00 GiB"
    )


def test_a_limit_in_reach_is_a_line_above_the_peak():
    svg = ET.fromstring(str(timeline("Memory", FOUND, ink(0), 6 * GIB)))
    line = next(line for line in svg.iter("line") if line.get("class") == "capacity")
    mark = next(svg.iter("circle"))
    floor = next(line for line in svg.iter("line") if line.get("class") == "axis")
    top, peak, bottom = float(line.get("y1")), float(mark.get("cy")), float(floor.get("y1"))
    assert 0 < top < peak < bottom
    # From zero: 4 GiB stand at two thirds of 6.
    assert (bottom - peak) / (bottom - top) == pytest.approx(4 / 6, abs=0.01)
    assert "limit 6.00 GiB" in texts(ET.tostring(svg, encoding="unicode"))


@pytest.mark.parametrize("limit", [2 * GIB, 4 * GIB])
def test_a_limit_that_was_reached_or_passed_is_a_line_too(limit):
    svg = timeline("Memory", FOUND, ink(0), limit)
    assert 'class="capacity"' in svg
    assert described(svg).endswith(f"limit {limit // GIB}.00 GiB")


def test_a_limit_out_of_reach_is_told_in_words():
    svg = timeline("Memory", FOUND, ink(0), 400 * GIB)
    assert "capacity" not in svg
    assert "peak 4.00 GiB, 1.0 % of 400 GiB" in texts(svg)


def test_the_peak_is_drawn_whatever_is_left_out():
    root = ET.fromstring(str(timeline("Memory", FOUND, ink(0))))
    drawn = next(path.get("d") for path in root.iter("path") if "fill" in (path.get("class") or ""))
    y = int(re.match(r"M\d+ [\d.]+V(\d+)", drawn)[1])
    heights = [y]
    steps = re.findall(r"-?[\d.]+", drawn.partition("l")[2].partition("V")[0])
    for step in steps[1::2]:
        heights.append(heights[-1] + float(step))
    peak = float(next(root.iter("circle")).get("cy"))
    assert min(heights) == pytest.approx(peak, abs=0.5)
    assert len(heights) < 60


def test_too_little_is_not_drawn():
    for seconds, amounts in (([], []), ([1.0], [5]), ([math.nan, 1.0], [5, 6]), ([1.0, 2.0], [-1, 6])):
        found = MemoryTimeline(seconds=seconds, bytes=amounts, source="x")
        assert timeline("Memory", found, ink(0)) is None


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20),
    st.lists(st.integers(-(10**400), 10**400), max_size=20),
    st.dictionaries(st.text(max_size=10), st.floats(allow_nan=True, allow_infinity=True), max_size=6),
    st.none() | st.integers(-(10**400), 10**400),
)
def test_whatever_a_file_holds_is_drawn_within_the_picture(seconds, amounts, phases, limit):
    found = MemoryTimeline(seconds=seconds, bytes=amounts, source="x", phases=phases)
    svg = timeline("<Memory>", found, ink(0), limit)
    if svg is None:
        return
    assert "nan" not in re.sub(r"<(title|desc|text).*?</\1>", "", svg)
    for element in ET.fromstring(str(svg)).iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if element.get(name) is not None:
                assert -1 <= float(element.get(name)) <= 431


# --- on the page


def page_of(path: Path, change=lambda cases: None, modes=("eager", "compile", "ddp")) -> Page:
    cases = [factory.planned("gpt-tiny", mode, 2 if mode == "ddp" else 1) for mode in modes]
    folder = RunFolder.create(path, factory.make_run(cases))
    made = {case.mode: factory.ok_record(case) for case in cases}
    change(made)
    for record, series in made.values():
        factory.add(folder, record, series)
    return assert_safe(run_page(folder))


def differing(page: Page) -> dict[str, list[str]]:
    """What each case is said to differ in, by its mode."""
    found = {}
    for part in re.split(r'<details class="one">', page.source)[1:]:
        mode = re.search(r"gpt-tiny/(\w+)/ws", part)
        if mode and "<h3>Differs from eager</h3>" in part:
            told = part.partition("<h3>Differs from eager</h3>")[2].partition("<h3>")[0]
            found[mode[1]] = re.findall(r"<(?:li|p)>(.*?)</(?:li|p)>", told)
    return found


def test_every_charted_case_shows_its_memory_and_what_was_read(tmp_path):
    page = page_of(tmp_path / "run")
    titles = [title.text for title in page.all("title")]
    assert [title for title in titles if title.startswith("Memory of")] == [
        f"Memory of gpt-tiny/{mode}" for mode in ("eager/ws1", "compile/ws1", "ddp/ws2")
    ]
    assert page.source.count("resident memory of the process") == 1  # told once, of all


def test_a_case_of_before_has_its_phases_as_a_bar(tmp_path):
    def forget(made):
        made["eager"][1].memory = None

    titles = [title.text for title in page_of(tmp_path / "run", forget).all("title")]
    assert "Phases of gpt-tiny/eager/ws1" in titles
    assert "Memory of gpt-tiny/eager/ws1" not in titles


def test_a_case_that_failed_shows_its_memory_and_no_curve(tmp_path):
    cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "ac")]
    folder = RunFolder.create(tmp_path / "run", factory.make_run(cases))
    factory.add(folder, *factory.ok_record(cases[0]))
    record = factory.broken_record(cases[1], "oom", factory.OUT_OF_MEMORY)
    factory.add(folder, record, Series(loss=[], step_seconds=[], first_timed_step=0, memory=FOUND))
    page = assert_safe(run_page(folder))
    titles = [title.text for title in page.all("title")]
    assert "Memory of gpt-tiny/ac/ws1" in titles
    assert "Step times of gpt-tiny/ac/ws1" not in titles
    # It has not told what there is; the others have.
    assert "first step from 400 ms, up to 3.00 GiB" in page.source
    assert "peak 4.00 GiB, 3.1 % of 128 GiB" in page.source
    assert differing(page)["ac"] == ["in the mode alone"]


def test_what_differs_from_eager_is_listed(tmp_path):
    found = differing(page_of(tmp_path / "run"))
    assert set(found) == {"compile", "ddp"}
    assert found["compile"] == ["in the mode alone"]
    assert found["ddp"] == ["micro_batch_size 4 (eager 8)", "data_parallel 2 (eager 1)"]


def state(clock: float, temperature: float, *throttled: str) -> Hardware:
    return Hardware(
        samples=9,
        source="NVML",
        clock_mhz=Range(mean=clock, low=clock - 10, high=clock + 10),
        temperature_celsius=Range(mean=temperature, low=temperature - 2, high=temperature + 2),
        throttled=list(throttled),
    )


def test_a_clock_or_temperature_that_no_other_case_saw_is_told(tmp_path):
    def heat(made):
        made["eager"][0].hardware = state(1980, 60)
        made["compile"][0].hardware = state(1410, 83, "thermal")
        made["ddp"][0].hardware = state(1975, 61)
        made["compile"][0].facts["threads"] = 8

    found = differing(page_of(tmp_path / "run", heat))
    assert found["compile"] == [
        "threads 8 (eager 16)",
        "clock 1410 MHz (the others 1965 to 1990 MHz)",
        "temperature 83.0 °C (the others 58.0 to 63.0 °C)",
        "clock held down by thermal (eager –)",
    ]
    assert not [line for line in found["ddp"] if "clock" in line or "temperature" in line]


def test_many_settings_are_counted(tmp_path):
    def change(made):
        made["compile"][0].config |= {f"setting{number}": number for number in range(20)}

    found = differing(page_of(tmp_path / "run", change))
    assert len(found["compile"]) == 13
    assert found["compile"][-1] == "more settings 8 differ"


def test_without_an_eager_case_there_is_nothing_to_differ_from(tmp_path):
    assert differing(page_of(tmp_path / "run", modes=("compile", "bf16"))) == {}
