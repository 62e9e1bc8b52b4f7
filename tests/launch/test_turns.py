"""Who passes the token: it is held by one side only, and nobody waits for a side that is gone."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbench.launch.turns import Conductor, SideGoneError, merged, steps_of_a_turn
from llmbench.results.ab import SIDES, SideName
from llmbench.worker.turns import Turns, Wall
from tests.conftest import wait_for

ALIVE: Callable[[SideName], bool] = lambda side: True  # noqa: E731
ONE_EACH: dict[SideName, int] = {"base": 1, "cand": 1}


@pytest.fixture
def conductor() -> Iterator[Conductor]:
    with Conductor() as made:
        yield made


class Peer:
    """The other end of the socket, which says what it is told to."""

    def __init__(self, conductor: Conductor) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(conductor.path)

    def hello(self, side: str, rank: int = 0, warm_up: tuple[float, ...] = (0.5, 0.01)) -> Peer:
        self.say({"side": side, "rank": rank, "pid": os.getpid(), "warm_up": warm_up})
        return self

    def say(self, what: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(what).encode() + b"\n")

    def turn(self, *steps: float) -> None:
        """Takes one turn."""
        self.socket.recv(1000)
        self.say({"steps": steps, "wall": sum(steps), "cpu": 1.0, "waited": 0.25})


def in_thread(work: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    return thread


def test_both_are_waited_for(conductor: Conductor) -> None:
    peers = [Peer(conductor).hello("base", warm_up=(9.0, 9.0, 0.02, 0.03, 0.04)), Peer(conductor).hello("cand")]
    # Of the warm-up the second half counts.
    assert conductor.wait_for(ONE_EACH, ALIVE) == {"base": 0.03, "cand": 0.01}
    for peer in peers:
        peer.socket.close()


def test_of_several_ranks_the_slowest_counts(conductor: Conductor) -> None:
    peers = [Peer(conductor).hello("base", rank, (seconds,)) for rank, seconds in ((1, 0.2), (0, 0.1))]
    assert conductor.wait_for({"base": 2}, ALIVE) == {"base": 0.2}
    threads = [in_thread(peer.turn, *steps) for peer, steps in zip(peers, [(1.0, 2.0), (2.0, 1.0)], strict=True)]
    found = conductor.turn("base", 2)
    assert (found.steps, found.cpu, found.waited) == ([2.0, 2.0], 2.0, 0.25)
    for thread, peer in zip(threads, peers, strict=True):
        thread.join()
        peer.socket.close()


def test_a_side_that_is_dead_is_not_waited_for_but_the_other_is(conductor: Conductor) -> None:
    """So that of two that are broken alike not the one is blamed that died first."""
    late = threading.Event()

    def come() -> None:
        late.wait()
        peers.append(Peer(conductor).hello("cand"))

    peers: list[Peer] = []
    thread = in_thread(come)

    def alive(side: SideName) -> bool:
        late.set()
        return side == "cand"

    assert conductor.wait_for(ONE_EACH, alive) == {"cand": 0.01}
    thread.join()
    peers[0].socket.close()


def test_a_side_that_builds_does_not_hide_that_the_other_is_dead(conductor: Conductor) -> None:
    slow = Peer(conductor)  # it has connected, and says nothing yet
    asked: list[SideName] = []

    def alive(side: SideName) -> bool:
        asked.append(side)
        if side == "base" and len(asked) > 2:
            slow.hello("cand")
        return side == "cand"

    assert conductor.wait_for(ONE_EACH, alive) == {"cand": 0.01}
    slow.socket.close()


def test_a_side_that_dies_while_it_waits_for_the_other(conductor: Conductor) -> None:
    first = Peer(conductor).hello("base")
    second = Peer(conductor)

    def alive(side: SideName) -> bool:
        first.socket.close()
        if not second_said:
            second.hello("cand")
            second_said.append(True)
        return True  # nobody has noticed yet

    second_said: list[bool] = []
    assert conductor.wait_for(ONE_EACH, alive).keys() <= {"cand"}
    second.socket.close()


def test_a_connection_that_says_nothing_and_closes_is_nobody(conductor: Conductor) -> None:
    Peer(conductor).socket.close()
    peer = Peer(conductor).hello("base")
    assert conductor.wait_for({"base": 1}, ALIVE) == {"base": 0.01}
    peer.socket.close()


def test_a_side_that_is_gone_at_its_turn(conductor: Conductor) -> None:
    peer = Peer(conductor).hello("base")
    conductor.wait_for({"base": 1}, ALIVE)
    peer.socket.close()
    with pytest.raises(SideGoneError) as gone:
        conductor.turn("base", 3)
    assert gone.value.side == "base"
    conductor.end("base")  # whom nobody hears


def test_half_an_answer_is_none(conductor: Conductor) -> None:
    peer = Peer(conductor).hello("base")
    conductor.wait_for({"base": 1}, ALIVE)

    def answer() -> None:
        peer.socket.recv(1000)
        peer.socket.sendall(b'{"steps": [0.1')
        peer.socket.close()

    thread = in_thread(answer)
    with pytest.raises(SideGoneError):
        conductor.turn("base", 3)
    thread.join()


def test_waiting_is_counted_and_working_is_not(conductor: Conductor) -> None:
    peers = {side: Peer(conductor) for side in SIDES}
    assert conductor.waited("base") == 0
    peers["base"].hello("base")
    thread = in_thread(conductor.wait_for, ONE_EACH, ALIVE)
    wait_for(lambda: conductor.waited("base") > 0)  # it is warm, and the other is not
    assert conductor.waited("cand") == 0
    peers["cand"].hello("cand")
    thread.join()
    before = conductor.waited("base")
    began = threading.Event()

    def work() -> None:
        peers["base"].socket.recv(1000)
        in_turn.append(conductor.waited("base"))
        time.sleep(0.02)
        in_turn.append(conductor.waited("base"))
        began.set()
        peers["base"].say({"steps": [0.02], "wall": 0.02})

    in_turn: list[float] = []
    thread = in_thread(work)
    conductor.turn("base", 1)
    thread.join()
    assert before <= in_turn[0] == in_turn[1]
    assert conductor.waited("cand") >= 0.02
    wait_for(lambda: conductor.waited("base") > in_turn[1])
    conductor.end("base")
    ended = conductor.waited("base")
    time.sleep(0.01)
    assert conductor.waited("base") == ended
    for peer in peers.values():
        peer.socket.close()


def test_real_turns_over_the_socket(conductor: Conductor) -> None:
    """Both ends together: so many steps as asked for, in the order of the turns, until it is told to leave."""
    done: list[str] = []
    counts: dict[str, int] = {}

    def side(name: SideName) -> None:
        counts[name] = Turns(conductor.path, name).serve(lambda: done.append(name), Wall(), [0.1])

    threads = [in_thread(side, name) for name in SIDES]
    conductor.wait_for(ONE_EACH, ALIVE)
    order: list[SideName] = ["cand", "base", "base", "cand"]
    turns = [conductor.turn(name, 3 + number) for number, name in enumerate(order)]
    for name in SIDES:
        conductor.end(name)
    for thread in threads:
        thread.join()
    assert done == ["cand"] * 3 + ["base"] * 4 + ["base"] * 5 + ["cand"] * 6
    assert counts == {"base": 9, "cand": 9}
    assert [len(turn.steps) for turn in turns] == [3, 4, 5, 6]
    assert all(turn.wall >= sum(turn.steps) > 0 for turn in turns)


def test_the_socket_is_gone_once_all_have_come(conductor: Conductor) -> None:
    """Whoever kills the parent then leaves nothing behind, and nobody else can come."""
    folder = Path(conductor.path).parent
    assert folder.stat().st_mode & 0o077 == 0
    peer = Peer(conductor).hello("base")
    conductor.wait_for({"base": 1}, ALIVE)
    assert not folder.exists()
    peer.socket.close()


def test_leaving_early_leaves_nothing() -> None:
    with Conductor() as conductor:
        folder = Path(conductor.path).parent
    assert not folder.exists()


def test_a_folder_for_temporary_files_that_is_too_long_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Conductor() as conductor:
        Peer(conductor).socket.close()


def test_steps_of_a_turn() -> None:
    assert steps_of_a_turn({"base": 0.01, "cand": 0.02}, shortest=3, turn_seconds=0.1) == 5
    assert steps_of_a_turn({"base": 1.0, "cand": 0.02}, shortest=3, turn_seconds=0.1) == 3
    assert steps_of_a_turn({"base": 0.0}, shortest=3, turn_seconds=0.1) == 3


def test_what_one_rank_does_not_know_is_not_known_of_the_turn() -> None:
    known = {"steps": [1.0], "wall": 1.0, "cpu": 2.0, "waited": 0.5}
    unknown = {"steps": [3.0], "wall": 3.0, "cpu": None, "waited": None}
    found = merged([known, unknown])
    assert (found.steps, found.wall, found.cpu, found.waited) == ([3.0], 3.0, None, None)
