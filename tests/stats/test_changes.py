"""Steps: exact segmentation, none in noise, the right run, and no single strange run."""

from __future__ import annotations

import math
import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.stats import changes as module
from llmbench.stats.changes import FEWEST, SHORTEST, changes, noise_scale, segments, without_outliers

finite = st.floats(-1e6, 1e6)


def noise(seed, count, scale=0.02):
    rng = random.Random(seed)
    return [rng.gauss(0, scale) for _ in range(count)]


def stepped(seed, count, at, size, scale=0.02):
    return [value + (math.log1p(size) if index >= at else 0) for index, value in enumerate(noise(seed, count, scale))]


def cost(values, edges, price):
    pieces = [values[begin:end] for begin, end in pairwise(edges)]
    squares = sum((value - sum(piece) / len(piece)) ** 2 for piece in pieces for value in piece)
    return squares + price * (len(edges) - 2)


def every_segmentation(count):
    for amount in range(count // SHORTEST):
        for inner in combinations(range(SHORTEST, count - SHORTEST + 1), amount):
            edges = [0, *inner, count]
            if all(end - begin >= SHORTEST for begin, end in pairwise(edges)):
                yield edges


@given(st.lists(st.floats(-6, 6) | st.sampled_from([0.0, 3.0]), min_size=SHORTEST, max_size=13), st.floats(0, 60))
def test_no_segmentation_costs_less(values, price):
    found = segments(values, price)
    assert found[0] == 0
    assert found[-1] == len(values)
    assert all(end - begin >= SHORTEST for begin, end in pairwise(found))
    best = min(cost(values, edges, price) for edges in every_segmentation(len(values)))
    assert cost(values, found, price) <= best + 1e-6 * (1 + best)


@given(st.lists(finite, max_size=60), st.floats(0, 10), st.floats(0, 10))
def test_any_series_has_steps_in_order_apart_and_not_too_small(values, least, smallest):
    found = changes(values, noise=least, smallest=smallest)
    edges = [0, *(one.index for one in found), len(values)]
    assert all(abs(one.size) >= smallest for one in found)
    assert all(one.half_width >= 0 for one in found)
    if found:
        assert all(end - begin >= SHORTEST for begin, end in pairwise(edges))


@pytest.mark.parametrize("count", [6, 8, 10, 20, 40, 150])
def test_identical_code_has_no_step_in_99_of_100_series(count):
    series = 300 if count < 100 else 100
    assert sum(bool(changes(noise(f"{count} {seed}", count))) for seed in range(series)) < 0.01 * series + 1


@pytest.mark.parametrize(("count", "at"), [(30, 15), (40, 24), (60, 50), (100, 30)])
def test_eight_percent_in_two_percent_of_noise_is_found_at_its_run(count, at):
    for seed in range(20):
        found = changes(stepped(seed, count, at, -0.08), smallest=0.01)
        assert len(found) == 1, seed
        assert abs(found[0].index - at) <= 1, seed
        assert found[0].size == pytest.approx(math.log(0.92), abs=0.03)


def test_the_interval_of_a_step_holds_its_size_most_of_the_time():
    held = 0
    for seed in range(100):
        [one] = changes(stepped(seed, 60, 30, -0.15), smallest=0.01)
        held += abs(one.size - math.log(0.85)) <= one.half_width
    assert held >= 88


def test_two_steps_of_which_one_goes_back():
    values = noise(1, 90, 0.01)
    values = [value - 0.1 * (30 <= index < 60) for index, value in enumerate(values)]
    first, second = changes(values)
    assert (first.index, second.index) == (30, 60)
    assert first.size == pytest.approx(-0.1, abs=0.01)
    assert second.size == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("at", [0, 1, 17, 38])
def test_what_lasts_less_than_three_runs_is_no_step(at, length):
    for seed in range(20):
        values = noise(seed, 40)
        values[at : at + length] = [-1.5] * len(values[at : at + length])
        assert changes(values) == [], seed


def test_three_runs_at_the_end_are_enough_where_they_are_far_off():
    assert [one.index for one in changes(stepped(3, 30, 27, -0.15), smallest=0.01)] == [27]


def test_too_few_values_have_no_step():
    assert changes([0.0, 0.0, 0.0, 1.0, 1.0]) == []
    assert [one.index for one in changes([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])] == [FEWEST // 2]


def test_values_that_repeat_exactly_change_exactly():
    """Such as bytes and losses, which have no noise at all."""
    values = [3.0] * 10 + [3.1] * 10
    [one] = changes(values)
    assert (one.index, one.half_width) == (10, pytest.approx(0, abs=1e-5))
    assert changes([0.0] * 20) == []


def test_a_small_step_is_none_if_so_asked():
    values = [0.0] * 20 + [0.005] * 20
    assert len(changes(values)) == 1
    assert changes(values, smallest=0.01) == []


def test_noise_known_from_elsewhere_counts():
    values = [0.0, 0.001, 0.0, 0.1, 0.1, 0.101, 0.1]
    assert changes(values)
    assert changes(values, noise=0.1) == []


def test_the_noise_scale_is_that_of_the_noise_whatever_the_steps():
    values = stepped(5, 400, 200, -0.5)
    assert noise_scale(values) == pytest.approx(0.02, rel=0.2)
    assert noise_scale([1.0]) == 0


def test_a_machine_that_is_busy_for_days_gets_a_wider_scale():
    def series(seed):
        rng = random.Random(seed)
        value, values = 0.0, []
        for _ in range(120):
            value = 0.6 * value + 0.8 * rng.gauss(0, 0.02)
            values.append(value)
        return values

    assert sum(bool(changes(series(seed))) for seed in range(100)) <= 8


def test_outliers_are_left_out_and_levels_are_not():
    values = [0.0] * 10 + [5.0] + [0.2] * 10
    assert without_outliers(values, 0.1) == [0.0] * 10 + [0.2] * 11
    level = [0.0] * 10 + [5.0] * 3
    assert without_outliers(level, 0.1) == level


def test_thousands_of_runs_are_segmented_in_few_operations(monkeypatch):
    """The parabolas that are left stay few, where a plain search would look at every earlier run."""
    kept = []
    lower = module._lower

    def counted(parts, *more):
        kept.append(len(parts))
        return lower(parts, *more)

    monkeypatch.setattr(module, "_lower", counted)
    changes(noise(1, 3000))
    assert max(kept) < 60
