"""The facts that a person asks for first, of all that the checks have read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIRST = (
    ("Python", ("python.version",)),
    ("System", ("python.platform",)),
    ("torch", ("torch.version",)),
    ("torch commit", ("torch.git",)),
    ("CUDA of torch", ("torch.cuda",)),
    ("ROCm of torch", ("torch.hip",)),
    ("NVIDIA driver", ("nvidia.driver",)),
    ("numpy", ("torch.numpy.version",)),
    ("C++ compiler", ("compiler.title", "compiler.short")),
    ("CPU kernels", ("torch.cpu_capability",)),
    ("Usable CPUs", ("cpus.usable",)),
)


def first(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of the facts that a bug report begins with; those that were not read are left out."""
    facts = flatten(document.get("facts") or {})
    rows = [("llmbench", document.get("llmbench")), ("Interpreter", document.get("python"))]
    rows += [(name, next((facts[key] for key in keys if facts.get(key)), None)) for name, keys in _FIRST]
    rows += [("Memory", _size(facts.get("memory.total_bytes"))), ("GPUs", _devices(facts.get("devices")))]
    return [(name, str(value)) for name, value in rows if value]


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as dotted keys; what is no dictionary, or an empty one, is a value."""
    flat: dict[str, Any] = {}
    if isinstance(values, Mapping):
        for key, value in values.items():
            if isinstance(value, Mapping) and value:
                flat |= flatten(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = value
    return flat


def _size(value: Any) -> str | None:
    return f"{value / 2**30:.1f} GiB" if isinstance(value, int | float) else None


def _devices(devices: Any) -> str | None:
    """``8 x NVIDIA H100``; of several kinds each."""
    if not isinstance(devices, list):
        return None
    names = [str(device.get("name")) for device in devices if isinstance(device, Mapping)]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or None
