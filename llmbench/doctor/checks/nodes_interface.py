"""By which interface each node reaches the others."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.network import nccl_matches
from llmbench.doctor.nodes.words import Labels, named, odd_ones
from llmbench.doctor.runner import Context

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

MISSING = fault(
    "nodes.interface.missing",
    "fail",
    "A variable names an interface that this node does not have",
    cause="interfaces are not called the same on every node: gloo and NCCL find no address there, and fail while the "
    "others wait",
    fix="on <node>: export <variable>=<name>; or unset it on every node, if the host names resolve",
    link="https://docs.pytorch.org/docs/stable/distributed.html#choosing-the-network-interface-to-use",
)
SUBNET = fault(
    "nodes.interface.subnet",
    "warn",
    "A node is in another subnet than the others",
    cause="its traffic goes through a router, or over the network for management: slower, and often filtered",
    fix="ip -brief address on <node>; export GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface in <network>",
)
MTU = fault(
    "nodes.interface.mtu",
    "warn",
    "A node has another MTU than the others",
    cause="packets that are larger than the smallest MTU on the way are cut or dropped: connections are made, and then "
    "hang at the first large message",
    fix="on <node>: ip link set <name> mtu <mtu>; and make it last in the network's configuration",
)


@check("nodes.interface", "Each node uses an interface that leads to the others")
def interface(context: Context) -> Iterator[Finding]:
    """The interface that leads to node 0, or that GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names."""
    yield skipped("asked with --nodes N, by a command on each node")


@dataclass(frozen=True)
class Links:
    """The interfaces of a node.

    Attributes:
        address: by which the other nodes know it.
        interfaces: as the probe ``network`` tells them, each with ``network``: ``10.0.0.0/24`` or None.
        variables: those of ``VARIABLES`` that are set.
        told: whether the node's own checks have told of these variables already.
    """

    address: str
    interfaces: tuple[Mapping[str, Any], ...]
    variables: Mapping[str, str]
    told: bool = False

    def leading(self) -> Mapping[str, Any] | None:
        """The interface that has the address by which the others know this node."""
        return next((link for link in self.interfaces if self.address in addresses(link)), None)

    def chosen(self, variable: str) -> Mapping[str, Any] | None:
        """The interface that a variable chooses; None if there is no such."""
        names = [str(link["name"]) for link in self.interfaces if link["up"]]
        value = self.variables[variable].strip()
        if variable.startswith("NCCL_"):
            matches = nccl_matches(value, names)
        else:
            matches = [name for name in value.split(",") if name in names]
        return next((link for link in self.interfaces if link["name"] in matches), None)

    def used(self) -> Mapping[str, Any] | None:
        """The first that a variable chooses, else the one that leads to the others."""
        chosen = [self.chosen(variable) for variable in VARIABLES if self.variables.get(variable)]
        return next((link for link in chosen if link), self.leading())


def judge(known: Labels, nodes: Mapping[int, Links]) -> Iterator[Finding]:
    """Variables that choose nothing, and who is in another network than most."""
    found = [*_missing(known, nodes), *_subnets(known, nodes), *_mtus(known, nodes)]
    yield from found
    if not found:
        used = {rank: f"{link['name']} {link['network'] or ''}".strip() for rank, link in _used(nodes).items()}
        ways = {way: [rank for rank in used if used[rank] == way] for way in dict.fromkeys(used.values())}
        yield passed("; ".join(f"{way} on {named(ranks, known)}" for way, ranks in ways.items()) or "none is known")


def _used(nodes: Mapping[int, Links]) -> dict[int, Mapping[str, Any]]:
    return {rank: link for rank, node in nodes.items() if (link := node.used()) is not None}


def _missing(known: Labels, nodes: Mapping[int, Links]) -> Iterator[Finding]:
    for rank, node in nodes.items():
        for variable, value in node.variables.items():
            if not node.told and value.strip() and node.chosen(variable) is None:
                leading = node.leading()
                up = ", ".join(str(link["name"]) for link in node.interfaces if link["up"])
                finding = MISSING.found(
                    f"{known[rank]} has {variable}={value}; up are there: {up or 'none'}",
                    node=known[rank],
                    variable=variable,
                    name=leading["name"] if leading else "eth0",
                )
                yield replace(finding, nodes=(rank,))


def _subnets(known: Labels, nodes: Mapping[int, Links]) -> Iterator[Finding]:
    used = _used(nodes)
    networks = {rank: link["network"] for rank, link in used.items() if link["network"]}
    counts = Counter(networks.values())
    most, count = max(counts.items(), key=lambda pair: pair[1], default=(None, 0))
    # Where every node is a subnet of its own, as pods are, that is how it is meant.
    if 2 * count <= len(networks):
        return
    for rank, own in networks.items():
        if own != most:
            finding = SUBNET.found(
                f"{known[rank]} uses {used[rank]['name']} in {own}; most others are in {most}",
                node=known[rank],
                network=most,
            )
            yield replace(finding, nodes=(rank,))


def _mtus(known: Labels, nodes: Mapping[int, Links]) -> Iterator[Finding]:
    used = _used(nodes)
    sizes = {rank: link["mtu"] for rank, link in used.items() if link["mtu"]}
    odd = odd_ones({rank: f"MTU {size}" for rank, size in sizes.items()}, known)
    if odd is None:
        return
    most = Counter(sizes.values()).most_common(1)[0][0]
    first = odd.nodes[0]
    finding = MTU.found(odd.shown, node=named(odd.nodes, known), name=used[first]["name"], mtu=most)
    yield replace(finding, nodes=odd.nodes)


def addresses(link: Mapping[str, Any]) -> list[str]:
    return [address for address in (link["address"], *(link.get("addresses6") or ())) if address]


def network_of(address: str | None, routes: str) -> str | None:
    """The network that an IPv4 address is in, by ``/proc/net/route``: the narrowest that is reached directly."""
    if not address:
        return None
    found = []
    for words in map(str.split, routes.splitlines()[1:]):
        if len(words) > 7 and words[2] == "00000000" and words[7] != "00000000":
            network = ipaddress.ip_network((_address(words[1]), bin(int(words[7], 16)).count("1")), strict=False)
            if ipaddress.ip_address(address) in network:
                found.append(network)
    return str(max(found, key=lambda network: network.prefixlen)) if found else None


def _address(hexadecimal: str) -> str:
    """As the kernel prints it: the bytes in this machine's order."""
    return str(ipaddress.ip_address(bytes.fromhex(hexadecimal)[::-1]))
