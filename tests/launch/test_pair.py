"""A pair that takes turns: who begins, who is blamed, and that each side is left again, whatever happens."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Mapping

import pytest

from llmbench.errors import UserError
from llmbench.launch import pair
from llmbench.launch.pair import Contender, Session, apart, in_turns, joined
from llmbench.results.ab import SIDES, SideName, Trained, Turn
from llmbench.results.schema import Error
from llmbench.worker.turns import Turns, Wall

START: list[SideName] = ["cand", "base"]
ROUNDS = 5


class TornError(Exception):
    pass


class InThread:
    """A side whose process is a thread of the test.

    Args:
        log: what all sides did, in order.
        fails_at: the step in which it raises.
        stays: it does not leave after its last turn until it is killed.
    """

    ranks = 1

    def __init__(self, side: SideName, log: list[tuple[str, str]], fails_at: int | None = None, stays: bool = False):
        self.side, self.log, self.fails_at, self.stays = side, log, fails_at, stays
        self.killed = threading.Event()
        self.steps = 0

    def __enter__(self) -> None:
        self.say("enter")

    def __exit__(self, *_: object) -> None:
        self.say("exit")

    def say(self, what: str) -> None:
        self.log.append((self.side, what))

    def ready(self) -> None:
        self.say("ready")

    def kill(self) -> None:
        self.say("kill")
        self.killed.set()
        if not self.stays:
            self.turns._socket.shutdown(socket.SHUT_RDWR)

    def train(self, path: str, waited: Callable[[], float]) -> Trained:
        self.turns = Turns(path, self.side)
        try:
            self.turns.serve(self.step, Wall(), [1.0])
        except TornError:
            return Trained(status="failed", error=Error(type="TornError", message=f"at step {self.steps}"))
        except OSError:  # it was killed in this test's way
            return Trained(status="aborted")
        if self.stays:
            self.killed.wait()
            return Trained(status="failed", error=Error(type="SIGKILL", message="killed by SIGKILL"))
        return Trained()

    def step(self) -> None:
        self.say("step")
        if self.steps == self.fails_at:
            raise TornError
        self.steps += 1


def contenders(log: list[tuple[str, str]] | None = None, **of_side: Mapping[str, object]) -> dict[SideName, Contender]:
    log = [] if log is None else log
    return {side: InThread(side, log, **of_side.get(side, {})) for side in SIDES}


def session(design: Callable[..., Session] = in_turns, seed: int = 1, **of_side: Mapping[str, object]) -> Session:
    return design(contenders(**of_side), START, ROUNDS, random.Random(seed))


def test_every_round_has_a_turn_of_each_in_an_order_of_its_own() -> None:
    log: list[tuple[str, str]] = []
    found = in_turns(contenders(log), START, ROUNDS, random.Random(1))
    # A warm step took 1 s, so that a turn has the fewest steps that it may have.
    assert [len(turn.steps) for one in found.rounds for turn in (one.base, one.cand)] == [3] * 2 * ROUNDS
    steps = [side for side, what in log if what == "step"]
    first = [one.first for one in found.rounds]
    other: dict[SideName, SideName] = {"base": "cand", "cand": "base"}
    assert steps == [side for one in first for side in [one] * 3 + [other[one]] * 3]
    assert set(first) == set(SIDES)
    assert [what for side, what in log if side == "base" and what != "step"] == ["enter", "ready", "exit"]
    assert [entry for entry in log if entry[1] in ("enter", "ready")] == [
        (side, what) for what in ("enter", "ready") for side in START
    ]


def test_the_order_follows_from_the_seed() -> None:
    orders = [[one.first for one in session(seed=seed).rounds] for seed in (3, 3, 4, 5, 6)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("side", SIDES)
def test_the_side_that_fails_is_named_and_the_other_is_not(side: SideName) -> None:
    log: list[tuple[str, str]] = []
    found = in_turns(contenders(log, **{side: {"fails_at": 7}}), START, ROUNDS, random.Random(1))
    other = next(one for one in SIDES if one != side)
    assert len(found.rounds) == 2
    assert found.trained[side].status == "failed"
    assert found.trained[side].error.message == "at step 7"
    assert found.trained[other] == Trained(status="aborted")
    assert (other, "kill") in log
    assert (side, "kill") not in log


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_sides_that_are_broken_alike_are_both_told_whoever_was_first(seed: int) -> None:
    found = session(seed=seed, base={"fails_at": 4}, cand={"fails_at": 4})
    assert {side: found.trained[side].error.message for side in SIDES} == dict.fromkeys(SIDES, "at step 4")
    assert len(found.rounds) == 1


@pytest.mark.parametrize("design", [in_turns, apart])
def test_a_side_that_does_not_leave_is_ended_and_named(
    design: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "LEAVE_SECONDS", 0.1)
    found = session(design, cand={"stays": True})
    assert found.trained["base"] == Trained()
    assert found.trained["cand"].status == "timeout"
    assert "of its last turn" in found.trained["cand"].error.message  # not that it was killed: that was us


def test_one_that_leaves_before_its_last_turn_without_a_word() -> None:
    class Leaves(InThread):
        def train(self, path: str, waited: Callable[[], float]) -> Trained:
            return Trained()

    log: list[tuple[str, str]] = []
    sides: dict[SideName, Contender] = {"base": InThread("base", log), "cand": Leaves("cand", log)}
    found = in_turns(sides, START, ROUNDS, random.Random(1))
    assert found.rounds == []
    assert found.trained["cand"].status == "failed"
    assert found.trained["cand"].error.message == "left before its last turn"
    assert found.trained["base"].status == "aborted"


@pytest.mark.parametrize("design", [in_turns, apart])
@pytest.mark.parametrize("reason", [UserError("no torch"), KeyboardInterrupt()])
def test_who_was_entered_is_left(design: Callable[..., Session], reason: BaseException) -> None:
    class Unfit(InThread):
        def ready(self) -> None:
            raise reason

    log: list[tuple[str, str]] = []
    sides: dict[SideName, Contender] = {"cand": InThread("cand", log), "base": Unfit("base", log)}
    with pytest.raises(type(reason)):
        design(sides, START, ROUNDS, random.Random(1))
    entered, left = ([side for side, what in log if what == kind] for kind in ("enter", "exit"))
    assert sorted(entered) == sorted(left) == sorted(SIDES)


def test_what_a_training_raises_reaches_the_caller() -> None:
    class Raises(InThread):
        def train(self, path: str, waited: Callable[[], float]) -> Trained:
            raise UserError("the text is too short")

    log: list[tuple[str, str]] = []
    sides: dict[SideName, Contender] = {"cand": InThread("cand", log), "base": Raises("base", log)}
    with pytest.raises(UserError, match="too short"):
        in_turns(sides, START, ROUNDS, random.Random(1))
    assert {side for side, what in log if what == "exit"} == set(SIDES)


def test_apart_one_after_the_other_with_as_many_steps() -> None:
    log: list[tuple[str, str]] = []
    found = apart(contenders(log), START, ROUNDS, random.Random(1))
    (one,) = found.rounds
    assert one.first == "cand"
    assert len(one.base.steps) == len(one.cand.steps) == 3 * ROUNDS
    sides = [side for side, _ in log]
    assert sides == sorted(sides, key=START.index)


@pytest.mark.parametrize("side", SIDES)
def test_apart_the_side_that_fails_is_named(side: SideName) -> None:
    found = session(apart, **{side: {"fails_at": 4}})
    other = next(one for one in SIDES if one != side)
    assert found.rounds == []
    assert found.trained[side].error.message == "at step 4"
    assert found.trained[other] == Trained()


def test_joined_turns_know_what_all_of_them_know() -> None:
    one = Turn(steps=[1.0, 2.0], wall=3.5, cpu=3.0, waited=0.5)
    other = Turn(steps=[4.0], wall=4.5, cpu=None, waited=0.25)
    found = joined([one, other])
    assert (found.steps, found.wall, found.cpu, found.waited) == ([1.0, 2.0, 4.0], 8.0, None, 0.75)
