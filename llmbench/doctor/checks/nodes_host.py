"""The names of the nodes, as each of the others sees them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.nodes.words import Labels, named
from llmbench.doctor.runner import Context

_HOSTS = "the same lines in /etc/hosts of every node, or DNS; getent hosts <name> shows what a node sees"

TWICE = fault(
    "nodes.host.twice",
    "fail",
    "Several nodes have the same host name",
    cause="ranks tell each other where they are by host names: some would look for the others at themselves, and wait "
    "until they time out; or the command was started twice on one machine",
    fix="give each its own name: hostnamectl set-hostname NAME; or start the command once on each machine",
)
UNRESOLVED = fault(
    "nodes.host.unresolved",
    "warn",
    "The name of a node does not resolve on other nodes",
    cause="what is told this name and not an address (MASTER_ADDR, torchrun's rendezvous, SLURM's host lists) does not "
    "find the node: 'client socket has timed out'",
    fix=_HOSTS,
)
ELSEWHERE = fault(
    "nodes.host.elsewhere",
    "fail",
    "The name of a node leads to another machine",
    cause="a stale or wrong line in /etc/hosts or DNS, or a host name that is another machine's: ranks look for this "
    "node there, and wait until they time out",
    fix=f"hostname on <node> and the address of <name> have to fit: {_HOSTS}",
)
LOOPBACK = fault(
    "nodes.host.loopback",
    "fail",
    "The name of a node resolves to a loopback address",
    cause="gloo and torchrun tell the address of the host name to the other nodes, which then look for this node at "
    "themselves, and time out",
    fix="in /etc/hosts of <node>, take <name> out of the line of 127.0.0.1 or 127.0.1.1, and give it the node's "
    "address; until then: export GLOO_SOCKET_IFNAME=<interface>",
)

_ORDER = (ELSEWHERE, LOOPBACK, UNRESOLVED)


@check("nodes.host", "Each node's name leads to it", deadline=60)
def host(context: Context) -> Iterator[Finding]:
    """Every node looks up the names of the others and its own; up to 16 nodes all of them, beyond that some each."""
    yield skipped("asked with --nodes N, by a command on each node")


@dataclass(frozen=True)
class Node:
    """What is known of a node's place in the network.

    Attributes:
        host: its host name, as it tells itself.
        machine: the same for two nodes only if they are one machine.
        addresses: of its interfaces.
        interface: the one that leads to the other nodes.
        by_interface: whether gloo is told its interface there, and so does not look up the name.
    """

    host: str
    machine: str
    addresses: tuple[str, ...]
    interface: str = "eth0"
    by_interface: bool = False


Seen = Mapping[int, Mapping[int, Mapping[str, Any]]]
"""By observer and subject: ``addresses``, ``error`` of the lookup, ``answered``: rank of who answers there."""


def judge(known: Labels, nodes: Mapping[int, Node], seen: Seen) -> Iterator[Finding]:
    """Whose name leads astray, or who looks it up wrongly."""
    found = [*_twice(known, nodes, seen), *_astray(known, nodes, seen)]
    yield from found
    if not found:
        yield passed(f"{sum(map(len, seen.values()))} lookups lead to the right nodes")


def _twice(known: Labels, nodes: Mapping[int, Node], seen: Seen) -> Iterator[Finding]:
    for name in dict.fromkeys(node.host for node in nodes.values()):
        ranks = [rank for rank, node in nodes.items() if node.host == name]
        if len(ranks) < 2:
            continue
        evidence = f"{named(ranks, known)} call themselves {name}"
        if len({nodes[rank].machine for rank in ranks}) == 1:
            yield replace(TWICE.found(f"{evidence}, and are one machine", verdict="warn"), nodes=tuple(ranks))
            continue
        led = {address for names in seen.values() for rank in ranks for address in _addresses(names.get(rank))}
        rightful = [rank for rank in ranks if led & {a for a in nodes[rank].addresses if not _is_loopback(a)}]
        liars = [rank for rank in ranks if rank not in rightful] if rightful else ranks
        leads = f"; the name leads to {named(rightful, known)}" if rightful else ""
        yield replace(TWICE.found(f"{evidence}, on different machines{leads}"), nodes=tuple(liars))


def _addresses(answer: Mapping[str, Any] | None) -> list[str]:
    return list((answer or {}).get("addresses") or ())


def _astray(known: Labels, nodes: Mapping[int, Node], seen: Seen) -> Iterator[Finding]:
    wrong: dict[int, dict[int, tuple[Fault, str]]] = {}
    for observer, names in seen.items():
        for subject, answer in names.items():
            verdict = _wrong(observer, subject, answer, nodes, known)
            if verdict and not _shared(subject, nodes):
                wrong.setdefault(subject, {})[observer] = verdict
    if len(nodes) > 1 and set(wrong) == set(nodes) and all(_only_unknown(rank, wrong[rank]) for rank in wrong):
        texts = [text for views in wrong.values() for _, text in views.values()]
        evidence = f"{named(nodes, known)}: the names resolve only on their own nodes; elsewhere each {texts[0]}"
        yield replace(UNRESOLVED.found(evidence, name=nodes[min(nodes)].host), nodes=tuple(nodes))
        return
    # Whose name is wrong for itself or for all others is at fault; else who sees it wrongly.
    for subject, views in wrong.items():
        others = {observer for observer, names in seen.items() if subject in names and observer != subject}
        if subject in views or (len(others) > 1 and others <= set(views)):
            yield _of_subject(subject, views, nodes, known)
        else:
            yield from (_of_observer(observer, subject, view, nodes, known) for observer, view in views.items())


def _only_unknown(subject: int, views: Mapping[int, tuple[Fault, str]]) -> bool:
    """Whether the name is known on its own node alone, as that of a pod is."""
    return subject not in views and all(fault is UNRESOLVED for fault, _ in views.values())


def _shared(subject: int, nodes: Mapping[int, Node]) -> bool:
    """Whether the name is that of several nodes, which is told already."""
    return sum(node.host == nodes[subject].host for node in nodes.values()) > 1


def _wrong(
    observer: int, subject: int, answer: Mapping[str, Any], nodes: Mapping[int, Node], known: Labels
) -> tuple[Fault, str] | None:
    """What is wrong with what one node sees of another, and how it shows."""
    addresses = _addresses(answer)
    if not addresses:
        return UNRESOLVED, f"does not resolve ({answer.get('error') or 'no answer in time'})"
    if answer.get("answered") == subject and observer != subject:
        return None
    outward = [address for address in addresses if not _is_loopback(address)]
    if set(outward) & set(nodes[subject].addresses):
        return None
    if not outward:
        return LOOPBACK, f"is {addresses[0]}"
    owner = next((rank for rank, node in nodes.items() if outward[0] in node.addresses), None)
    whose = f"which is {known[owner]}'s" if owner is not None else "which no node here has"
    return ELSEWHERE, f"is {outward[0]}, {whose}"


def _of_subject(
    subject: int, views: Mapping[int, tuple[Fault, str]], nodes: Mapping[int, Node], known: Labels
) -> Finding:
    worst = min((fault for fault, _ in views.values()), key=_ORDER.index)
    texts: dict[str, list[int]] = {}
    for observer, (_, text) in sorted(views.items()):
        texts.setdefault(text, []).append(observer)
    node = nodes[subject]
    seen = "; ".join(f"{text}, seen from {named(observers, known)}" for text, observers in texts.items())
    has = ", ".join(address for address in node.addresses if not _is_loopback(address)) or "no address"
    verdict: Literal["fail", "warn"] | None = None
    if worst is LOOPBACK and node.by_interface:
        verdict = "warn"
    elif worst is UNRESOLVED and subject in views and not node.by_interface:
        verdict = "fail"  # gloo then uses loopback
    finding = worst.found(
        f"the name {node.host} of node {subject} {seen}; it has {has}",
        verdict=verdict,
        node=known[subject],
        name=node.host,
        interface=node.interface,
    )
    return replace(finding, nodes=(subject,))


def _of_observer(
    observer: int, subject: int, view: tuple[Fault, str], nodes: Mapping[int, Node], known: Labels
) -> Finding:
    fault, text = view
    finding = fault.found(
        f"on {known[observer]} the name {nodes[subject].host} {text}; elsewhere it is right",
        node=known[observer],
        name=nodes[subject].host,
        interface=nodes[observer].interface,
    )
    return replace(finding, nodes=(observer,))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
