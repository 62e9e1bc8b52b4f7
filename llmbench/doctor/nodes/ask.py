"""What node 0 asks of all nodes, and in which order; each answer is judged by its check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmbench.cluster.place import Place
from llmbench.doctor.checks import all_checks, nodes_clock, nodes_host, nodes_interface, nodes_ports, nodes_same
from llmbench.doctor.checks import nodes as nodes_joined
from llmbench.doctor.model import Answer, Check, Finding, skipped
from llmbench.doctor.nodes import clocks
from llmbench.doctor.nodes.cluster import Cluster
from llmbench.doctor.nodes.reduce import Reduction, all_reduce
from llmbench.doctor.nodes.serve import AREA, CONNECT_SECONDS, LOOKUP_SECONDS, Asked
from llmbench.doctor.runner import select, to_their_roots

CHECK_SECONDS = 1800.0
DEEP_SECONDS = 4 * CHECK_SECONDS
FACTS_SECONDS = 600.0
CLOCK_SECONDS = 10.0
ALL_PAIRS = 16
"""Nodes up to which everyone looks up and connects to everyone else; beyond that to a few, so that it stays linear."""


@dataclass
class Gathered:
    """What node 0 knows of all nodes.

    Attributes:
        documents: by rank, what a node's own checks found (``serve.brief``).
        facts: by rank, what a node tells of itself.
        answers: of the checks between nodes.
        missing: ranks of the nodes that never joined.
        reduction: the all-reduce, if there was one.
    """

    documents: dict[int, dict[str, Any]] = field(default_factory=dict)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    reduction: Reduction | None = None


Tell = Callable[[str], None]


def gather(
    cluster: Cluster, place: Place, asked: Asked, join_seconds: float, missing: list[int], tell: Tell
) -> Gathered:
    """Asks the nodes that joined for everything, and judges it.

    Args:
        join_seconds: for which the missing ones were waited for.
        missing: ranks of the nodes that never joined.
        tell: told what is being done.

    Raises:
        UserError: there is no such area or check.
    """
    checks = [check for check in select(all_checks(), asked.only, asked.skip, asked.deep) if check.area == AREA]
    found = Gathered(missing=missing)
    tell("each node checks itself")
    request = {"only": list(asked.only), "skip": list(asked.skip), "deep": asked.deep, "patience": asked.patience}
    seconds = DEEP_SECONDS if asked.deep else CHECK_SECONDS
    found.documents = cluster.ask("check", seconds, dict.fromkeys(cluster.there, request))
    if checks:
        tell("what each node is")
        versions = any(check.id in ("nodes.same", "nodes.allreduce") for check in checks)
        found.facts = cluster.ask("facts", FACTS_SECONDS, {rank: {"versions": versions} for rank in cluster.there})
    asker = _Asker(cluster, place, found)
    for check in _in_order(checks):
        tell(check.title.lower())
        found.answers.append(asker.answer(check))
    # Only now it is known who was lost meanwhile.
    joined = next((check for check in checks if check.id == "nodes.joined"), None)
    if joined:
        found.answers.insert(0, _joined(joined, cluster, place, found, join_seconds))
    found.answers = to_their_roots(found.answers, "python")
    return found


def _in_order(checks: list[Check]) -> list[Check]:
    """Those that need or follow others come after them."""
    order = ("nodes.host", "nodes.interface", "nodes.ports", "nodes.clock", "nodes.same", "nodes.allreduce")
    by_id = {check.id: check for check in checks}
    return [by_id[id] for id in order if id in by_id]


def _joined(check: Check, cluster: Cluster, place: Place, found: Gathered, seconds: float) -> Answer:
    findings = nodes_joined.judge(
        cluster.known, found.missing, cluster.leader.lost, place.master_addr, place.master_port, seconds
    )
    return Answer(check, (*findings, *_troubles(cluster)), 0.0)


def _troubles(cluster: Cluster) -> Iterator[Finding]:
    for rank, reason in sorted(cluster.troubles.items()):
        yield Finding(
            "incomplete",
            f"{cluster.known[rank]} could not be asked for all: {reason}",
            "it takes too long there, or llmbench failed there",
            "llmbench doctor on that node alone; --patience 3 gives all nodes three times as long",
            nodes=(rank,),
        )


class _Asker:
    """Asks what a check between nodes needs, and has it judged."""

    def __init__(self, cluster: Cluster, place: Place, found: Gathered) -> None:
        self._cluster, self._place, self._found = cluster, place, found
        self._judges: Mapping[str, Callable[[], Iterator[Finding]]] = {
            "nodes.host": self._host,
            "nodes.interface": self._interface,
            "nodes.ports": self._ports,
            "nodes.clock": self._clock,
            "nodes.same": self._same,
            "nodes.allreduce": self._allreduce,
        }

    def answer(self, check: Check) -> Answer:
        """Asks it, unless a check that it needs has failed."""
        started = time.monotonic()
        failed = [a.check.id for a in self._found.answers if a.verdict in ("fail", "incomplete")]
        root = next((need for need in check.needs if need in failed), None)
        if len(self._told()) < 2:
            findings: tuple[Finding, ...] = (skipped("there are not two nodes that answer"),)
        elif root:
            findings = (replace(skipped(f"needs {root}"), root=root),)
        else:
            findings = tuple(self._judges[check.id]())
        return Answer(check, findings, time.monotonic() - started)

    def _told(self) -> dict[int, dict[str, Any]]:
        """What the nodes that are still there tell of themselves."""
        return {rank: facts for rank, facts in self._found.facts.items() if rank not in self._cluster.leader.lost}

    def _labels(self) -> dict[int, str]:
        return {rank: name for rank, name in self._cluster.known.items() if rank in self._told()}

    def _links(self) -> dict[int, nodes_interface.Links]:
        return {
            rank: nodes_interface.Links(
                self._cluster.leader.addresses.get(rank, ""),
                tuple(
                    link | {"network": nodes_interface.network_of(link["address"], facts["routes"])}
                    for link in facts["interfaces"]
                ),
                facts["ifname"],
                told=self._has_told(rank, "network.interfaces"),
            )
            for rank, facts in self._told().items()
        }

    def _has_told(self, rank: int, check: str) -> bool:
        """Whether a node's own check has found something."""
        return any(one["id"] == check for one in self._found.documents.get(rank, {}).get("checks", ()))

    def _host(self) -> Iterator[Finding]:
        told = self._told()
        nodes = {}
        for rank, links in self._links().items():
            used = links.used()
            nodes[rank] = nodes_host.Node(
                told[rank]["host"],
                told[rank]["machine"],
                tuple(address for link in links.interfaces for address in nodes_interface.addresses(link)),
                str(used["name"]) if used else "eth0",
                "GLOO_SOCKET_IFNAME" in links.variables,
            )
        requests = {
            one: {
                "names": {
                    str(other): [told[other]["host"], told[other]["port"], nodes[other].addresses]
                    for other in [one, *partners(one, sorted(told))]
                }
            }
            for one in told
        }
        replies = self._cluster.ask("look up", 3 * (LOOKUP_SECONDS + CONNECT_SECONDS), requests)
        seen = {one: {int(other): answer for other, answer in reply.items()} for one, reply in replies.items()}
        return nodes_host.judge(self._labels(), nodes, seen)

    def _interface(self) -> Iterator[Finding]:
        return nodes_interface.judge(self._labels(), self._links())

    def _ports(self) -> Iterator[Finding]:
        told = self._told()
        addresses = {}
        for rank, links in self._links().items():
            used = links.used()
            addresses[rank] = (used and used["address"]) or links.address
        requests = {
            one: {"to": {str(other): [addresses[other], told[other]["port"]] for other in partners(one, sorted(told))}}
            for one in told
        }
        replies = self._cluster.ask("connect", 6 * CONNECT_SECONDS, requests)
        tried = {one: {int(other): said["error"] for other, said in reply.items()} for one, reply in replies.items()}
        # Who is lost meanwhile is told as such; that nobody reaches it then says nothing more.
        gone = self._cluster.leader.lost
        tried = {one: {other: row[other] for other in row if other not in gone} for one, row in tried.items()}
        return nodes_ports.judge(self._labels(), addresses, tried)

    def _clock(self) -> Iterator[Finding]:
        offsets = {0: nodes_clock.Offset(0.0, 0.0)}
        for rank in sorted(self._told()):
            if rank and (offset := clocks.compare(lambda rank=rank: self._time_of(rank))):  # type: ignore[misc]
                offsets[rank] = offset
        if len(offsets) < 2:
            return iter([skipped("no other node tells its time")])
        return nodes_clock.judge(self._labels(), offsets)

    def _time_of(self, rank: int) -> float | None:
        replies = self._cluster.ask("clock", CLOCK_SECONDS, {rank: {}})
        return float(replies[rank]["at"]) if rank in replies else None

    def _same(self) -> Iterator[Finding]:
        return nodes_same.judge(self._labels(), {rank: facts["same"] for rank, facts in self._told().items()})

    def _allreduce(self) -> Iterator[Finding]:
        told = self._told()
        without = [rank for rank, facts in told.items() if not facts["gloo"]]
        if without:
            names = ", ".join(self._labels()[rank] for rank in without)
            return iter([skipped(f"no torch with gloo on {names}")])
        self._found.reduction, findings = all_reduce(self._cluster, self._place, told, self._labels())
        return iter(findings)


def partners(node: int, nodes: list[int]) -> list[int]:
    """To whom a node connects: up to 16 nodes everyone else; beyond, node 0 with everyone, and each with three others.

    The three are 1, 2 and half of all ahead, so that each is also reached from three.
    """
    others = [other for other in nodes if other != node]
    if len(nodes) <= ALL_PAIRS or node == nodes[0]:
        return others
    here, count = nodes.index(node), len(nodes)
    ahead = [nodes[(here + step) % count] for step in (1, 2, count // 2)]
    return [other for other in dict.fromkeys([nodes[0], *ahead]) if other != node]
