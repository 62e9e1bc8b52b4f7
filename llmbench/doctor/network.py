"""What was found out about the network of this machine, and what its variables say of the job that runs on it."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from llmbench.doctor.process import Processes
from llmbench.doctor.runner import Context

LOOKUP_LIMIT = 3.0
"""Seconds; a lookup that takes longer is not waited for."""
DEFAULT_PORT = 29500
OWN_PORTS: set[int] = set()
"""On which this very command listens, as node 0 of several: nobody else has taken them."""

ANSWERS: WeakKeyDictionary[Processes, dict[str, Any]] = WeakKeyDictionary()
"""What each diagnosis found. Times and addresses are no facts that another machine could be compared with."""


def network(context: Context) -> dict[str, Any]:
    return ANSWERS.get(context.processes, {})


def several_machines(context: Context) -> bool:
    """Whether the variables here are those of a job on several machines."""
    environ = context.environ
    world, local = _count(environ.get("WORLD_SIZE")), _count(environ.get("LOCAL_WORLD_SIZE"))
    if world and local:
        return world > local
    if max(_count(environ.get(name)) for name in ("SLURM_NNODES", "SLURM_JOB_NUM_NODES", "PET_NNODES", "NNODES")) > 1:
        return True
    return world > 1 and not is_loopback(environ.get("MASTER_ADDR", "localhost"))


def _count(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name in ("", "localhost", "localhost.localdomain")


def own_address(context: Context) -> tuple[str, str]:
    """Name and address of the interface by which this machine is best known; loopback if there is no other."""
    links = [
        link
        for link in network(context).get("interfaces", [])
        if link["up"] and link["address"] and link["name"] != "lo"
    ]
    virtual = ("docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "podman")
    links.sort(key=lambda link: (link["name"].startswith(virtual), not link["physical"]))
    return (links[0]["name"], links[0]["address"]) if links else ("lo", "127.0.0.1")


def nccl_matches(value: str, names: list[str]) -> list[str]:
    """The names that a list of NCCL selects: prefixes; after ``=`` whole names; after ``^`` all others."""
    exclude, value = value.startswith("^"), value.removeprefix("^")
    exact, value = value.startswith("="), value.removeprefix("=")
    parts = [part.partition(":")[0] for part in value.split(",") if part]
    chosen = [name for name in names if any(name == part if exact else name.startswith(part) for part in parts)]
    return [name for name in names if (name in chosen) != exclude]


def adapters() -> list[str]:
    """Names of the InfiniBand and RoCE adapters."""
    try:
        return sorted(os.listdir("/sys/class/infiniband"))
    except OSError:
        return []


def master_name(context: Context) -> str:
    name = context.environ.get("MASTER_ADDR", "")
    return "" if more_than_a_name(name) else name


def more_than_a_name(name: str) -> bool:
    return bool(re.search(r"[\s/\"'\[\]]|^[^:]*:[^:]*$", name))


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def proxies_of(context: Context) -> dict[str, str]:
    names = [spelling for name in PROXIES for spelling in (name, name.upper())]
    return {name: context.environ[name] for name in names if context.environ.get(name)}


def proxy_host(value: str) -> str | None:
    try:
        return urlsplit(value if "://" in value else f"//{value}").hostname
    except ValueError:
        return None


def without_password(value: str) -> str:
    """A proxy without its user and password."""
    scheme, separator, rest = value.rpartition("://")
    return f"{scheme}{separator}{'***@' if '@' in rest else ''}{rest.rpartition('@')[2]}"
