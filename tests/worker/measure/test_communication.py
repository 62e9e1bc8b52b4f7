"""What the ranks of every parallel mode see is tested beside the modes, where there are ranks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import record_function

from llmbench.worker.device import Device
from llmbench.worker.measure.communication import STEPS, covered, measure_communication

CPU = Device("cpu")
Spans = list[tuple[int, int]]


class Steps:
    """A trainer that only counts; ``waits`` says how often it calls something by the name of a collective."""

    def __init__(self, *waits: str) -> None:
        self.waits = waits
        self.done = 0

    def step(self) -> None:
        self.done += 1
        for name in self.waits:
            with record_function(name):
                torch.ones(100, 100).mm(torch.ones(100, 100))


def test_without_a_collective_there_is_no_time_to_tell() -> None:
    trainer = Steps("a step", "allreduce")
    assert measure_communication(trainer, CPU) is None
    assert trainer.done == STEPS + 1


def test_the_share_of_a_step() -> None:
    found = measure_communication(Steps("compute", "gloo:all_reduce", "gloo:broadcast"), CPU)
    assert found is not None
    assert 0 < found["seconds_per_step"] < found["step_seconds"]
    assert found["source"] == "torch.profiler, gloo"


def test_collectives_in_one_another_count_once() -> None:
    class Nested(Steps):
        def step(self) -> None:
            with record_function("gloo:all_reduce"):
                super().step()

    found = measure_communication(Nested("gloo:send", "gloo:recv"), CPU)
    assert found is not None
    assert found["seconds_per_step"] <= found["step_seconds"]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_the_union_of_spans(lengths: list[tuple[int, int]]) -> None:
    """As several threads have them: they overlap, touch, and lie in one another."""
    spans: Spans = [(begin, begin + length) for begin, length in lengths]
    moments = {moment for begin, until in spans for moment in range(begin, until)}
    assert covered(spans) == len(moments)


@pytest.mark.parametrize("spans", [[], [(3.0, 3.0)], [(5.0, 2.0)]])
def test_empty_spans_cover_nothing(spans: list[tuple[float, float]]) -> None:
    assert covered(spans) == 0
