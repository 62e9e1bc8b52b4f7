"""What Linux tells of this machine: CPU, memory, limits, devices. What cannot be read is None or empty, no error."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/")
"""Below which /proc, /sys and /dev are looked for."""


def read(path: str | Path) -> str | None:
    """Text of a small file of /proc or /sys; None where there is none or it may not be read."""
    try:
        return _rooted(path).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


def number(path: str | Path) -> int | None:
    """The whole number that a file holds; None if it holds anything else, such as ``max``."""
    text = (read(path) or "").strip()
    return int(text) if text.lstrip("-").isascii() and text.lstrip("-").isdigit() else None


def table(path: str | Path) -> dict[str, int]:
    """Numbers by name, from a file with ``name number`` or ``name: number`` on each line."""
    found = {}
    for line in (read(path) or "").splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isascii() and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1])
    return found


def folder(path: str | Path) -> list[str]:
    """Names in a folder, sorted; none if it cannot be read."""
    try:
        return sorted(os.listdir(_rooted(path)))
    except (OSError, ValueError):
        return []


def mounted(path: str) -> bool:
    """Whether there is anything in ``/proc`` or ``/sys``."""
    return bool(folder(path))


def cpu_list(text: str | None) -> set[int]:
    """The CPUs of ``0-3,8``, as Linux writes them."""
    found: set[int] = set()
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        if first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit())):
            found.update(range(int(first), min(int(last or first), int(first) + 8192) + 1))
    return found


def cpu_info() -> dict[str, str]:
    """What /proc/cpuinfo says of the first CPU, by Linux's names."""
    found: dict[str, str] = {}
    for line in (read("/proc/cpuinfo") or "").splitlines():
        name, colon, value = line.partition(":")
        if not colon and found:
            break
        found[name.strip()] = value.strip()
    return found


def cpu_flags() -> set[str]:
    """Features of the first CPU, in Linux's spelling."""
    info = cpu_info()
    return set((info.get("flags") or info.get("Features") or "").split())


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory() -> dict[str, int]:
    """Bytes by the names of /proc/meminfo."""
    found = {}
    for line in (read("/proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isascii() and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def pressure(resource: str) -> dict[str, float]:
    """Share of the last minute, in percent, in which ``some`` or all (``full``) tasks waited for cpu, memory or io."""
    found = {}
    for line in (read(f"/proc/pressure/{resource}") or "").splitlines():
        kind, *fields = line.split() or [""]
        for name, _, value in (field.partition("=") for field in fields):
            if name == "avg60":
                found[kind] = _float(value)
    return found


def ancestors() -> list[str] | None:
    """Command lines of the processes above this one, nearest first; None where /proc does not tell.

    Of processes of another namespace nothing is known: the list then ends early.
    """
    found: list[str] = []
    pid = os.getppid()
    if not mounted("/proc"):
        return None
    while pid > 0 and len(found) < 64:
        status = read(f"/proc/{pid}/status")
        if status is None:
            return None
        found.append((read(f"/proc/{pid}/cmdline") or "").replace("\0", " ").strip())
        parents = [line.split()[1] for line in status.splitlines() if line.startswith("PPid:")]
        pid = int(parents[0]) if parents and parents[0].isdigit() else 0
    return found


# --- control groups


def cgroup_cpus() -> float | None:
    """CPUs that the control group's quota allows; None without a quota. Reads version 2 and version 1."""
    quotas = []
    for group in cgroup_folders("cpu"):
        both = (read(group / "cpu.max") or "").split()
        old = [read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")]
        quota, period = both if len(both) == 2 else ((old[0] or "").strip(), (old[1] or "").strip())
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cgroup_throttled() -> tuple[int, int] | None:
    """In how many of how many periods the quota stopped this group; None if nothing counts."""
    for group in cgroup_folders("cpu")[:1]:
        counts = table(group / "cpu.stat")
        if counts.get("nr_periods"):
            return counts.get("nr_throttled", 0), counts["nr_periods"]
    return None


def cgroup_memory() -> int | None:
    """Bytes that the control group allows; None without a limit."""
    return min((limit for _, limit in _memory_limits()), default=None)


def cgroup_memory_used() -> int | None:
    """Bytes that the group with the tightest limit uses and that the kernel cannot take back at once."""
    limits = sorted(_memory_limits(), key=lambda pair: pair[1])
    for group, _ in limits[:1]:
        used = number(group / "memory.current")
        used = number(group / "memory.usage_in_bytes") if used is None else used
        counts = table(group / "memory.stat")
        cache = counts.get("total_inactive_file", counts.get("inactive_file", 0))
        return None if used is None else max(0, used - cache)
    return None


def cgroup_killed() -> int:
    """How many processes of this group the kernel killed for want of memory."""
    for group in cgroup_folders("memory")[:1]:
        for name in ("memory.events", "memory.oom_control"):
            counts = table(group / name)
            if "oom_kill" in counts:
                return counts["oom_kill"]
    return 0


def _memory_limits() -> list[tuple[Path, int]]:
    """Each group with a limit below the machine's memory, and the limit."""
    physical = memory().get("MemTotal")
    found = []
    for group in cgroup_folders("memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = number(group / name)
            # Version 1 spells "no limit" as a number beyond all memory.
            if limit is not None and (physical is None or 0 <= limit < physical):
                found.append((group, limit))
    return found


def cgroup_pids() -> tuple[int, int] | None:
    """Of the group that has least room: processes and threads that it may have, and has. None without a limit."""
    found = []
    for group in cgroup_folders("pids"):
        limit = number(group / "pids.max")
        if limit is not None:
            found.append((limit, number(group / "pids.current") or 0))
    return min(found, key=lambda pair: pair[0] - pair[1], default=None)


def cgroup_cpuset() -> set[int]:
    """The CPUs of the control group's cpuset; empty if there is none."""
    for group in cgroup_folders("cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            cpus = cpu_list(read(group / name))
            if cpus:
                return cpus
    return set()


def cgroup_folders(controller: str) -> list[Path]:
    """The group of this process and all above it: the tightest limit on the way counts."""
    folders: list[Path] = []
    base = Path("/sys/fs/cgroup")
    for line in (read("/proc/self/cgroup") or "0::/").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 mounts each controller by its name or with those that it shares; version 2 beside it as "unified".
        roots = [base / controller, base / controllers] if controllers else [base, base / "unified"]
        for root in dict.fromkeys(roots):
            here = root / path.lstrip("/")
            # Inside a container the path may be the host's, of which only the root is mounted.
            above = [parent for parent in here.parents if parent == root or root in parent.parents]
            folders += [group for group in (here, *above) if folder(group)]
    return list(dict.fromkeys(folders))


# --- devices


def rdma_devices() -> list[str]:
    """InfiniBand and RoCE adapters."""
    return folder("/sys/class/infiniband")


def _rooted(path: str | Path) -> Path:
    return ROOT / str(path).lstrip("/")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
