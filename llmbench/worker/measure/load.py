"""What else the machine did in the timed window: the likely causes of noise."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path


class LoadMeter:
    """Counters of this process and of the machine, read at both edges of the timed window."""

    def start(self) -> None:
        self._begin = _counters()

    def stop(self) -> dict[str, float | None]:
        """Differences: ``wall_seconds``, ``cpu_seconds`` (this process), ``preempted`` (involuntary switches),
        ``others_cpu_seconds`` (other processes), ``steal_seconds`` (taken by the hypervisor); None if not readable.
        """
        end = _counters()
        change = {name: _difference(end[name], before) for name, before in self._begin.items()}
        busy = change.pop("busy_seconds")
        own = change["cpu_seconds"] or 0.0
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
