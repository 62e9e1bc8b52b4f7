"""Boundaries of repeated looks: that chance crosses them as seldom as they say."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from llmbench.stats.sequential import LOOKS, boundary, next_look, nominal
from llmbench.stats.student import quantile

PATHS = 200_000


@pytest.fixture(scope="module")
def tails() -> np.ndarray:
    """The tail probability of t after 2, 3, … 40 of normal values with mean 0; a row for each path."""
    rng = np.random.default_rng(20260612)
    total, squares = np.zeros(PATHS), np.zeros(PATHS)
    columns = []
    for sessions in range(1, 41):
        value = rng.standard_normal(PATHS)
        total += value
        squares += value**2
        if sessions > 1:
            variance = (squares - total**2 / sessions) / (sessions - 1)
            columns.append(special.stdtr(sessions - 1, -total / np.sqrt(sessions * variance)))
    return np.stack(columns, axis=1)


def crossed(tails: np.ndarray, level: float, looks: tuple[int, ...]) -> float:
    seen = tails[:, [look - 2 for look in looks]]
    return float((seen.min(axis=1) < nominal(level, looks)).mean())


@pytest.mark.parametrize("last", [5, 8, 12, 20, 40])
@pytest.mark.parametrize("level", [0.2, 0.05, 0.01, 0.005, 0.001])
def test_all_looks_together_have_the_level_and_use_it(tails: np.ndarray, last: int, level: float) -> None:
    error = 4 * math.sqrt(level / PATHS)
    assert 0.97 * level - error < crossed(tails, level, tuple(range(3, last + 1))) < level + error


@pytest.mark.parametrize(
    "looks", [(3, 5, 8, 12, 20), (3, 4, 5, 6, 8, 10, 12, 16, 20), tuple(range(3, 16)), (4, 20), (2, 3, 4), (20,)]
)
@pytest.mark.parametrize("level", [0.3, 0.07, 0.0034])
def test_between_the_entries_of_the_table_looks_are_stricter(
    tails: np.ndarray, looks: tuple[int, ...], level: float
) -> None:
    assert crossed(tails, level, looks) < level + 4 * math.sqrt(level / PATHS)


@pytest.mark.parametrize(
    ("level", "looks"), [(0.05, (2, 3, 4)), (0.05, (3, 10, 60)), (1e-8, LOOKS), (0.01, (5,)), (0.05, (3, 20))]
)
def test_what_the_table_does_not_hold_is_bonferroni(level: float, looks: tuple[int, ...]) -> None:
    assert nominal(level, looks) == pytest.approx(level / len(looks))


def test_a_look_that_was_not_planned_counts_as_one_more() -> None:
    assert boundary(0.05, 10, (3, 20)) == pytest.approx(quantile(1 - 0.05 / 3, 9))
    assert boundary(0.05, 20, (3, 20)) == pytest.approx(quantile(1 - 0.05 / 2, 19))
    assert boundary(0.05, 25, LOOKS) > quantile(1 - nominal(0.05, LOOKS), 24)


@given(st.floats(1e-9, 0.5), st.integers(2, 60), st.sets(st.integers(2, 60), min_size=1))
def test_boundaries_are_finite_and_fall_as_the_level_rises(level: float, sessions: int, looks: set[int]) -> None:
    planned = sorted(looks)
    bound = boundary(level, sessions, planned)
    assert math.isfinite(bound)
    assert bound >= boundary(min(2 * level, 0.5), sessions, planned) * (1 - 1e-9)
    assert nominal(level, planned) >= level / len(planned) * (1 - 1e-9)


@pytest.mark.slow
def test_the_table_is_what_the_script_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("boundaries", monkeypatch)
    for last, shares in script.table((5, 12), (0.2, 0.005, 1e-5)).items():
        for level, share in zip((0.2, 0.005, 1e-5), shares, strict=True):
            assert nominal(level, range(3, last + 1)) == pytest.approx(level * share)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "suites" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_next_look_is_the_first_that_is_not_over() -> None:
    assert next_look(0, LOOKS) == 3
    assert next_look(3, LOOKS) == 4
    assert next_look(4, (3, 5, 8)) == 5
    assert next_look(20, LOOKS) is None
    assert next_look(25, LOOKS) is None
