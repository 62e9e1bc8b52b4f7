"""What is between nodes (``doctor --nodes``): here, whether all are there. The rest is in the files beside this one.

Each check is a pure function ``judge`` of what node 0 has gathered; ``llmbench/doctor/nodes/`` gathers it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from llmbench.doctor.checks import (
    nodes_allreduce,
    nodes_clock,
    nodes_host,
    nodes_interface,
    nodes_ports,
    nodes_same,
)
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.nodes.words import Labels, named
from llmbench.doctor.runner import Context

OTHERS = (nodes_host, nodes_interface, nodes_ports, nodes_clock, nodes_same, nodes_allreduce)
"""Files of this area: their checks are registered as they are imported."""

NEVER = fault(
    "nodes.joined.never",
    "fail",
    "A node never joined",
    cause="it was not started, is down, or does not reach node 0: a job on these nodes would wait for it, and fail",
    fix="start llmbench doctor there too, with the same --nodes, --master-addr <address> and --master-port <port>; "
    "what it prints there says why it cannot join",
)
LOST = fault(
    "nodes.joined.lost",
    "fail",
    "A node was lost during the checks",
    cause="its connection to node 0 ended: the node or its llmbench died, was killed, or its network went away",
    fix="look there for what ended it: dmesg -T | tail; journalctl -e; then ask again",
)


@check("nodes.joined", "All nodes are there, and stay")
def joined(context: Context) -> Iterator[Finding]:
    """Every node starts the same command; node 0 waits for the others, and notices when one is gone."""
    yield skipped("asked with --nodes N, by a command on each node")


def judge(
    known: Labels, missing: Sequence[int], lost: Mapping[int, str], address: str, port: int, seconds: float
) -> Iterator[Finding]:
    """Who is not there, or no longer.

    Args:
        known: the nodes that joined.
        missing: ranks of those that did not.
        lost: by rank, how they went.
        address, port: where the others were to join.
        seconds: how long they were waited for.
    """
    if missing:
        who = f"node{'s' if len(missing) > 1 else ''} {named(missing, {rank: str(rank) for rank in missing})}"
        finding = NEVER.found(
            f"{who} of {len(known) + len(missing)} did not join within {seconds:g} s; there: {named(known, known)}",
            address=address,
            port=port,
        )
        yield replace(finding, nodes=tuple(missing))
    for rank, reason in sorted(lost.items()):
        yield replace(LOST.found(f"node {rank} ({known.get(rank, '?')}): {reason}"), nodes=(rank,))
    if not missing and not lost:
        yield passed(f"{len(known)} nodes: {named(known, known)}")
