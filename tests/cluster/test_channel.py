"""Node 0 asks, others answer; who is gone is named. Nodes are threads or processes here, joined over the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from llmbench.cluster.channel import Follower, Handler, Leader, LeaderLost
from llmbench.cluster.place import Place
from llmbench.errors import UserError

FOLLOWER = """
import sys, time
from llmbench.cluster.channel import Follower
from llmbench.cluster.place import Place
with Follower(Place(2, 1, "127.0.0.1", int(sys.argv[1])), {}) as follower:
    follower.serve({"sleep": lambda request, send: (send({"begun": True}), time.sleep(600))})
"""


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found: int = server.getsockname()[1]
    return found


def place(nnodes: int, rank: int, at: int) -> Place:
    return Place(nnodes, rank, "127.0.0.1", at)


def echo(request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    send({"half": request["word"]})
    return {"word": request["word"]}


def refuse(request: dict[str, Any], send: object) -> dict[str, Any]:
    raise UserError("no such file", None)


def until_cancelled(request: dict[str, Any], send: object) -> dict[str, Any]:
    return {"cancelled": request["cancelled"].wait(60)}


HANDLERS: dict[str, Handler] = {"echo": echo, "refuse": refuse, "until cancelled": until_cancelled}


@contextmanager
def cluster(nnodes: int, handlers: Mapping[str, Handler] = HANDLERS) -> Iterator[Leader]:
    """A leader and its followers, joined; the followers serve in threads."""
    at, ended = port(), []

    def follow(rank: int) -> None:
        with Follower(place(nnodes, rank, at), {"number": rank}, join_seconds=30) as follower:
            ended.append(follower.serve(handlers))

    threads = [threading.Thread(target=follow, args=(rank,)) for rank in range(1, nnodes)]
    for thread in threads:
        thread.start()
    with Leader(place(nnodes, 0, at), {"number": 0}, handlers, join_seconds=30) as leader:
        assert {rank: says["number"] for rank, says in leader.join().items()} == {n: n for n in range(nnodes)}
        yield leader
    for thread in threads:
        thread.join(30)
    assert ended == [None] * (nnodes - 1)


def test_all_nodes_answer_and_tell_what_happens_meanwhile() -> None:
    events: list[tuple[int, dict[str, Any]]] = []
    with cluster(3) as leader:
        replies = leader.ask(
            {rank: {"do": "echo", "word": f"w{rank}"} for rank in range(3)},
            seconds=30,
            on_event=lambda node, event: events.append((node, event)),
        )
        assert {rank: reply.value for rank, reply in replies.items()} == {n: {"word": f"w{n}"} for n in range(3)}
        assert sorted(events) == [(n, {"half": f"w{n}"}) for n in range(3)]
        assert leader.hosts.keys() == leader.addresses.keys() == {0, 1, 2}


def test_what_a_node_cannot_do_is_the_reason() -> None:
    with cluster(2) as leader:
        assert leader.ask({1: {"do": "refuse"}}, 30)[1].reason == "no such file"
        assert "it cannot dance" in (leader.ask({1: {"do": "dance"}}, 30)[1].reason or "")


def test_who_does_not_answer_in_time_is_cancelled() -> None:
    with cluster(2) as leader:
        replies = leader.ask({0: {"do": "until cancelled"}, 1: {"do": "until cancelled"}}, 0.5)
        assert {reply.reason for reply in replies.values()} == {"no answer within 0.5 s"}
        assert leader.ask({1: {"do": "echo", "word": "still there"}}, 30)[1].value == {"word": "still there"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_that_is_gone_is_lost_with_the_reason(how: signal.Signals) -> None:
    at = port()
    with ExitStack() as stack, Leader(place(2, 0, at), {}, join_seconds=60) as leader:
        other = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", FOLLOWER, str(at)], stdin=subprocess.DEVNULL)
        )
        stack.callback(other.kill)
        leader.join()
        reply = leader.ask({1: {"do": "sleep"}}, 60, lambda node, event: os.kill(other.pid, how))[1]
        expected = "connection closed" if how == signal.SIGKILL else "silent for 10 s"
        assert reply.reason == expected
        assert leader.lost == {1: expected}
        assert leader.ask({1: {"do": "sleep"}}, 60)[1].reason == expected


def test_who_never_joins_is_named() -> None:
    waited: list[list[int]] = []
    with (
        Leader(place(3, 0, port()), {}, join_seconds=1.5, on_wait=waited.append) as leader,
        pytest.raises(UserError, match=r"nodes 1, 2 of 3 never joined within 1.5 s; there: 0 \("),
    ):
        leader.join()
    assert waited[0] == [1, 2]


def test_a_follower_without_a_leader_says_where_it_looked() -> None:
    at = port()
    with (
        pytest.raises(UserError, match=rf"node 0 at 127.0.0.1:{at} did not answer"),
        Follower(place(2, 1, at), {}, 0.5),
    ):
        raise AssertionError


@pytest.mark.parametrize(
    ("nnodes", "rank", "why"), [(4, 1, "started with 2 nodes"), (2, 1, "joined already"), (2, 0, "no node 0")]
)
def test_who_does_not_belong_is_refused(nnodes: int, rank: int, why: str) -> None:
    with (
        cluster(2) as leader,
        pytest.raises(UserError, match=why),
        Follower(place(nnodes, rank, leader.place.master_port), {}, 5),
    ):
        raise AssertionError


def test_a_stranger_at_the_port_disturbs_nobody() -> None:
    at = port()
    with Leader(place(2, 0, at), {}, join_seconds=30) as leader:
        for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"{}\n"):
            with socket.create_connection(("127.0.0.1", at)) as stranger:
                stranger.sendall(words)
        with Follower(place(2, 1, at), {}, 30):
            assert leader.join().keys() == {0, 1}


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("", 0)) as taken, pytest.raises(UserError, match="is in use"):
        Leader(place(2, 0, taken.getsockname()[1]), {})


def test_followers_hear_that_the_leader_is_gone() -> None:
    at, ended = port(), []

    def follow() -> None:
        with (
            pytest.raises(LeaderLost, match=r"node 0 .127.0.0.1. is gone: connection closed"),
            Follower(place(2, 1, at), {}, 30) as follower,
        ):
            follower.serve({})
        ended.append(True)

    thread = threading.Thread(target=follow)
    thread.start()
    leader = Leader(place(2, 0, at), {}, join_seconds=30)
    leader.__enter__()
    leader.join()
    leader._wires[1].close()  # as the kernel does for a process that was killed
    thread.join(30)
    assert ended == [True]
    leader.__exit__(None)


def test_followers_hear_of_an_interrupt() -> None:
    at, ended = port(), []

    def follow() -> None:
        with Follower(place(2, 1, at), {}, 30) as follower:
            ended.append(follower.serve({}))

    thread = threading.Thread(target=follow)
    thread.start()
    leader = Leader(place(2, 0, at), {}, join_seconds=30)
    with leader:
        leader.join()
        leader.__exit__(KeyboardInterrupt)
    thread.join(30)
    assert ended == ["interrupted"]


def test_leaving_waits_for_what_was_cancelled() -> None:
    left: list[float] = []

    def slow_end(request: dict[str, Any], send: object) -> dict[str, Any]:
        request["cancelled"].wait(60)
        time.sleep(0.3)
        left.append(time.monotonic())
        return {}

    with cluster(2, {"slow": slow_end}) as leader:
        leader.start({1: {"do": "slow"}})
        time.sleep(0.1)
    assert len(left) == 1
