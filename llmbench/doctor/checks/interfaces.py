"""Interfaces: the variables that name them, and whether this machine reaches its own addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_devices
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.network import (
    adapters,
    nccl_matches,
    network,
    own_address,
    several_machines,
)
from llmbench.doctor.runner import Context

NO_INTERFACE = fault(
    "network.interfaces.missing",
    "fail",
    "A variable names an interface that does not exist",
    cause="<user> finds no socket interface by that name, and fails: '<error>'",
    fix="unset <variable>, or set it to a name that ip -brief link shows: <names>",
    link="https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html",
)
IS_ADDRESS = fault(
    "network.interfaces.address",
    "fail",
    "A variable that wants an interface's name has an address",
    cause="<user> wants the name of an interface of this machine, such as lo or eth0, and fails: '<error>'",
    fix="export <variable>=<name>",
    link="https://docs.pytorch.org/docs/stable/distributed.html#choosing-the-network-interface-to-use",
)
DOWN_INTERFACE = fault(
    "network.interfaces.down",
    "fail",
    "A variable names an interface that is down or has no address",
    cause="<user> cannot use it, and fails: '<error>'",
    fix="ip link set <interface> up, and give it an address; or unset <variable>, or set it to one of: <names>",
)
LOCAL_INTERFACE = fault(
    "network.interfaces.local",
    "fail",
    "A variable names an interface that other machines cannot reach",
    cause="<user> tells its address to the other machines of this job, which cannot reach it: the ranks hang",
    fix="export <variable>=<name>, or unset it",
)
NO_ADAPTER = fault(
    "network.interfaces.adapter",
    "warn",
    "A variable names an InfiniBand adapter that does not exist",
    cause="<user> finds none of them, and uses sockets instead, which are many times slower, or fails",
    fix="unset <variable>, or set it to names that ibv_devices shows: <adapters>",
    link="https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html",
)

# Variable, who reads it, what it says when it finds nothing.
_BY_NAME = (
    ("GLOO_SOCKET_IFNAME", "gloo", "Unable to find address for: <interface>"),
    ("TP_SOCKET_IFNAME", "torch.distributed.rpc", "no address found for interface <interface>"),
    ("NCCL_SOCKET_IFNAME", "NCCL", "Bootstrap : no socket interface found"),
    ("NCCL_OOB_NET_IFNAME", "NCCL", "Bootstrap : no socket interface found"),
)
_BY_ADAPTER = (("NCCL_IB_HCA", "NCCL"), ("UCX_NET_DEVICES", "UCX"))


@check("network.interfaces", "Variables name interfaces that exist", needs=("network.loopback",))
def interfaces(context: Context) -> Iterator[Finding]:
    links = {link["name"]: link for link in network(context).get("interfaces", [])}
    given = [row for row in _BY_NAME if context.environ.get(row[0], "").strip()]
    found = [*(f for row in given for f in _interface(context, links, *row)), *_adapters(context, links)]
    yield from found
    if not found:
        shown = ", ".join(f"{row[0]}={context.environ[row[0]]}" for row in given)
        names = ", ".join(
            f"{name} {link['address'] or 'without address'}" for name, link in links.items() if link["up"]
        )
        yield passed(f"{shown or 'no variable names one'}; up are: {names or 'none'}")


def _interface(context: Context, links: Mapping[str, Any], variable: str, user: str, error: str) -> Iterator[Finding]:
    value = context.environ[variable].strip()
    usable = [name for name, link in links.items() if link["up"] and (link["address"] or link["addresses6"])]
    best = own_address(context)[0]
    by_nccl = variable.startswith("NCCL_")
    verdict: Literal["warn"] | None = (
        "warn" if variable == "TP_SOCKET_IFNAME" or (by_nccl and not nvidia_devices()) else None
    )
    plain = [part for part in value.lstrip("^=").split(",") if part]
    texts = {"variable": variable, "names": ", ".join(usable), "name": best, "user": user}
    texts |= {
        "error": error.replace("<interface>", plain[0] if plain else value),
        "interface": plain[0] if plain else value,
    }
    addresses = [part for part in plain if _is_address(part)]
    if addresses:
        owner = next((name for name, link in links.items() if link["address"] == addresses[0]), best)
        evidence = f"{variable}={value}: {addresses[0]} is an address, not the name of an interface"
        yield IS_ADDRESS.found(evidence, verdict=verdict, **texts | {"name": owner})
        return
    chosen = nccl_matches(value, list(links)) if by_nccl else [part for part in plain if part in links]
    missing = [part for part in plain if part not in links] if not by_nccl else []
    if not chosen or missing:
        what = " matches no interface" if by_nccl else f": interface {', '.join(missing)} does not exist"
        evidence = f"{variable}={value}{what}; there are {', '.join(links)}"
        yield NO_INTERFACE.found(evidence, verdict=verdict, **texts)
    elif not set(chosen) & set(usable):
        state = "down" if not links[chosen[0]]["up"] else "up, but has no address"
        evidence = f"{variable}={value}: interface {chosen[0]} is {state}"
        yield DOWN_INTERFACE.found(evidence, verdict=verdict, **texts | {"interface": chosen[0]})
    elif several_machines(context) and all(name == "lo" or name.startswith(("docker", "virbr")) for name in chosen):
        evidence = (
            f"{variable}={value} in a job of several machines (WORLD_SIZE={context.environ.get('WORLD_SIZE', '?')})"
        )
        yield LOCAL_INTERFACE.found(evidence, verdict=verdict, **texts)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        return bool(re.fullmatch(r"\d+(\.\d+){3}(:\d+)?", text))
    return True


def _adapters(context: Context, links: Mapping[str, Any]) -> Iterator[Finding]:
    there = adapters()
    for variable, user in _BY_ADAPTER:
        value = context.environ.get(variable, "").strip()
        if not value or value in ("all", "^") or (variable == "UCX_NET_DEVICES" and "all" in value.split(",")):
            continue
        names = [*there, *links] if variable == "UCX_NET_DEVICES" else there
        if not nccl_matches(value, names) and not (value.startswith("^") and not names):
            evidence = (
                f"{variable}={value} matches none of: {', '.join(names) or 'no adapter in /sys/class/infiniband'}"
            )
            yield NO_ADAPTER.found(
                evidence, variable=variable, user=user, adapters=", ".join(names) or "there are none"
            )


NO_LINK = fault(
    "network.links.none",
    "fail",
    "There is no network for a job on several machines",
    cause="no interface but loopback is up and has an address: the other machines cannot be reached",
    fix="ip -brief address; in a container: docker run --network host; Kubernetes: hostNetwork, or attach the network",
)
BLOCKED = fault(
    "network.links.blocked",
    "fail",
    "This machine cannot connect to its own address",
    cause="a firewall or a policy route drops it: gloo and torchrun use the address of the host name even between "
    "processes "
    "of one machine, and hang",
    fix="iptables -I INPUT -i lo -j ACCEPT (nft list ruleset, ip rule show what drops it), or export "
    "GLOO_SOCKET_IFNAME=lo",
)
SLOW_LINK = fault(
    "network.links.slow",
    "warn",
    "The network of a job on several machines is slow",
    cause="gradients of every step go over it: at 1 Gb/s, those of a model with 1e9 parameters take half a minute",
    fix="export GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to a faster interface, if ethtool shows one",
)


@check("network.links", "This machine reaches its own addresses", needs=("network.loopback",))
def links(context: Context) -> Iterator[Finding]:
    found = network(context)
    up = [link for link in found.get("interfaces", []) if link["up"] and link["address"] and link["name"] != "lo"]
    fine = True
    for link in up:
        error = found.get("own", {}).get(link["name"], "no answer in time")
        if error:
            fine = False
            yield BLOCKED.found(f"connecting to {link['address']}, the address of {link['name']} here: {error}")
    if several_machines(context) and not up:
        fine = False
        yield NO_LINK.found(f"WORLD_SIZE={context.environ.get('WORLD_SIZE', '?')}, but only loopback is up")
    speeds = [link["speed"] for link in up if link["physical"] and (link["speed"] or 0) > 0]
    if several_machines(context) and speeds and max(speeds) <= 1000 and not adapters():
        fine = False
        yield SLOW_LINK.found(f"the fastest interface has {max(speeds)} Mb/s (/sys/class/net/*/speed)")
    if fine:
        shown = ", ".join(f"{link['name']} {link['address']} MTU {link['mtu']}" for link in up)
        routes = ", ".join(f"{name} (metric {metric})" for name, metric in found.get("routes", []))
        yield passed(f"{shown or 'only loopback'}; default route: {routes or 'none'}")
