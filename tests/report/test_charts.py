"""Charts: what is drawn, what is said, and that nothing is hidden."""

from __future__ import annotations

import json
import math
import random
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.report.charts.bars import Bar, bars
from llmbench.report.charts.decimate import buckets, decimate, lttb, running_median
from llmbench.report.charts.lines import Curve, Reference, lines, wants_log
from llmbench.report.charts.scale import Scale, linear_ticks
from llmbench.report.charts.strips import histogram, phases
from llmbench.report.columns import compact
from llmbench.report.palette import LIGHT, ink
from llmbench.report.svg import element, polyline, text_width

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(str(svg))


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in parsed(svg).iter("text")]


def points_of(path: str) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?\d*\.?\d+", path)]
    x, y = numbers[:2]
    points = [(x, y)]
    for dx, dy in zip(numbers[2::2], numbers[3::2], strict=True):
        x, y = x + dx, y + dy
        points.append((x, y))
    return points


def test_element_escapes_children_and_attributes():
    assert (
        str(element("text", "<script>&", class_='"x"', text_anchor=None))
        == '<text class="&#34;x&#34;">&lt;script&gt;&amp;</text>'
    )


def test_polyline_survives_its_own_shortening():
    points = [(36.84, 24.6), (37.9, 14.04), (37.9, 14.04), (38.3, 26.96), (0, -3.25), (100.5, 100)]
    for (x, y), (want_x, want_y) in zip(points_of(polyline(points)), points, strict=True):
        assert x == pytest.approx(want_x, abs=0.051)
        assert y == pytest.approx(want_y, abs=0.051)


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_linear_ticks_lie_within_and_are_few(a, b):
    low, high = sorted((a, b))
    ticks = linear_ticks(low, high)
    assert 1 <= len(ticks) <= 12
    slack = (high / 2 - low / 2) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_ticks_are_round_numbers():
    assert linear_ticks(0, 99) == [0, 25, 50, 75]
    assert Scale(0.01, 10, 0, 1, log=True).ticks() == pytest.approx([0.01, 0.03, 0.1, 0.3, 1, 3, 10])
    assert Scale(1, 1e9, 0, 1, log=True).ticks(4) == [1e0, 1e2, 1e4, 1e6, 1e8]


def test_lttb_keeps_ends_and_count():
    points = [(float(x), math.sin(x / 5)) for x in range(1000)]
    chosen = lttb(points, 50)
    assert len(chosen) == 50
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert chosen == sorted(set(chosen))


@given(st.lists(st.floats(0, 200), min_size=3, max_size=400), st.integers(3, 60))
def test_no_extreme_is_hidden_by_decimation(values, limit):
    points = [(float(x), y) for x, y in enumerate(values)]
    kept = decimate(points, limit, tolerance=2.0)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert max(y for _, y in kept) >= max(values) - 2.0
    assert min(y for _, y in kept) <= min(values) + 2.0


