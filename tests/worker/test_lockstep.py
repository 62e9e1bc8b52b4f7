"""A case that trains in turns trains as in a run: the same steps with the same losses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from llmbench.launch.turns import Conductor, SideGoneError
from llmbench.results.ab import Turn
from llmbench.worker.case import run_case
from llmbench.worker.lockstep import WARM_UP_STEPS, run_turns

from .conftest import Events, Job


def side_of(conductor: Conductor) -> Job:
    return {"turns": conductor.path, "side": "cand", "cpus": None, "shift": 0}


def in_turns(job: Job, events: Events, *steps: int) -> tuple[dict[str, object], list[Turn]]:
    """What the worker found, and its turns. The control side is a thread."""
    turns: list[Turn] = []
    ended = threading.Event()
    with Conductor() as conductor:

        def conduct() -> None:
            if not conductor.wait_for({"cand": 1}, lambda _: not ended.is_set()):
                return  # it raised: the test shows why
            with suppress(SideGoneError):
                turns.extend(conductor.turn("cand", number) for number in steps)
                conductor.end("cand")

        thread = threading.Thread(target=conduct)
        thread.start()
        try:
            return run_turns(side_of(conductor) | job, events), turns
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def turns_job(job: Callable[..., Job]) -> Callable[..., Job]:
    def make(family: str, mode: list[str] | None = None, **changes: object) -> Job:
        return job(family, mode, **changes) | {"precision": "fp32"}

    return make


@pytest.mark.parametrize(("family", "mode"), [("regression", []), ("gpt", ["bf16"]), ("lora", [])])
def test_losses_are_bitwise_those_of_a_run(
    family: str, mode: list[str], turns_job: Callable[..., Job], events: Events
) -> None:
    job = turns_job(family, mode, steps=WARM_UP_STEPS + 6)
    found, turns = in_turns(job, events, 2, 3, 1)
    assert [len(turn.steps) for turn in turns] == [2, 3, 1]
    run = run_case(job, Events())
    assert found["losses"] == run["losses"]
    assert len(found["losses"]) == WARM_UP_STEPS + 6
    assert found["facts"].pop("same_layout") is False
    assert {key: run["facts"][key] for key in found["facts"]} == found["facts"]
    assert events.phases == ["build", "warmup", "timed"]


def test_only_the_steps_that_were_done_have_losses(turns_job: Callable[..., Job], events: Events) -> None:
    found, _ = in_turns(turns_job("regression", steps=100), events, 4)
    assert len(found["losses"]) == WARM_UP_STEPS + 4
    # It goes on beyond its training, whose losses stay as they are.
    longer, _ = in_turns(turns_job("regression", steps=12), Events(), 40)
    assert len(longer["losses"]) == 12


def test_what_it_tells_at_its_end(turns_job: Callable[..., Job], events: Events) -> None:
    found, _ = in_turns(turns_job("regression"), events, 3)
    assert set(found) == {"losses", "memory", "facts", "load", "rank"}
    assert found["rank"] == {"rank": 0, "memory": found["memory"]}
    assert found["memory"]["peak_rss_bytes"] > 0
    assert found["load"]["preempted"] >= 0
    assert set(found["facts"]) == {"batches_sha256", "weights_sha256", "same_layout"}


def test_it_is_pinned(turns_job: Callable[..., Job], events: Events) -> None:
    before = os.sched_getaffinity(0)
    last = max(before)
    try:
        in_turns(turns_job("regression") | {"cpus": [last]}, events, 1)
        assert os.sched_getaffinity(0) == {last}
    finally:
        os.sched_setaffinity(0, before)


def test_a_workload_that_cannot_be_built_raises_before_its_first_turn(
    turns_job: Callable[..., Job], events: Events
) -> None:
    job = turns_job("regression")
    job["config"]["model"] = {}
    with Conductor() as conductor, pytest.raises(TypeError, match="MLPConfig"):
        run_turns(job | side_of(conductor), events)
    assert events.phases == ["build"]
