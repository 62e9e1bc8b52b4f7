"""How node 0 has the others measure: in turns on one machine, all at once elsewhere, and whoever fails is named.

Real control sides that talk over the loopback, each in a thread; what they measure is made up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llmbench.cluster.channel import Follower, Leader
from llmbench.cluster.place import Place
from llmbench.errors import UserError
from llmbench.launch import scan as launch_scan
from llmbench.launch.scan import Cluster, Settings
from llmbench.stats.scan import Reading
from tests.cluster.nodes import free_port

METRICS = {"matmul": {"value": 8e10, "best": 9e10, "note": None}}
PAIR = {
    "device": "cpu",
    "value": 1e9,
    "best": 1.5e9,
    "points": [{"collective": "sendrecv", "message_bytes": 16, "bus_bandwidth_bytes_per_s": 1e9}],
}
DONE = {"device": "cpu", "metrics": METRICS}

Answers = Callable[[int, dict[str, Any]], dict[str, Any]]


@contextmanager
def cluster(
    answer: Answers, *, machines: tuple[str, ...], absent: tuple[int, ...] = (), device: str = "auto"
) -> Iterator[Cluster]:
    """The nodes of a scan.

    Args:
        answer: (node rank, request) -> what the node measured.
        machines: of each node.
        absent: node ranks that never come.
    """
    port, count = free_port(), len(machines)
    settings = Settings("python", device, deadline=30.0, join_seconds=1.0 if absent else 30.0)

    def handlers(rank: int) -> dict[str, Any]:
        def asked(request: dict[str, Any], send: object) -> dict[str, Any]:
            return {"port": 1} if request["do"] == "port" else answer(rank, request)

        return dict.fromkeys(("port", "solo", "pair"), asked)

    def follow(rank: int) -> None:
        with Follower(Place(count, rank, "127.0.0.1", port), {"machine": machines[rank]}, 30) as follower:
            follower.serve(handlers(rank))

    threads = [threading.Thread(target=follow, args=(rank,)) for rank in range(1, count) if rank not in absent]
    for thread in threads:
        thread.start()
    here = Place(count, 0, "127.0.0.1", port)
    with Leader(here, {"machine": machines[0]}, handlers(0), settings.join_seconds) as leader:
        try:
            leader.join()
        except UserError:
            assert absent
        yield Cluster(leader, settings, lambda message: None)
    for thread in threads:
        thread.join(30)


class Crowd:
    """Counts how many measure at the same time."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def __call__(self, rank: int, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        threading.Event().wait(0.05)
        with self._lock:
            self._now -= 1
        return DONE if request["do"] == "solo" else PAIR


def test_what_runs_on_one_machine_is_measured_one_after_the_other() -> None:
    crowd = Crowd()
    with cluster(crowd, machines=("one",) * 4) as nodes:
        found = nodes.solo(nodes.nodes)
        assert crowd.most == 1
        a, b, c, d = nodes.nodes
        pairs = nodes.pair([(a, b), (c, d)])
        assert crowd.most == 2  # both halves of one pair
    assert found[a] == {"matmul": Reading(8e10, 9e10, launch_scan.SHARED_SOLO)}
    assert isinstance(pairs[a, b], Reading)
    assert (pairs[a, b].at_best, pairs[a, b].uncertainty) == (1.5e9, launch_scan.SHARED_PAIR)


def test_nodes_on_machines_of_their_own_are_measured_at_the_same_time() -> None:
    all_there = threading.Barrier(4)

    def answer(rank: int, request: dict[str, Any]) -> dict[str, Any]:
        all_there.wait(30)  # raises if one is not asked before another has answered
        return DONE if request["do"] == "solo" else PAIR

    with cluster(answer, machines=("m0", "m1", "m2", "m3")) as nodes:
        found = nodes.solo(nodes.nodes)
        a, b, c, d = nodes.nodes
        pairs = nodes.pair([(a, b), (c, d)])
    assert found[d] == {"matmul": Reading(8e10)}  # what counts there is all work in all time
    assert pairs.keys() == {(a, b), (c, d)}
    for reading in pairs.values():
        assert isinstance(reading, Reading)
        assert (reading.value, reading.best, reading.uncertainty) == (1e9, None, 0)
        assert reading.points[0].message_bytes == 16


def test_gpus_of_nodes_that_share_a_machine_are_compared_as_exactly_as_ever() -> None:
    with cluster(lambda rank, request: DONE | {"device": "cuda"}, machines=("one", "one")) as nodes:
        found = nodes.solo(nodes.nodes)
    assert found[nodes.nodes[1]] == {"matmul": Reading(8e10)}


