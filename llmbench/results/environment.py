"""Environments of runs, flat, and what changed from one to another, what matters most first."""

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


def flat_environment(environment: Mapping[str, Any], llmbench: str | None = None) -> dict[str, str]:
    """Dotted keys and values as text: software, settings and the name of the host, without what hardware there is."""
    flat: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = list(environment.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}", inner) for name, inner in value.items()]
        elif value is not None and not _PASSING.fullmatch(key):
            flat[key] = value if isinstance(value, str) else repr(value)
    if llmbench:
        flat["llmbench"] = llmbench
    return flat


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


def _rank(key: str) -> int:
    return _FIRST.index(key) if key in _FIRST else len(_FIRST)


def hardware(environment: Mapping[str, Any]) -> dict[str, str]:
    """What a case on each kind of device runs on, by kind: ``cpu`` and ``cuda``.

    The host's name is no part of it: containers and clusters give a new one to every job.
    """
    host = environment.get("host")
    host = host if isinstance(host, dict) else {}
    cpu = str(host.get("cpu") or host.get("machine") or "unknown CPU")
    usable = host.get("cpus_usable") or host.get("cores")
    found = {"cpu": f"{cpu}, {usable} CPUs" if usable else cpu}
    listed = environment.get("devices")
    names = [
        str(device.get("name"))
        for device in (listed if isinstance(listed, list) else [])
        if isinstance(device, dict) and device.get("kind") != "cpu"
    ]
    if names:
        counted = {name: names.count(name) for name in sorted(names)}
        found["cuda"] = ", ".join(f"{count}× {name}" for name, count in counted.items()) + f", {cpu}"
    return found
