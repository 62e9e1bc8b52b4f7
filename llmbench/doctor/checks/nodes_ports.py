"""Whether the nodes can connect to each other, on ports that nobody opened before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.nodes.words import Labels, named
from llmbench.doctor.runner import Context

_RANGE = "all TCP ports above 1024 between the nodes: gloo, NCCL and the rendezvous of each case use ports that the "
_OPEN = f"open {_RANGE}system chooses (nft list ruleset; security groups in a cloud; NetworkPolicy in Kubernetes)"

TAKEN = fault(
    "nodes.ports.taken",
    "fail",
    "The port where the nodes shall meet is in use on node 0",
    cause="another program, or an llmbench or torchrun of before, listens there: the nodes cannot join, or join that",
    fix="ss -ltnp 'sport = :<port>' shows who; end it, or give every node another --master-port",
)
INBOUND = fault(
    "nodes.ports.inbound",
    "fail",
    "No node can connect to a node",
    cause="a firewall there, or in front of it, drops or refuses connections: its ranks are never reached, and all "
    "wait until they time out",
    fix=f"on <node>: {_OPEN}",
)
OUTBOUND = fault(
    "nodes.ports.outbound",
    "fail",
    "A node can connect to no other node",
    cause="its firewall, route or network policy keeps it from it: its ranks reach nobody, and all wait until "
    "they time out",
    fix=f"on <node>: ip route get <address>; {_OPEN}",
)
PAIR = fault(
    "nodes.ports.pair",
    "fail",
    "Two nodes cannot connect to each other",
    cause="a firewall, a route or a switch between them: the ring or tree of a collective has to cross it, and hangs",
    fix=f"between <node> and <other>: {_OPEN}",
)


@check("nodes.ports", "The nodes can connect to each other", deadline=60)
def ports(context: Context) -> Iterator[Finding]:
    """On a fresh port of each; up to 16 nodes all pairs both ways, beyond that to and from node 0 and to three each."""
    yield skipped("asked with --nodes N, by a command on each node")


Tried = Mapping[int, Mapping[int, str | None]]
"""By who connects, and to whom: why it failed; None if it did not."""


def judge(known: Labels, addresses: Mapping[int, str], tried: Tried) -> Iterator[Finding]:
    """The nodes that nobody reaches, or that reach nobody; what is left, by pair."""
    failed = {(one, other): error for one, row in tried.items() for other, error in row.items() if error}
    if not failed:
        yield passed(f"{sum(map(len, tried.values()))} connections, on fresh ports")
        return
    for node in known:
        inbound = {pair for pair in failed if pair[1] == node}
        if len(inbound) > 1 and len(inbound) == sum(node in row for row in tried.values()):
            yield _of_node(INBOUND, node, "connections to", failed, inbound, known, addresses)
    for node in known:
        outbound = {pair for pair in failed if pair[0] == node}
        if len(outbound) > 1 and len(outbound) == len(tried.get(node, {})):
            yield _of_node(OUTBOUND, node, "connections from", failed, outbound, known, addresses)
    for one, other in sorted(failed):
        error = failed.pop((one, other), None)
        if error is None:
            continue
        back = failed.pop((other, one), None)
        works = one in tried.get(other, {}) and tried[other][one] is None
        both = f"; nor back: {back}" if back else "; back it works" * works
        finding = PAIR.found(
            f"{known[one]} to {known[other]} ({addresses.get(other, '?')}): {error}{both}",
            node=known[one],
            other=known[other],
        )
        yield replace(finding, nodes=(one, other))


def _of_node(
    fault: Fault,
    node: int,
    words: str,
    failed: dict[tuple[int, int], str],
    pairs: set[tuple[int, int]],
    known: Labels,
    addresses: Mapping[int, str],
) -> Finding:
    """Blames one node for these pairs, which are then explained."""
    others = {one if other == node else other for one, other in pairs}
    errors = list(dict.fromkeys(failed.pop(pair) for pair in sorted(pairs)))
    way = "from" if fault is INBOUND else "to"
    evidence = f"{words} {known[node]} ({addresses.get(node, '?')}) {way} {named(others, known)}: {'; '.join(errors)}"
    finding = fault.found(evidence, node=known[node], address=addresses.get(min(others), "ADDRESS"))
    return replace(finding, nodes=(node,))
