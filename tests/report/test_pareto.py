"""Memory against speed: what is on the front, what is named, and that no name covers another."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.report import run_page
from llmbench.report.charts.labels import Box, apart, around, is_beside, place
from llmbench.report.charts.marks import SHAPES
from llmbench.report.charts.pareto import Mark, front, pareto
from llmbench.report.palette import ink
from llmbench.report.run.cases import read_cases
from llmbench.report.run.kinds import KINDS
from llmbench.report.run.matrix import matrix
from llmbench.report.run.pareto import SHAPE_OF, pareto_views
from llmbench.report.svg import text_width
from llmbench.results.schema import Throughput
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.html_reader import Page

POSITIVE = st.floats(1e-9, 1e9)


def mark(name, speed, memory, *, counts=True, labelled=False, interval=None):
    return Mark(name, ink(0), "circle", speed, memory, interval, counts, labelled, f"{name}: {speed}")


def chart(marks):
    svg, lost = pareto(
        "t", marks, speed_name="speed-up over eager", speed_text=lambda x: f"{x:g}×", memory_text=lambda x: f"{x:g} B"
    )
    return ET.fromstring(str(svg)), lost


def texts(svg):
    return ["".join(text.itertext()) for text in svg.iter("text")]


# The front


def test_the_front_is_what_none_beats_in_both():
    marks = [mark("slow", 1, 10), mark("light", 1.2, 5), mark("fast", 2, 9), mark("heavy", 1.9, 9.5)]
    assert [one.name for one in front(marks)] == ["light", "fast"]


def test_equal_cases_are_both_on_the_front():
    assert {one.name for one in front([mark("a", 2, 5), mark("b", 2, 5), mark("c", 2, 6)])} == {"a", "b"}


def test_what_does_not_count_is_never_on_the_front():
    assert [one.name for one in front([mark("wrong", 9, 1, counts=False), mark("right", 1, 2)])] == ["right"]


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 3, 4]), st.booleans()), max_size=12))
def test_the_front_against_its_definition(values):
    marks = [mark(str(index), *value[:2], counts=value[2]) for index, value in enumerate(values)]

    def beats(one, other):
        no_worse = one.speed >= other.speed and one.memory <= other.memory
        return one.counts and no_worse and (one.speed, one.memory) != (other.speed, other.memory)

    wanted = [one for one in marks if one.counts and not any(beats(other, one) for other in marks)]
    assert {one.name for one in front(marks)} == {one.name for one in wanted}


# Labels


def test_labels_lie_beside_their_marks_where_there_is_room():
    room = Box(0, 0, 400, 200)
    (box,) = place([(100, 100, "eager")], [around(100, 100, 5)], room)
    assert (box.left, box.middle) == (109, 100)
    assert is_beside(box, 100, 100)


@given(st.lists(st.tuples(st.integers(20, 380), st.integers(20, 180)), min_size=1, max_size=14))
def test_no_label_covers_another_or_leaves_the_room(points):
    room = Box(0, 0, 400, 200)
    wanted = [(x, y, f"compile+bf16 {x}") for x, y in points]
    boxes = [box for box in place(wanted, [around(x, y, 5) for x, y in points], room) if box]
    assert boxes
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.within(room) for box in boxes)


def test_a_label_avoids_marks_and_lines_while_it_can():
    room = Box(0, 0, 400, 200)
    wanted = [(100, 100, "name")]
    marks = [around(100, 100, 5), around(120, 100, 5)]
    (box,) = place(wanted, marks, room)
    assert not any(box.overlaps(one) for one in marks)
    line = Box(0, 95, 400, 105)
    (away,) = place(wanted, marks, room, [line])
    assert not away.overlaps(line)
    (through,) = place(wanted, marks, room, [room])
    assert through == box


def test_a_label_without_any_room_is_none():
    assert place([(5, 5, "a long name of a mode")], [], Box(0, 0, 40, 10)) == [None]


def test_boxes_move_apart():
    assert apart([(10, 10), (11, 10), (50, 10)], 0, 100) == [5, 15, 45]
    assert apart([(95, 10), (97, 10)], 0, 100) == [80, 90]


# The chart


def test_a_stepped_line_joins_the_front():
    svg, _ = chart([mark("light", 1.0, 5), mark("fast", 2.0, 9), mark("beaten", 1.5, 9.5)])
    (line,) = [path for path in svg.iter("path") if path.get("class") == "step"]
    corners = [tuple(map(float, at.split())) for at in line.get("d")[1:].split("L")]
    steps = list(pairwise(corners))
    assert len(corners) == 5
    assert all(one[0] == other[0] or one[1] == other[1] for one, other in steps)
    assert corners[1][1] > corners[3][1]  # less memory is further down


def test_beaten_cases_are_pale_and_what_does_not_count_is_hollow():
    svg, _ = chart([mark("best", 2, 5), mark("beaten", 1, 9), mark("wrong", 3, 1, counts=False)])
    groups = list(svg.iter("g"))
    looks = [(group.get("fill"), group.get("fill-opacity"), len(list(group.iter("path")))) for group in groups]
    assert looks == [("none", None, 1), (ink(0).colour, "0.2", 1), (ink(0).colour, None, 1)]
    assert "do not count: wrong: 3" in svg.find("desc").text


def test_unnamed_marks_tell_themselves_under_the_pointer():
    svg, lost = chart([mark("best", 2, 5), mark("beaten", 1, 9), mark("eager", 1, 8, labelled=True)])
    assert [title.text for title in svg.iter("title")] == ["t", "beaten: 1"]
    assert {"best", "eager"} <= set(texts(svg))
    assert "beaten" not in texts(svg)
    assert lost == []


def test_names_without_room_are_handed_back():
    marks = [mark(f"a-mode-with-a-long-name-{index}", 1 + 1e-6 * index, 5 + 1e-6 * index) for index in range(60)]
    svg, lost = chart(marks)
    shown = [text for text in texts(svg) if text.startswith("a-mode")]
    assert lost
    assert len(shown) + len(lost) == 60


def test_an_interval_shows_where_it_is_wider_than_the_mark():
    svg, _ = chart([mark("a", 2, 5, interval=(1.5, 2.5)), mark("b", 1, 4, interval=(0.9999, 1.0001))])
    assert len([path for path in svg.iter("path") if path.get("class") == "whisker"]) == 1


@given(st.lists(st.tuples(POSITIVE, POSITIVE, st.booleans(), st.booleans()), min_size=1, max_size=10))
def test_any_positive_numbers_give_a_chart(values):
    marks = [mark(str(i), s, m, counts=c, labelled=n) for i, (s, m, c, n) in enumerate(values)]
    svg, _ = chart(marks)
    numbers = [float(x) for p in svg.iter("path") for x in re.findall(r"-?\d+\.?\d*", p.get("d"))]
    assert all(map(math.isfinite, numbers))


# The page


def folder_of(path, cases):
    """{mode: (speed, bytes, status)}"""
    planned = [factory.planned("gpt-tiny", mode) for mode in cases]
    folder = RunFolder.create(path, factory.make_run(planned))
    for case, (speed, memory, status) in zip(planned, cases.values(), strict=True):
        record, series = factory.ok_record(case)
        record.throughput = Throughput(value=speed, unit="tokens/s", ci95=(speed * 0.99, speed * 1.01), n=80)
        record.memory.peak_rss_bytes = record.memory.start_rss_bytes + memory
        record.status = status
        factory.add(folder, record, series)
    return folder


def view_of(folder):
    return pareto_views(matrix(read_cases(folder, folder.read_run())))


def test_a_chart_for_each_workload(tmp_path):
    folder = factory.smoke_run(tmp_path / "run")
    page = Page(run_page(folder))
    titles = [title.text for title in page.all("title") if title.text.startswith("Memory against speed")]
    assert titles == [f"Memory against speed of {name}" for name in factory.WORKLOADS]
    assert page.one("a", href="#memory-speed").text == "Memory × speed"
    assert page.one("h2", id="memory-speed")


def test_speed_is_over_eager_and_memory_is_of_the_training(tmp_path):
    folder = folder_of(
        tmp_path / "run", {"eager": (100, 2**20, "ok"), "bf16": (150, 2**19, "ok"), "compile": (300, 2**18, "invalid")}
    )
    (view,) = view_of(folder)
    said = ET.fromstring(str(view.chart)).find("desc").text
    assert view.front == ["bf16"]
    assert "bf16: 1.50×, 512 KiB" in said
    assert "do not count: compile: 3.00×, 256 KiB, invalid" in said


def test_without_eager_the_throughput_itself_is_shown(tmp_path):
    folder = folder_of(tmp_path / "run", {"compile": (100, 2**20, "ok"), "bf16": (150, 2**19, "ok")})
    (view,) = view_of(folder)
    assert "By tokens/s and memory" in ET.fromstring(str(view.chart)).find("desc").text


@pytest.mark.parametrize("lacking", ["memory", "throughput"])
def test_one_case_alone_is_no_chart(tmp_path, lacking):
    folder = folder_of(tmp_path / "run", {"eager": (100, 2**20, "ok"), "bf16": (150, 2**19, "ok")})
    record = folder.records()[1]
    folder.append(record.model_copy(update={lacking: None}))
    assert view_of(folder) == []
    assert "Memory × speed" not in Page(run_page(folder)).body


def test_of_many_modes_only_the_front_and_eager_are_named(tmp_path):
    folder = factory.modes_run(tmp_path / "run", parallel=[])
    view = view_of(folder)[0]
    svg = ET.fromstring(str(view.chart))
    named = {text for text in texts(svg) if not re.search(r"[ ×]", text)}
    assert named == {"eager", *view.front}
    marks = [path for group in svg.iter("g") for path in group.iter("path")]
    assert len(marks) > 15
    boxes = [
        Box(float(t.get("x")), float(t.get("y")) - 11, float(t.get("x")) + text_width(t.text), float(t.get("y")) + 3)
        for t in svg.iter("text")
        if t.text in named
    ]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_every_kind_has_a_shape_of_its_own():
    assert len({SHAPE_OF[title] for title in KINDS}) == len(KINDS) <= len(SHAPES)
