"""A scan of real nodes: node 0 leads, decides whom to measure next, and judges; all nodes measure."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median_high
from typing import Any

from llmbench.cluster.channel import JOIN_SECONDS, Asking, Follower, Leader, Reply
from llmbench.cluster.place import Place
from llmbench.errors import UserError
from llmbench.launch.scan_node import PRELOAD, handlers, machine
from llmbench.launch.target import START_SECONDS, Target
from llmbench.results.scan import Point, Scan
from llmbench.stats.scan.document import scan_document
from llmbench.stats.scan.measure import Answer, Pair, Reading
from llmbench.stats.scan.search import scan

ANSWER_SECONDS = 30.0  # for an answer to come, beyond the deadline of what was asked for
PORT_SECONDS = 20.0
PARTNER_SECONDS = 5.0  # for the other one of a pair to notice that its partner failed
LOOK_SECONDS = 0.05
# On a machine that nodes share the others of its users disturb a measurement: what lacks less is not called low.
SHARED_SOLO, SHARED_PAIR, SHARED_MOST = 0.4, 0.5, 0.8
# What a process says whose partner is gone, or does not come: it is not the cause. It may be one that cannot connect.
_CANNOT_CONNECT = re.compile(r"client socket|DistNetworkError|[Nn]o route|unreachable")
_CONSEQUENCE = re.compile(
    r"Connection closed by peer|Connection reset|Broken pipe|Timed out|partner|cancelled|DistBackendError|"
    r"DistStoreError|wait timeout"
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How a scan measures.

    Attributes:
        python: the interpreter of the environment that measures, the same path on every node.
        device: ``auto``, ``cpu`` or ``cuda``.
        deadline: seconds for one test until it is given up.
        join_seconds: to wait for nodes; those that never join have failed.
        solo_seconds: of work for each metric of a node alone; on a machine that nodes share ``shared_solo_seconds``.
        pair_seconds: for the point that decides on a pair.
        sizes: of messages in bytes, the last one decides; by default those of the device.
    """

    python: str
    device: str = "auto"
    every_link: bool = False
    rounds: int = 3
    deadline: float = 120.0
    join_seconds: float = JOIN_SECONDS
    solo_seconds: float = 2.5
    shared_solo_seconds: float = 0.6
    pair_seconds: float = 1.0
    sizes: tuple[int, ...] | None = None


def lead(place: Place, settings: Settings, command: Sequence[str], say: Say) -> Scan:
    """Scans the nodes that join, and those that do not have failed.

    Args:
        say: told what is done now, for people.

    Raises:
        UserError: the port cannot be used, or this node itself cannot import torch.
    """
    started_at, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    with Target(settings.python, PRELOAD) as target:
        target.ready()
        with Leader(
            place, {"machine": machine()}, handlers(target), settings.join_seconds, _teller(place, say)
        ) as leader:
            with suppress(UserError):  # those that are missing are in the document, as failed
                leader.join()
            cluster = Cluster(leader, settings, say)
            seen = scan(cluster.nodes, cluster, rounds=settings.rounds, every_link=settings.every_link)
            return scan_document(
                seen,
                command=command,
                started_at=started_at,
                seconds=time.perf_counter() - begin,
                every_link=settings.every_link,
                hosts=cluster.hosts,
                machines=len(set(cluster.machines.values())),
            )


def follow(place: Place, settings: Settings, say: Say) -> None:
    """Measures what node 0 asks for, until the scan ends.

    Raises:
        UserError: node 0 cannot be reached.
        LeaderLost: it went away without a word.
    """
    with (
        Target(settings.python, PRELOAD) as target,
        Follower(place, {"machine": machine()}, settings.join_seconds) as follower,
    ):
        say(f"node {place.node_rank} of {place.nnodes}: measures for node 0 at {place.master_addr}")
        reason = follower.serve(handlers(target))
    say(f"node {place.node_rank}: {f'node 0 was {reason}' if reason else 'done'}")


def _teller(place: Place, say: Say) -> Callable[[list[int]], None]:
    """Says who is waited for when that changes."""
    told: list[list[int]] = []

    def tell(missing: list[int]) -> None:
        if told != [missing]:
            told[:] = [missing]
            who = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
            say(f"{place.nnodes - len(missing)} of {place.nnodes} nodes are here; waiting for {who}")

    return tell


