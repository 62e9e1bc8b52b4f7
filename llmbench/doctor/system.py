"""What Linux tells of this machine: CPU, memory, limits, devices. What cannot be read is None or empty, no error."""

from __future__ import annotations

import os
from pathlib import Path


def read(path: str | Path) -> str | None:
    """Text of a small file of /proc or /sys; None where there is none or it may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def cpu_flags() -> set[str]:
    """Features of the first CPU, in Linux's spelling."""
    for line in (read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory() -> dict[str, int]:
    """Bytes by the names of /proc/meminfo."""
    found = {}
    for line in (read("/proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            found[name] = int(number[0]) * 1024
    return found


def cgroup_cpus() -> float | None:
    """CPUs that the control group's quota allows; None without a quota. Reads version 2 and version 1."""
    quotas = []
    for folder in _cgroup_folders("cpu"):
        both = (read(folder / "cpu.max") or "").split()
        old = [read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")]
        quota, period = both if len(both) == 2 else ((old[0] or "").strip(), (old[1] or "").strip())
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cgroup_memory() -> int | None:
    """Bytes that the control group allows; None without a limit."""
    limits = []
    physical = memory().get("MemTotal")
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = (read(folder / name) or "").strip()
            # Version 1 spells "no limit" as a number beyond all memory.
            if text.isdigit() and (physical is None or int(text) < physical):
                limits.append(int(text))
    return min(limits, default=None)


def _cgroup_folders(controller: str) -> list[Path]:
    """The group of this process and all above it: the tightest limit on the way counts."""
    folders: list[Path] = []
    for line in (read("/proc/self/cgroup") or "0::/").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup", *([controller] if controllers else []))
        here = root / path.lstrip("/")
        # Inside a container the path may be the host's, of which only the root is mounted.
        above = [parent for parent in here.parents if parent == root or root in parent.parents]
        folders += [here, *above]
    return folders