@pytest.mark.parametrize("sign", [1, -1])
def test_two_spikes_in_one_bucket_both_stay(sign):
    values = [0.0] * 1000
    values[500], values[503] = sign * 100.0, sign * -60.0
    kept = decimate([(float(x), y) for x, y in enumerate(values)], 20)
    assert {values[500], values[503]} <= {y for _, y in kept}


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0])), st.integers(1, 30))
def test_running_median_is_the_median_of_each_window(values, window):
    def median(index):
        near = min(window // 2, index, len(values) - 1 - index)
        return sorted(values[index - near : index + near + 1])[near]

    assert running_median(values, window) == [median(index) for index in range(len(values))]


def test_running_median_ignores_a_spike_and_keeps_the_ends():
    assert running_median([1, 1, 9, 1, 1], 3) == [1, 1, 1, 1, 1]
    assert running_median([5, 1, 2], 3) == [5, 2, 2]


def edges(told):
    """Least and greatest value of each bucket, as the page's script reads them."""
    unit, below, above = told.get("unit", 0), told.get("below"), told.get("above")
    low = [None if m is None else m - unit * below[i] if below else m for i, m in enumerate(told["mean"])]
    high = [None if m is None else m + unit * above[i] if above else m for i, m in enumerate(told["mean"])]
    return low, high


def test_a_short_series_is_embedded_step_by_step():
    assert buckets([1.234567, 2.0], 1) == {"steps": 2, "mean": [1.2346, 2.0]}
    assert buckets([], 10) == {"steps": 0, "mean": []}


def test_a_long_series_is_embedded_in_buckets_that_show_every_spike():
    values = [2.0] * 1000
    values[640] = 9.0
    told = buckets(values, 100)
    assert (told["steps"], told["every"], len(told["mean"])) == (1000, 10, 100)
    low, high = edges(told)
    assert told["mean"][64] == 2.7
    assert (low[64], high[64]) == pytest.approx((2.0, 9.0), abs=told["unit"])
    assert (low[0], high[0]) == (2.0, 2.0)


def test_buckets_name_every_stretch_that_is_not_finite():
    values = [1.0] * 1000
    values[3:5] = [math.nan, None]
    values[700] = -math.inf
    values[900:] = [1e301] * 100
    told = buckets(values, 100)
    assert told["lost"] == [[3, 4], [700, 700], [900, 999]]
    assert told["mean"] == [1.0] * 90 + [None] * 10
    assert buckets([None, math.nan], 1)["mean"] == [None, None]
    assert buckets([None] * 9, 3) == {
        "steps": 9,
        "mean": [None] * 3,
        "every": 3,
        "unit": 1.0,
        "below": [0] * 3,
        "above": [0] * 3,
        "lost": [[0, 8]],
    }


def test_buckets_stay_few_whatever_is_not_finite():
    told = buckets([math.nan, 1.0] * 5000, 50)
    assert len(told["mean"]) == len(told["lost"]) == 50


@given(st.lists(ANY_FLOAT, max_size=300), st.integers(3, 40))
def test_buckets_hold_every_finite_value(values, limit):
    told = buckets(values, limit)
    text = compact(told)
    assert json.loads(text) == told
    assert len(text) < 60 * 2 * limit + 25 * limit + 300
    every = told.get("every", 1)
    assert len(told["mean"]) == -(-len(values) // every) <= 2 * limit
    low, high = edges(told)
    for step, value in enumerate(values):
        if math.isfinite(value) and abs(value) < 1e300:
            bucket = step // every
            slack = 1e-4 * max(abs(value), abs(told["mean"][bucket])) + 1e-300
            assert low[bucket] - slack <= value <= high[bucket] + slack


def test_bars_show_value_interval_and_words():
    svg = bars(
        "Speed",
        [
            Bar("eager", ink(0), (100.0,), "100 ±2 %", (98.0, 102.0)),
            Bar("bf16", ink(1), (), "✖ out of memory"),
            Bar("compile", ink(2), (150.0,), "150 ✖ invalid", ghost=True),
        ],
    )
    root = parsed(svg)
    assert root.find("title").text == "Speed"
    assert root.find("desc").text == "eager: 100 ±2 %; bf16: ✖ out of memory; compile: 150 ✖ invalid"
    first, ghost = root.findall(".//rect")
    assert (first.get("fill"), first.get("class")) == (LIGHT[0], "fill c0")
    assert (ghost.get("fill"), ghost.get("stroke-dasharray")) == ("none", "3 2")
    assert float(first.get("width")) == pytest.approx(float(ghost.get("width")) * 100 / 150, abs=0.2)
    assert len(root.findall(".//path[@class='whisker']")) == 1
    assert "✖ out of memory" in texts(svg)


def test_bars_mark_a_capacity_within_reach_only():
    rows = [Bar("eager", ink(0), (3.0, 1.0), "4")]
    assert parsed(bars("m", rows, capacity=5)).findall(".//line[@class='capacity']")
    assert not parsed(bars("m", rows, capacity=500)).findall(".//line[@class='capacity']")


@given(st.lists(st.tuples(ANY_FLOAT, ANY_FLOAT, ANY_FLOAT), max_size=4))
def test_bars_take_any_number(rows):
    svg = bars("b", [Bar("x", ink(0), (value,), "t", (low, high)) for value, low, high in rows])
    assert "nan" not in svg
    assert "inf" not in svg


def test_lines_describe_and_label_references():
    curve = Curve("eager", ink(0), [4.0, 3.0, 2.0])
    svg = lines("Loss", [curve], [Reference("unigram", 6.02, False), Reference("source entropy", 1.5, True)])
    assert parsed(svg).find("desc").text == "eager: from 4.00 to 2.00 in 3 steps; unigram: 6.02; source entropy: 1.50"
    assert {"unigram 6.02", "source entropy", "step 2"} <= {text.replace(" 1.50", "") for text in texts(svg)}
    kinds = {line.get("class"): line.get("stroke-dasharray") for line in parsed(svg).iter("line")}
    assert kinds["baseline"] == "8 4"
    assert kinds["floor"] == "1.5 3"


def test_names_of_near_references_do_not_overlap():
    near = [Reference(f"reference {n}", 3 + n / 1000, True) for n in range(4)]
    svg = lines("Loss", [Curve("eager", ink(0), [4.0, 3.0])], near)
    places = sorted(float(t.get("y")) for t in parsed(svg).iter("text") if (t.text or "").startswith("reference"))
    assert min(b - a for a, b in pairwise(places)) >= 13


def test_a_long_reference_name_keeps_its_value():
    svg = lines("Loss", [Curve("e", ink(0), [4.0, 3.0])], [Reference("base before adaptation", 5.27, False)])
    assert texts(svg)[-2:] == ["base before", "adaptation 5.27"]


def test_nan_is_marked_and_named_and_splits_the_curve():
    values = [5.0, 4.0, math.nan, None, 3.0, 2.0]
    root = parsed(lines("Loss", [Curve("bf16", ink(1), values)]))
    crosses = [path for path in root.iter("path") if "l6 6m0 -6l-6 6" in path.get("d")]
    assert len(crosses) == 2
    assert "bf16: not finite from step 2" in ["".join(text.itertext()) for text in root.iter("text")]
    assert len([path for path in root.iter("path") if path.get("class") == "line c1"]) == 2 + 2
    assert root.find("desc").text.endswith("2 not finite")


def test_a_spike_of_a_long_curve_is_drawn():
    rng = random.Random(0)
    values = [2 + 0.01 * rng.random() for _ in range(5000)]
    values[3210] = 4.0
    root = parsed(lines("Loss", [Curve("eager", ink(0), values)], tall=200))
    highest = min(y for path in root.iter("path") if path.get("stroke-opacity") for _, y in points_of(path.get("d")))
    assert highest == pytest.approx(14, abs=0.2)  # the top of the axis: the spike is its greatest value


def test_log_axis_for_wide_positive_ranges_only():
    assert wants_log([Curve("a", ink(0), [100.0, 1.0])])
    assert not wants_log([Curve("a", ink(0), [5.0, 1.0])])
    assert not wants_log([Curve("a", ink(0), [100.0, 0.0])])
    assert wants_log([Curve("a", ink(0), [5.0, 1.0])], [Reference("floor", 0.01, True)])


@given(st.lists(st.lists(st.none() | ANY_FLOAT, max_size=80), max_size=3), st.lists(ANY_FLOAT, max_size=3))
def test_lines_take_any_number(curves, references):
    svg = lines(
        "l",
        [Curve(f"m{index}", ink(index), values) for index, values in enumerate(curves)],
        [Reference("r", value, False) for value in references],
    )
    for attribute in re.findall(r'(?:d|x|y|x1|x2|y1|y2)="([^"]*)"', str(svg)):
        assert "nan" not in attribute
        assert "inf" not in attribute
        assert all(abs(float(number)) < 1e5 for number in re.findall(r"-?\d*\.?\d+(?:e[+-]?\d+)?", attribute))


def test_phases_fill_the_width_and_name_what_fits():
    svg = phases("Phases", [("import", 1.0), ("build", 0.001), ("timed", 9.0)], width=400)
    ends = [float(rect.get("x")) + float(rect.get("width")) for rect in parsed(svg).iter("rect")]
    assert ends[-1] == pytest.approx(399, abs=0.2)
    assert texts(svg) == ["timed"]


def test_histogram_counts_every_step():
    seconds = [0.010] * 50 + [0.012] * 30 + [0.100]
    svg = histogram("Steps", seconds, ink(0))
    assert "81 steps from 10.0 ms to 100 ms" in parsed(svg).find("desc").text
    assert "median 10.0 ms" in texts(svg)
    assert histogram("Steps", [0.1] * 4, ink(0)) is None
    assert histogram("Steps", [0.1] * 9, ink(0)) is not None


@pytest.mark.parametrize("length", [5.0, 60.0, 79.0, 99.5, 100.0])
def test_the_text_behind_a_bar_is_not_crossed_by_the_capacity(length):
    svg = parsed(bars("t", [Bar("eager", ink(0), (length,), "51 % of 0.104 (fp32)")], capacity=100.0, always=True))
    line = float(next(one for one in svg.iter("line") if one.get("class") == "capacity").get("x1"))
    begin = float(next(one for one in svg.iter("text") if "51 %" in one.text).get("x"))
    assert begin > line or begin + text_width("51 % of 0.104 (fp32)") <= line


def test_a_capacity_far_away_is_drawn_only_on_demand():
    row = Bar("eager", ink(0), (1.0,), "1")
    drawn = [list(parsed(bars("t", [row], capacity=100.0, always=always)).iter("line")) for always in (False, True)]
    assert [len([one for one in lines if one.get("class") == "capacity"]) for lines in drawn] == [0, 1]


def test_colours_repeat_after_six_with_other_dashes():
    looks = [(ink(index).slot, ink(index).dash) for index in range(36)]
    assert len(set(looks)) == 36
    assert [ink(index).slot for index in range(8)] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert ink(0).dash is None
    assert ink(0, 1).dash is not None


def test_step_times_of_which_most_are_almost_nothing_have_a_histogram():
    """The width of a bin by their quartiles is then too small for a float to hold their number."""
    seconds = [0.0] * 4 + [1e-320] * 4 + [1.0]
    assert histogram("t", seconds, ink(0)) is not None
