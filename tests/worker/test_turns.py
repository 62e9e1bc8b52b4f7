"""The worker's end of the token: it works only while it holds it, and times only its own steps."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbench.worker import turns
from llmbench.worker.turns import Turns, Wall

WARM_UP = [0.5, 0.25]


class Control:
    """The control side of one connection."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.said: list[dict[str, Any]] = []

    def plays(self, *steps: int, then_leaves: bool = True) -> threading.Thread:
        """Asks for turns of so many steps, in a thread."""

        def play() -> None:
            connection, _ = self.listener.accept()
            with connection, connection.makefile("r") as lines:
                self.said.append(json.loads(lines.readline()))
                for number in steps:
                    connection.sendall(json.dumps({"steps": number}).encode() + b"\n")
                    if number:
                        self.said.append(json.loads(lines.readline()))

        thread = threading.Thread(target=play)
        thread.start()
        return thread


@pytest.fixture
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    made = Control(tmp_path_factory.mktemp("s"))
    yield made
    made.listener.close()


def test_it_does_the_steps_that_it_is_asked_for_and_no_others(control: Control) -> None:
    thread = control.plays(3, 5, 0)
    done: list[bool] = []
    assert Turns(control.path, "cand", 1).serve(lambda: done.append(gc.isenabled()), Wall(), WARM_UP) == 8
    thread.join()
    hello, *found = control.said
    assert {key: hello[key] for key in ("side", "rank", "warm_up")} == {"side": "cand", "rank": 1, "warm_up": WARM_UP}
    assert [len(turn["steps"]) for turn in found] == [3, 5]
    assert done == [False] * 8  # a collection would be somebody's step
    assert gc.isenabled()


def test_a_turn_is_timed_by_the_clock_of_the_device(control: Control) -> None:
    class Ticks:
        """Each mark is a second after the last; at the end of a turn everything asked for has been done."""

        def __init__(self) -> None:
            self.now, self.synchronized = 0, []

        def mark(self) -> int:
            self.now += 1
            return self.now

        def between(self, begin: int, end: int) -> float:
            assert self.synchronized[-1] == self.now, "marks are read before the device is synchronised"
            return float(end - begin)

        def synchronize(self) -> None:
            self.synchronized.append(self.now)

    thread = control.plays(4, 0)
    clock = Ticks()
    Turns(control.path, "base").serve(lambda: None, clock, [])
    thread.join()
    assert control.said[1]["steps"] == [1.0] * 4
    assert clock.synchronized == [0, 5]


def test_cpu_time_and_wall_time_are_of_the_steps_alone(control: Control) -> None:
    thread = control.plays(2, 0)
    Turns(control.path, "base").serve(lambda: time.sleep(0.02), Wall(), [])
    thread.join()
    turn = control.said[1]
    assert turn["wall"] >= sum(turn["steps"]) >= 0.04
    assert turn["cpu"] < turn["wall"]
    assert turn["waited"] is None or turn["waited"] >= 0


@pytest.mark.parametrize(
    ("content", "waited"), [("9 5000000000 3\n", 5.0), ("0 0 0\n", None), ("nonsense\n", None), (None, None)]
)
def test_time_without_a_cpu(
    content: str | None, waited: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "schedstat"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(turns, "SCHEDSTAT", str(file))
    assert turns._waited() == waited


def test_a_control_side_that_is_gone_ends_it(control: Control) -> None:
    """In the middle of the comparison: nobody is to train on alone."""
    thread = control.plays(2)
    done: list[int] = []
    with pytest.raises((ConnectionError, BrokenPipeError)):
        Turns(control.path, "base").serve(lambda: done.append(1), Wall(), [])
    thread.join()
    assert len(done) == 2
    assert gc.isenabled()


def test_what_a_step_raises_is_raised(control: Control) -> None:
    def play() -> None:
        connection, _ = control.listener.accept()
        with connection, connection.makefile("r") as lines:
            lines.readline()
            connection.sendall(b'{"steps": 3}\n')
            control.said.append({"end": lines.readline()})

    thread = threading.Thread(target=play)
    thread.start()

    def step() -> None:
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        Turns(control.path, "base").serve(step, Wall(), [])
    thread.join()
    assert control.said == [{"end": ""}]  # the control side sees it at once
    assert gc.isenabled()
