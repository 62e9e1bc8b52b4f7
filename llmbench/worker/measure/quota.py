"""The quota of CPU time that this process's control groups have, and what it has cost so far."""

from __future__ import annotations

from pathlib import Path

from llmbench.worker.measure.memory import cgroup_folders


def quota_cpus() -> float | None:
    """CPUs that the quota allows, of this cgroup or one above it, whichever is least; None where there is none.

    Version 2: ``cpu.max``; version 1: ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``.
    """
    found = [quota for folder in cgroup_folders("cpu") if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def throttled_seconds() -> float:
    """Seconds so far for which threads of this cgroup or one above it had to wait, its quota being used up.

    They are a sum over the CPUs (``cpu.stat``: ``throttled_usec``, in version 1 ``throttled_time``); 0 without a quota.
    """
    waited = [0.0]
    for folder in cgroup_folders("cpu"):
        try:
            numbers = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        except OSError:
            continue
        waited.append(
            int(numbers["throttled_usec"]) / 1e6
            if "throttled_usec" in numbers
            else int(numbers.get("throttled_time", 0)) / 1e9
        )
    return max(waited)
