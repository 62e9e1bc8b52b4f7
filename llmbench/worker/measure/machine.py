"""Facts of the environment that only torch can tell; the control side adds the rest to the fingerprint."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

import torch

from llmbench.worker.device import Device
from llmbench.worker.events import Events
from llmbench.worker.measure.memory import host_memory
from llmbench.worker.modes import missing
from llmbench.worker.modes.compile import CXX

PACKAGES = ("torch", "numpy", "triton", "nvidia-ml-py", "transformers", "peft", "torchao", "flash-attn")


def describe_machine(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Python, torch and devices of this interpreter, and which of ``job["modes"]`` it lacks what they need."""
    device = Device(job["device"])
    return {
        "device": device.kind,
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
        },
        "torch": {
            "version": torch.__version__,
            "git": torch.version.git_version,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": _nccl(device),
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "compiler": os.environ.get("CXX") or next(filter(None, map(shutil.which, CXX)), None),
        },
        "devices": _devices(device),
        "modes": _modes(device, job.get("modes", [])),
        "packages": _every_package() if job.get("every_package") else _packages(),
    }


def _packages() -> dict[str, str]:
    return {name: version for name in PACKAGES if (version := _version(name))}


def _every_package() -> dict[str, str]:
    """All that is installed; of two of one name the one that is imported, as it is found first."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if name := one.metadata["Name"]:
            found.setdefault(name, one.version)
    return dict(sorted(found.items()))


def _nccl(device: Device) -> str | None:
    """The version of NCCL; None where torch has none, and on CPUs, which do not use it."""
    if not device.cuda:
        return None
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError):
        return None


def _modes(device: Device, names: list[str]) -> dict[str, str | None]:
    """What each ingredient of modes lacks here; of attention kernels, beside bf16."""
    return {name: missing(name, device, [name, "bf16"]) for name in names}


def _devices(device: Device) -> list[dict[str, Any]]:
    if not device.cuda:
        return [{"kind": "cpu", "name": platform.processor() or platform.machine(), "memory_bytes": host_memory()}]
    described = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        described.append(
            {
                "kind": "cuda",
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
                "uuid": str(properties.uuid),
                "multiprocessors": properties.multi_processor_count,
            }
        )
    return described


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
