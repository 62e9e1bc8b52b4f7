"""What an environment is, as far as runs are held against each other: flat, its hardware, and how two differ.

It is read leniently: files may be damaged, and other versions of llmbench wrote other keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HOST = "host.name"
# What says where a job ran, or what changes by itself, and not what trained it.
_PASSING = re.compile(
    r"host\.(load_1min|cpu|cores|cpus_usable|memory_bytes|machine)|devices|python\.(executable|implementation)"
    r"|modes\..*|packages\.torch|torch\.git|job\..*"
    r"|variables\.(SLURM_.*|PET_.*|MASTER_.*|(LOCAL_|GROUP_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|LLMBENCH_.*"
    r"|.*_(DIR|HOME|PATH|CACHE|FILE|PREFIX|ENV)|TMPDIR|PYTHONPATH|CUDA_VISIBLE_DEVICES)"
)
_FIRST = ("torch.version", "torch.cuda", "torch.cudnn", "torch.threads", "driver", "host.kernel", "python.version")
_DECISIVE = ("torch.version", "torch.threads", "torch.cuda", "python.version")
_OF_THE_HOST = ("cpu", "machine", "cores", "cpus_usable")
_PREFIX = re.compile(r"^(packages|variables|host)\.|\.version$")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same; None where it was not there."""

    key: str
    before: str | None
    after: str | None

    @property
    def name(self) -> str:
        return _PREFIX.sub("", self.key)

    def __str__(self) -> str:
        return f"{self.name} {self.before or 'none'} → {self.after or 'none'}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as dotted keys, in their order; an empty one is a value."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat += flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def flat_environment(environment: Mapping[str, Any], llmbench: str | None = None) -> dict[str, str]:
    """Dotted keys and values as text: software, settings and the name of the host, without what hardware there is."""
    flat = {
        key: value if isinstance(value, str) else repr(value)
        for key, value in flatten(environment)
        if value is not None and value != {} and not _PASSING.fullmatch(key)
    }
    return flat | ({"llmbench": llmbench} if llmbench else {})


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    """What of two flat environments is not the same; the host's name last."""
    if before == after:
        return []
    changed = [
        Difference(key, before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    ]
    return sorted(changed, key=lambda one: (one.key == HOST, _rank(one.key), one.key))


def decisive_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What of two environments, as recorded, makes their speeds or losses another's: torch, Python, the devices."""
    return differences(_decisive(before), _decisive(after))


_OF_A_NODE = (
    "torch.version",
    "torch.cuda",
    "torch.cudnn",
    "torch.nccl",
    "torch.threads",
    "driver",
    "host.kernel",
    "host.os",
    "python.version",
)


def facts_of_node(environment: Mapping[str, Any], llmbench: str) -> dict[str, str]:
    """What must be alike on nodes that train together, or at least be known, flat: versions, kernel, hardware."""
    flat = flat_environment(environment, llmbench)
    found = {key: flat[key] for key in (*_OF_A_NODE, "llmbench") if key in flat}
    host, names = _host(environment), [str(device.get("name")) for device in _devices(environment)]
    found |= {f"host.{key}": str(host[key]) for key in _OF_THE_HOST if host.get(key) is not None}
    return found | ({"devices": ", ".join(names)} if names else {})


def _decisive(environment: Mapping[str, Any]) -> dict[str, str]:
    flat = flat_environment(environment)
    found = {key: flat[key] for key in _DECISIVE if key in flat}
    names = ", ".join(str(device.get("name")) for device in _devices(environment))
    return found | ({"devices": names} if names else {})


def _rank(key: str) -> int:
    return _FIRST.index(key) if key in _FIRST else len(_FIRST)


def hardware(device: str, environment: Mapping[str, Any]) -> dict[str, str]:
    """What a machine is made of, as far as speed hangs on it; a host of the same make has the same.

    Args:
        device: the kind that trained, as of the run.
        environment: as recorded; keys that are missing are left out.
    """
    host, names = _host(environment), [device.get("name") for device in _devices(environment)]
    found = {"device": device} | {key: str(host[key]) for key in _OF_THE_HOST if host.get(key) is not None}
    return found | ({"devices": ", ".join(map(str, names))} if names else {})


def other_hardware(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What of two machines is not the same, as ``what: one → other``; a key that one lacks tells nothing."""
    return [f"{key}: {one[key]} → {other[key]}" for key in one if key in other and one[key] != other[key]]


def machines(environment: Mapping[str, Any]) -> dict[str, str]:
    """What a case on each kind of device runs on, by kind, ``cpu`` and ``cuda``: the hardware in a line.

    The host's name is no part of it: containers and clusters give a new one to every job.
    """
    host = _host(environment)
    cpu = str(host.get("cpu") or host.get("machine") or "unknown CPU")
    usable = host.get("cpus_usable") or host.get("cores")
    found = {"cpu": f"{cpu}, {usable} CPUs" if usable else cpu}
    names = [str(device.get("name")) for device in _devices(environment) if device.get("kind") != "cpu"]
    if names:
        counted = {name: names.count(name) for name in sorted(names)}
        found["cuda"] = ", ".join(f"{count}× {name}" for name, count in counted.items()) + f", {cpu}"
    return found


def _host(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    host = environment.get("host")
    return host if isinstance(host, Mapping) else {}


def _devices(environment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = environment.get("devices")
    return [device for device in listed if isinstance(device, Mapping)] if isinstance(listed, list) else []
