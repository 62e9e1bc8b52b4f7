"""Memory: what torch's allocator, the device and the operating system each say."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

from llmbench.worker.device import Device

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MemoryMeter:
    """Starts before the model is built; ``read`` tells the peaks since."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._start = resident()
        if device.cuda:
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> dict[str, int | None]:
        """Bytes by kind; None for what the device does not know."""
        values: dict[str, int | None] = {
            "peak_allocated_bytes": None,
            "peak_reserved_bytes": None,
            "peak_rss_bytes": _peak_resident(),
            "device_used_bytes": None,
            "start_rss_bytes": self._start,
            "capacity_bytes": host_memory(),
        }
        if self._device.cuda:
            free, total = torch.cuda.mem_get_info()
            values["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
            values["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
            values["device_used_bytes"] = total - free
            values["capacity_bytes"] = total
        return values


def host_memory() -> int:
    """Bytes that this process may use: the machine's, or its cgroup's where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue  # the other version of cgroups, or none
        if text.isdigit():  # "max" is no limit
            limits.append(int(text))
    return min(limits)


def resident() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None  # no /proc: the peak below comes from getrusage
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