class Cluster:
    """The nodes of a leader, as the search asks them to measure (``Measure``).

    Nodes of one machine are measured one after the other: at the same time they would measure each other.

    Attributes:
        nodes: their names: those of their hosts, with the rank where it takes that to tell them apart.
        hosts: host names by node, of those that joined.
        machines: by node, of those that joined.
    """

    def __init__(self, leader: Leader, settings: Settings, say: Say) -> None:
        self._leader, self._settings, self._say = leader, settings, say
        says, known = leader.hellos(), leader.hosts
        several = {host for host, count in Counter(known.values()).items() if count > 1}
        self._ranks: dict[str, int] = {}
        for rank in range(leader.place.nnodes):
            host = known.get(rank)
            name = f"node-{rank}" if host is None else f"{host}:{rank}" if host in several else host
            self._ranks[name] = rank
        self.nodes = list(self._ranks)
        self.hosts = {name: known[rank] for name, rank in self._ranks.items() if rank in known}
        self.machines = {name: says[rank]["machine"] for name, rank in self._ranks.items() if rank in says}
        crowd = Counter(self.machines.values())
        self._shared = {name for name, where in self.machines.items() if crowd[where] > 1}
        self._device = settings.device
        self._round = 0
        self._readings: dict[Pair, Reading] = {}
        if self._shared:
            say(f"{len(self._shared)} nodes share machines: what runs on one machine is measured one after the other")

    def solo(self, nodes: Sequence[str]) -> Mapping[str, Mapping[str, Answer] | str]:
        """Each node on its own. Nodes with another kind of device than most have failed."""
        self._say(f"alone: {_count(len(nodes), 'node')}")
        replies = {name: self._absent(name) for name in nodes if name not in self.machines}
        for batch in self._in_turns([(name,) for name in nodes if name in self.machines]):
            replies |= self._solo_at_once([name for (name,) in batch])
        kinds = Counter(reply.value["device"] for reply in replies.values() if reply.value)
        if self._device == "auto" and kinds:
            self._device = kinds.most_common(1)[0][0]
        return {name: self._alone(name, reply) for name, reply in replies.items()}

    def pair(self, pairs: Sequence[Pair]) -> Mapping[Pair, Answer | str]:
        """Bus bandwidth of each pair."""
        self._round += 1
        answers: dict[Pair, Answer | str] = {}
        for batch in self._in_turns(pairs):
            self._say(f"round {self._round}: {len(answers)} of {_count(len(pairs), 'pair test')} done")
            answers |= self._pairs_at_once(batch)
        return answers | self._repeated(answers)

    def _repeated(self, answers: Mapping[Pair, Answer | str]) -> dict[Pair, Answer | str]:
        """The better of two measurements of those that share a machine and are low: who is not slow was disturbed.

        The fastest pair is measured again, too: a machine that has become busy tells less than before.
        """
        readings = {pair: answer for pair, answer in answers.items() if isinstance(answer, Reading)}
        self._readings |= readings
        limit = (1 - SHARED_PAIR) * median_high([reading.value for reading in self._readings.values()] or [0.0])
        low = {
            pair: reading for pair, reading in readings.items() if self._shared & set(pair) and reading.at_best < limit
        }
        again: dict[Pair, Answer | str] = {}
        unsure = self._uncertainty_now() if low else SHARED_PAIR
        for batch in self._in_turns(low):
            self._say(f"round {self._round}: once more {', '.join(' – '.join(pair) for pair in batch)}")
            for pair, answer in self._pairs_at_once(batch, curves=False).items():
                if isinstance(answer, Reading):
                    better = max(answer, low[pair], key=lambda reading: reading.at_best)
                    again[pair] = replace(better, uncertainty=unsure, times=2, points=low[pair].points)
        return again

    def _uncertainty_now(self) -> float:
        """Of a pair on a shared machine: as ever, and by how much the fastest pair is slower now than it was."""
        fastest = max(self._readings, key=lambda pair: self._readings[pair].value)
        now = self._pairs_at_once([fastest], curves=False)[fastest]
        kept = min(1.0, now.value / self._readings[fastest].value) if isinstance(now, Reading) else 1.0
        return min(SHARED_MOST, 1 - (1 - SHARED_PAIR) * kept)

    def _in_turns(self, tests: Iterable[tuple[str, ...]]) -> list[list[Any]]:
        """Tests in batches whose tests have no machine in common."""
        batches: list[tuple[set[str], list[Any]]] = []
        for test in tests:
            needs = {self.machines[name] for name in test}
            batch = next((batch for batch in batches if not batch[0] & needs), None)
            if batch is None:
                batch = (set(), [])
                batches.append(batch)
            batch[0].update(needs)
            batch[1].append(test)
        return [tests for _, tests in batches]

    def _absent(self, name: str) -> Reply:
        return Reply(reason=f"it never joined within {self._settings.join_seconds:g} s")

    def _solo_at_once(self, names: Sequence[str]) -> dict[str, Reply]:
        requests = {
            self._ranks[name]: {
                "do": "solo",
                "deadline": self._settings.deadline,
                "job": {
                    "device": self._device,
                    "shared": name in self._shared,
                    "seconds": self._settings.shared_solo_seconds
                    if name in self._shared
                    else self._settings.solo_seconds,
                },
            }
            for name in names
        }
        # The first time torch is imported there, too.
        replies = self._leader.ask(requests, START_SECONDS + self._settings.deadline + ANSWER_SECONDS)
        return {name: replies[self._ranks[name]] for name in names}

    def _alone(self, name: str, reply: Reply) -> Mapping[str, Answer] | str:
        if reply.value is None:
            return reply.reason or "no answer"
        if reply.value["device"] != self._device:
            return f"torch measures on {reply.value['device']} there, on {self._device} elsewhere"
        # A node has its GPUs for itself, whoever else is on the machine.
        unsure = SHARED_SOLO if name in self._shared and reply.value["device"] == "cpu" else None
        return {metric: _reading(speed, unsure, note=speed["note"]) for metric, speed in reply.value["metrics"].items()}

    def _pairs_at_once(self, pairs: Sequence[Pair], *, curves: bool = True) -> dict[Pair, Answer | str]:
        ports = self._leader.ask({self._ranks[a]: {"do": "port"} for a, _ in pairs}, PORT_SECONDS)
        answers: dict[Pair, Answer | str] = {}
        asked: dict[Pair, Asking] = {}
        for a, b in pairs:
            reply = ports[self._ranks[a]]
            if reply.value is None:
                answers[a, b] = f"{a}: {reply.reason}"
            else:
                asked[a, b] = self._leader.start(self._requests((a, b), reply.value["port"], curves))
        self._wait(asked.values())
        return answers | {pair: self._together(pair, asking.replies) for pair, asking in asked.items()}

    def _requests(self, pair: Pair, port: int, curves: bool) -> dict[int, dict[str, Any]]:
        addresses = [self._leader.addresses[self._ranks[name]] for name in pair]
        job = {
            "device": self._device,
            "address": addresses[0],
            "port": port,
            "patience": self._settings.deadline / 2,
            "seconds": self._settings.pair_seconds,
            "curves": curves,
            "shared": bool(self._shared & set(pair)),
            "sizes": self._settings.sizes,
        }
        return {
            self._ranks[name]: {
                "do": "pair",
                "deadline": self._settings.deadline,
                "own_address": addresses[number],
                "job": job | {"rank": number},
            }
            for number, name in enumerate(pair)
        }

    def _wait(self, asked: Iterable[Asking]) -> None:
        """Until all have answered. Who waits for a partner that failed is stopped soon."""
        until = time.monotonic() + self._settings.deadline + ANSWER_SECONDS
        failed_at: dict[Asking, float] = {}
        waiting = list(asked)
        while waiting:
            now = time.monotonic()
            waiting = [asking for asking in waiting if not asking.poll()]
            for asking in waiting:
                if any(reply.reason for reply in asking.replies.values()):
                    failed_at.setdefault(asking, now)
                if now > failed_at.get(asking, now) + PARTNER_SECONDS:
                    asking.cancel("its partner failed")
                elif now > until:
                    asking.cancel(f"no answer within {self._settings.deadline + ANSWER_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    def _together(self, pair: Pair, replies: Mapping[int, Reply]) -> Answer | str:
        """What the first of the two measured, if both did their part; else the reason of the one that is the cause."""
        reasons = {name: reason for name in pair if (reason := replies[self._ranks[name]].reason)}
        if reasons:
            lost = [name for name in reasons if self._ranks[name] in self._leader.lost]
            name = (lost or sorted(reasons, key=lambda each: _remoteness(reasons[each])))[0]
            return f"{name}: {reasons[name]}"
        value = replies[self._ranks[pair[0]]].value or {}
        points = tuple(Point(**point) for point in value["points"])
        return _reading(value, SHARED_PAIR if self._shared & set(pair) else None, points=points)


def _remoteness(reason: str) -> int:
    """How far from the cause a process is that says this."""
    return 1 if _CANNOT_CONNECT.search(reason) else 2 if _CONSEQUENCE.search(reason) else 0


def _reading(speed: Mapping[str, Any], shared: float | None, **more: Any) -> Reading:
    """A measurement; on a shared machine with what it reached once, and how uncertain it is."""
    if shared is None:
        return Reading(speed["value"], **more)
    return Reading(speed["value"], speed["best"], shared, **more)


def _count(amount: int, one: str) -> str:
    return f"{amount} {one}" + ("" if amount == 1 else "s")
