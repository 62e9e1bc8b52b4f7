"""The all-reduce over all nodes: started on each at once, ended for all soon after one has failed."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.cluster.channel import Reply
from llmbench.cluster.place import Place
from llmbench.doctor.checks.nodes_allreduce import SIZES, STAGES, Rank, judge, rates
from llmbench.doctor.model import Finding
from llmbench.doctor.nodes.cluster import Cluster
from llmbench.doctor.nodes.words import Labels

JOIN_SECONDS = 120.0
COLLECTIVE_SECONDS = 30.0
GRACE_SECONDS = 5.0
DEADLINE = JOIN_SECONDS + 3 * COLLECTIVE_SECONDS


@dataclass(frozen=True)
class Reduction:
    """What was timed.

    Attributes:
        backend: ``gloo`` or ``nccl``.
        ranks: how many took part.
        rates: of each size, ``bytes``, ``seconds`` and ``busbw``; none if it failed.
    """

    backend: str
    ranks: int
    rates: list[dict[str, float]]


def all_reduce(
    cluster: Cluster, place: Place, told: Mapping[int, Mapping[str, Any]], known: Labels
) -> tuple[Reduction, list[Finding]]:
    """Runs it on the nodes that told of themselves, and judges it."""
    backend, counts = processes(told, place.nproc_per_node)
    jobs, first = {}, 0
    port = _free_port()
    for rank in sorted(told):
        jobs[rank] = {
            "first": first,
            "count": counts[rank],
            "world_size": sum(counts.values()),
            "address": place.master_addr,
            "port": port,
            "backend": backend,
            "sizes": list(SIZES),
            "stages": list(STAGES),
            "join_seconds": JOIN_SECONDS * cluster.patience,
            "timeout": COLLECTIVE_SECONDS * cluster.patience,
        }
        first += counts[rank]
    replies = _run(cluster, jobs)
    ranks = [rank for node, job in jobs.items() for rank in ranks_of(node, job, replies.get(node))]
    findings = [*judge(known, backend, ranks)]
    done = all(rank.done for rank in ranks)
    return Reduction(backend, len(ranks), rates(ranks) if done else []), findings


def processes(told: Mapping[int, Mapping[str, Any]], nproc_per_node: int | None) -> tuple[str, dict[int, int]]:
    """The backend, and how many ranks each node has: one for each GPU where every node has some, else one.

    Fewer where there are fewer GPUs than ``nproc_per_node``; on CPUs just as many.
    """
    devices = {rank: facts["devices"] for rank, facts in told.items()}
    if all(devices.values()):
        return "nccl", {rank: min(count, nproc_per_node or count) for rank, count in devices.items()}
    return "gloo", dict.fromkeys(told, nproc_per_node or 1)


def _run(cluster: Cluster, jobs: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The replies by node. Once a node has failed, the others are ended: they could only wait for it."""
    seconds = DEADLINE * cluster.patience
    asking = cluster.start("all-reduce", {node: {"job": job, "seconds": seconds} for node, job in jobs.items()})
    # A process that waits for a CPU gets up to three times as long.
    until = time.monotonic() + 4 * seconds
    while not asking.poll(0.2) and not any(_failed(reply) for reply in list(asking.replies.values())):
        if time.monotonic() > until:
            break
    # Time for those who lose their connection by it to say so themselves.
    until = time.monotonic() + GRACE_SECONDS
    while not asking.poll(0.2) and time.monotonic() < until:
        pass
    stopped = [node for node in jobs if node not in asking.replies]
    if stopped:
        cluster.ask("stop", 10.0, {node: {} for node in stopped})
    replies = cluster.values("all-reduce", asking.wait(30.0))
    return {node: reply | {"stopped": node in stopped} for node, reply in replies.items()}


def _failed(reply: Reply) -> bool:
    return reply.value is None or not reply.value["ok"] or _raised(reply.value)


def _raised(reply: Mapping[str, Any]) -> bool:
    return any("error" in rank or "signal" in rank for rank in reply["ranks"].values())


def ranks_of(node: int, job: Mapping[str, Any], reply: Mapping[str, Any] | None) -> list[Rank]:
    """How the ranks of a node fared; a node that is lost has not begun."""
    found = []
    for number in range(job["first"], job["first"] + job["count"]):
        told = ((reply or {}).get("ranks") or {}).get(str(number), {})
        at = told.get("at", STAGES[0])
        error, signal, stopped = told.get("error"), told.get("signal"), bool((reply or {}).get("stopped"))
        if reply and not stopped and not reply["timed_out"] and at in STAGES[:2] and not error:
            signal = signal or reply["signal"]
            error = None if signal or reply["ok"] else reply["words"] or reply["ending"]
        seconds = {int(size): value for size, value in (told.get("seconds") or {}).items()}
        name = f"signal {signal}" if isinstance(signal, int) else signal
        found.append(Rank(node, at, error, name, stopped, told.get("wrong"), seconds))
    return found


def _free_port() -> int:
    """Of node 0, where the ranks will meet."""
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
    return port
