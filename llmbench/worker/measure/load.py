"""What else the machine did in the timed window: the likely causes of noise."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from llmbench.worker.measure.memory import cgroup_folders


class LoadMeter:
    """Counters of this process and of the machine, read at both edges of the timed window."""

    def start(self) -> None:
        self._begin = _counters()

    def stop(self) -> dict[str, float | None]:
        """Seconds between the two edges, None if not readable.

        ``wall_seconds``; ``cpu_seconds`` of this process; ``busy_seconds`` of all CPUs, whoever kept them busy;
        ``others_cpu_seconds`` of all other processes; ``steal_seconds`` taken by the hypervisor;
        ``quota_seconds`` for which threads of this cgroup had to wait, their quota of CPU time being used up.
        ``preempted`` is a count: how often another process was given the CPU.

        To one of several ranks the others are other processes: ``machine_load`` in ``stats/verdicts.py`` puts them
        together.
        """
        end = _counters()
        change = {name: _difference(end[name], before) for name, before in self._begin.items()}
        busy, own = change["busy_seconds"], change["cpu_seconds"] or 0.0
        change["others_cpu_seconds"] = None if busy is None else max(0.0, busy - own)
        return change


def _difference(end: float | None, begin: float | None) -> float | None:
    return None if end is None or begin is None else end - begin


def _counters() -> dict[str, float | None]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    busy, steal = _machine()
    return {
        "wall_seconds": time.perf_counter(),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "preempted": float(usage.ru_nivcsw),
        "busy_seconds": busy,
        "steal_seconds": steal,
        "quota_seconds": _quota(),
    }


def _machine() -> tuple[float | None, float | None]:
    """Seconds in which any CPU was busy, and seconds stolen (proc(5), /proc/stat)."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def _quota() -> float | None:
    """Seconds that a CPU quota has cost this cgroup or one above it (cgroups: cpu.stat); None where there is none."""
    waited = []
    for folder in cgroup_folders("cpu"):
        try:
            lines = (folder / "cpu.stat").read_text().splitlines()
        except OSError:
            continue
        numbers = dict(line.split() for line in lines)
        if "throttled_usec" in numbers:  # version 2
            waited.append(int(numbers["throttled_usec"]) / 1e6)
        elif "throttled_time" in numbers:
            waited.append(int(numbers["throttled_time"]) / 1e9)
    return max(waited, default=None)