def test_nodes_of_one_host_name_are_told_apart_by_their_rank() -> None:
    with cluster(Crowd(), machines=("m0", "m1")) as nodes:
        (host,) = set(nodes.hosts.values())
        assert nodes.nodes == [f"{host}:0", f"{host}:1"]


def test_on_a_shared_machine_a_low_pair_is_measured_again_and_the_better_one_counts() -> None:
    asked: list[int] = []

    def answer(rank: int, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "solo":
            return DONE
        asked.append(rank)
        return PAIR | {"value": 1e7, "best": 2e7} if rank in (2, 3) and asked.count(rank) == 1 else PAIR

    with cluster(answer, machines=("one",) * 6) as nodes:
        a, b, c, d, e, f = nodes.nodes
        readings = nodes.pair([(a, b), (c, d), (e, f)])
    assert sorted(asked) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]  # and the fastest, for comparison
    found = {pair: reading for pair, reading in readings.items() if isinstance(reading, Reading)}
    assert {pair: reading.times for pair, reading in found.items()} == {(a, b): 1, (c, d): 2, (e, f): 1}
    assert found[c, d].at_best == 1.5e9
    assert found[c, d].points == found[a, b].points


def test_a_shared_machine_that_has_become_busy_convicts_nobody_for_it() -> None:
    rounds: list[int] = []

    def answer(rank: int, request: dict[str, Any]) -> dict[str, Any]:
        return PAIR if not rounds else PAIR | {"value": 4.5e8, "best": 4.8e8}

    with cluster(answer, machines=("one",) * 4) as nodes:
        a, b, c, d = nodes.nodes
        nodes.pair([(a, b), (c, d)])
        rounds.append(2)
        later = nodes.pair([(a, c)])[a, c]
    assert isinstance(later, Reading)
    assert (later.times, later.at_best) == (2, 4.8e8)
    assert later.uncertainty == pytest.approx(1 - 0.5 * 0.45)  # so much of the speed is left


def test_who_never_joins_has_failed_and_the_others_are_measured() -> None:
    with cluster(Crowd(), machines=("m0", "m1", "m2"), absent=(1,)) as nodes:
        found = nodes.solo(nodes.nodes)
    assert nodes.nodes[1] == "node-1"
    assert nodes.nodes[1] not in nodes.hosts
    assert found["node-1"] == "it never joined within 1 s"
    assert sorted(map(type, found.values()), key=str) == [dict, dict, str]


def test_a_node_with_another_kind_of_device_than_most_has_failed() -> None:
    def answer(rank: int, request: dict[str, Any]) -> dict[str, Any]:
        return DONE | {"device": "cpu" if rank == 1 else "cuda"}

    with cluster(answer, machines=("m0", "m1", "m2")) as nodes:
        found = nodes.solo(nodes.nodes)
    assert found[nodes.nodes[1]] == "torch measures on cpu there, on cuda elsewhere"
    assert found[nodes.nodes[2]] == {"matmul": Reading(8e10)}


KILLED = "its process was killed by SIGKILL, in phase exchange"
CLOSED = "RuntimeError: [pair.cc:547] Connection closed by peer [127.0.0.1]:6012"
ALONE = "DistStoreError: Timed out after 31 seconds waiting for clients. 1/2 clients joined."
AWAY = "DistNetworkError: The client socket has failed to connect to [h1]:4711 (errno: 113 - No route to host)."


@pytest.mark.parametrize("guilty", [0, 1])
@pytest.mark.parametrize(("cause", "consequence"), [(KILLED, CLOSED), (AWAY, ALONE), (KILLED, AWAY)])
def test_of_two_that_fail_the_cause_is_named_and_not_its_consequence(guilty: int, cause: str, consequence: str) -> None:
    def answer(rank: int, request: dict[str, Any]) -> dict[str, Any]:
        raise UserError(cause if rank == guilty else consequence)

    with cluster(answer, machines=("m0", "m1")) as nodes:
        a, b = nodes.nodes
        found = nodes.pair([(a, b)])
    assert found == {(a, b): f"{nodes.nodes[guilty]}: {cause}"}


def test_who_waits_for_a_partner_that_failed_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_scan, "PARTNER_SECONDS", 0.2)
    stopped = threading.Event()

    def answer(rank: int, request: dict[str, Any]) -> dict[str, Any]:
        if rank == 0:
            raise UserError("cannot measure")
        if request["cancelled"].wait(25):
            stopped.set()
        return PAIR

    with cluster(answer, machines=("m0", "m1")) as nodes:
        a, b = nodes.nodes
        found = nodes.pair([(a, b)])
        assert stopped.wait(25)
    assert found == {(a, b): f"{a}: cannot measure"}
