"""Main memory: how much there is, how it is handed out, and whether it is sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context
from llmbench.doctor.system import (
    cgroup_killed,
    cgroup_memory,
    cgroup_memory_used,
    folder,
    memory,
    number,
    pressure,
    read,
)

GIB = 2**30
_MEMORY_TO_TRAIN = 2 * GIB
_MANY_ERRORS = 1000
_PRESSURE = 10.0

SMALL_GROUP = fault(
    "cpu.memory.cgroup",
    "warn",
    "The control group allows little memory",
    cause="the kernel kills what needs more; torch alone needs about 0.3 GiB in each process",
    fix="raise the container's or job's memory limit: docker run --memory=16g; Kubernetes: resources.limits.memory; "
    "Slurm: --mem=16G",
)
FULL_GROUP = fault(
    "cpu.memory.cgroup-full",
    "warn",
    "The control group has used up most of its memory",
    cause="the kernel kills a process of the group when it needs more",
    fix="stop other processes of this container or job, or raise its memory limit",
)
KILLED = fault(
    "cpu.memory.killed",
    "warn",
    "The kernel has killed processes of this control group for want of memory",
    cause="training, or DataLoader workers, needed more than the container's or job's memory limit",
    fix="raise the memory limit, or use fewer workers and smaller batches",
    link="https://docs.kernel.org/admin-guide/cgroup-v2.html",
)
LOW = fault(
    "cpu.memory.low",
    "warn",
    "Little memory is available",
    cause="training may be killed, or swap and slow down",
    fix="stop other processes (ps aux --sort=-rss | head), or use a larger machine",
)
SWAP = fault(
    "cpu.memory.swap",
    "warn",
    "Much memory is swapped out",
    cause="what was swapped out must come back from the disk: steps stall, and timings jump",
    fix="stop other processes (ps aux --sort=-rss | head), then sudo swapoff -a && sudo swapon -a",
)
STALLS = fault(
    "cpu.memory.stalls",
    "warn",
    "Processes wait for memory",
    cause="the kernel is busy taking memory back: steps stall, and something may be killed",
    fix="stop other processes (ps aux --sort=-rss | head), or use a larger machine",
    link="https://docs.kernel.org/accounting/psi.html",
)
COMMITTED = fault(
    "cpu.memory.overcommit",
    "warn",
    "The kernel promises no more memory than it has",
    cause="with vm.overcommit_memory=2, CUDA and forked DataLoader workers fail with 'Cannot allocate memory' although "
    "memory is free",
    fix="sudo sysctl vm.overcommit_memory=0",
    link="https://docs.kernel.org/mm/overcommit-accounting.html",
)
RESERVED = fault(
    "cpu.memory.reserved",
    "warn",
    "Much memory is reserved as huge pages",
    cause="only programs that ask for huge pages by name can use it; torch does not",
    fix="sudo sysctl vm.nr_hugepages=0",
    link="https://docs.kernel.org/admin-guide/mm/hugetlbpage.html",
)


@check("cpu.memory", "There is memory to train in")
def free_memory(context: Context) -> Iterator[Finding]:
    """Reads what is available, promised, reserved and swapped out, of the machine and of the control group."""
    have = memory()
    available, total, limit = have.get("MemAvailable"), have.get("MemTotal"), cgroup_memory()
    if available is None or total is None:
        yield skipped("/proc/meminfo cannot be read: /proc is not mounted here, or hidden")
        return
    swapped = have.get("SwapTotal", 0) - have.get("SwapFree", 0)
    context.facts["memory"] = {"available_bytes": available, "total_bytes": total, "cgroup_bytes": limit}
    found = [*_group(limit), *_machine(have, available, total, swapped), *_promised(have)]
    yield from found
    if not found:
        note = f"; cgroup limit {limit / GIB:.1f} GiB" if limit is not None else ""
        swap = f"; {swapped / GIB:.1f} of {have.get('SwapTotal', 0) / GIB:.1f} GiB swap used"
        yield passed(f"{available / GIB:.1f} of {total / GIB:.1f} GiB available{note}{swap}")


def _group(limit: int | None) -> Iterator[Finding]:
    killed = cgroup_killed()
    if limit is not None:
        used = cgroup_memory_used()
        if limit <= _MEMORY_TO_TRAIN:
            # torch alone needs most of that in a process, and is killed while it is imported or first used.
            verdict: Literal["fail", "warn"] = "fail" if limit < GIB // 2 else "warn"
            yield SMALL_GROUP.found(f"the control group (cgroup) memory limit is {_gib(limit)}", verdict=verdict)
        elif used is not None and limit - used < _MEMORY_TO_TRAIN // 2:
            yield FULL_GROUP.found(f"the control group (cgroup) uses {_gib(used)} of its memory limit of {_gib(limit)}")
    if killed:
        yield KILLED.found(f"the control group (cgroup) counts {killed} processes killed for want of memory (oom_kill)")


def _machine(have: dict[str, int], available: int, total: int, swapped: int) -> Iterator[Finding]:
    swap = f", and {_gib(swapped)} of {_gib(have.get('SwapTotal', 0))} swap is used" if swapped > 0 else ""
    stalled = pressure("memory").get("full", 0.0)
    if available < _MEMORY_TO_TRAIN:
        yield LOW.found(f"only {_gib(available)} of {_gib(total)} memory is available{swap}")
    elif swapped > max(GIB, total // 4):
        yield SWAP.found(
            f"{_gib(swapped)} of {_gib(have['SwapTotal'])} swap is used ({_gib(available)} of {_gib(total)} memory "
            "is available)"
        )
    if stalled > _PRESSURE:
        yield STALLS.found(
            f"all processes waited for memory for {stalled:.0f} % of the last minute (/proc/pressure/memory)"
        )


def _promised(have: dict[str, int]) -> Iterator[Finding]:
    mode = number("/proc/sys/vm/overcommit_memory")
    left = have.get("CommitLimit", 0) - have.get("Committed_AS", 0)
    if mode == 2:
        yield COMMITTED.found(
            f"vm.overcommit_memory=2: {_gib(max(0, left))} of {_gib(have.get('CommitLimit', 0))} can still be promised",
            verdict="fail" if left < _MEMORY_TO_TRAIN else "warn",
        )
    reserved = have.get("HugePages_Total", 0) * have.get("Hugepagesize", 0)
    if reserved > have.get("MemTotal", 0) // 4:
        yield RESERVED.found(
            f"{_gib(reserved)} of {_gib(have['MemTotal'])} memory is reserved as huge pages "
            f"(HugePages_Total {have['HugePages_Total']})"
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / 2**20:.0f} MiB"


NO_HUGE_PAGES = fault(
    "cpu.hugepages.never",
    "warn",
    "Transparent huge pages are off",
    cause="large tensors are mapped in pages of 4 KiB: the CPU looks addresses up more often, and CPU training "
    "is slower",
    fix="echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
    link="https://docs.kernel.org/admin-guide/mm/transhuge.html",
)


@check("cpu.hugepages", "Large tensors can have huge pages")
def hugepages(context: Context) -> Iterator[Finding]:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    text = read(path)
    if text is None:
        yield skipped(f"{path} cannot be read: /sys is not mounted here, or the kernel has none")
        return
    mode = text.partition("[")[2].partition("]")[0] or text.strip()
    if mode == "never":
        yield NO_HUGE_PAGES.found(f"transparent huge pages (THP) are off: {path} says never")
    else:
        yield passed(f"transparent huge pages: {mode}")


UNCORRECTED = fault(
    "cpu.ecc.uncorrected",
    "fail",
    "Main memory has had errors that could not be corrected",
    cause="a memory module is defective: data changes, and processes or the machine crash",
    fix="have the module replaced; which one: sudo ras-mc-ctl --errors, or "
    "grep . /sys/devices/system/edac/mc/mc*/*/*_ue_count",
    link="https://docs.kernel.org/admin-guide/RAS/main.html",
)
CORRECTED = fault(
    "cpu.ecc.corrected",
    "warn",
    "Main memory has had many corrected errors",
    cause="a memory module is failing: errors that cannot be corrected follow",
    fix="have the module replaced; which one: sudo ras-mc-ctl --errors, or "
    "grep . /sys/devices/system/edac/mc/mc*/*/*_ce_count",
    link="https://docs.kernel.org/admin-guide/RAS/main.html",
)


@check("cpu.ecc", "Main memory has no errors")
def ecc(context: Context) -> Iterator[Finding]:
    """Reads what the memory controllers (EDAC) have counted since the machine started."""
    base = "/sys/devices/system/edac/mc"
    controllers = [f"{base}/{name}" for name in folder(base) if name.startswith("mc") and name[2:].isdigit()]
    if not controllers:
        yield skipped(f"no memory controller counts errors here ({base})")
        return
    lost = sum(number(f"{controller}/ue_count") or 0 for controller in controllers)
    mended = sum(number(f"{controller}/ce_count") or 0 for controller in controllers)
    if lost:
        yield UNCORRECTED.found(f"{lost} uncorrected errors of main memory since the start ({base}/mc*/ue_count)")
    elif mended >= _MANY_ERRORS:
        yield CORRECTED.found(f"{mended} corrected errors of main memory since the start ({base}/mc*/ce_count)")
    else:
        yield passed(f"{mended} corrected errors of {len(controllers)} controllers")
