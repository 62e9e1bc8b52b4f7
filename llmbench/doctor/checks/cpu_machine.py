"""The machine under torch: what the kernel shows, clock frequency, load, time, NUMA."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import pci_gpus
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context
from llmbench.doctor.system import cpu_list, folder, mounted, number, pressure, read

_DAY = 86400.0
_PLAUSIBLE = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
"""Reproducible images date all their files to 1970 or 1980, which says nothing of today."""
_CPUS = "/sys/devices/system/cpu"

NO_PROC = fault(
    "cpu.kernel.proc",
    "warn",
    "/proc is not mounted",
    cause="memory, limits and CPUs cannot be read: libraries guess, and some programs (ps, nvidia-smi, NCCL) "
    "do not work",
    fix="mount -t proc proc /proc; in a chroot, do so before entering it",
)


@check("cpu.kernel", "/proc and /sys can be read")
def kernel(context: Context) -> Iterator[Finding]:
    proc, sys = read("/proc/self/status") is not None, mounted("/sys")
    if not proc:
        yield NO_PROC.found("/proc is not mounted: memory, control group and limits cannot be read")
    if not sys:
        yield skipped("/sys is not mounted: devices, CPU frequency, huge pages and control groups cannot be read")
    if proc and sys:
        yield passed(f"Linux {os.uname().release}")


POWERSAVE = fault(
    "cpu.frequency.governor",
    "warn",
    "The CPU frequency governor keeps the CPU slow",
    cause="the CPU stays at its lowest frequency: everything that runs on it, and the launching of GPU work, is slower",
    fix="sudo cpupower frequency-set -g performance  (or: echo performance | sudo tee "
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor)",
    link="https://docs.kernel.org/admin-guide/pm/cpufreq.html",
)
CAPPED = fault(
    "cpu.frequency.capped",
    "warn",
    "The CPU frequency is capped",
    cause="a power profile or an administrator keeps the CPU below what it can do",
    fix="sudo cpupower frequency-set -u <maximum>MHz",
    link="https://docs.kernel.org/admin-guide/pm/cpufreq.html",
)
HOT = fault(
    "cpu.frequency.thermal",
    "warn",
    "The CPU is often slowed down by heat",
    cause="cooling does not keep up: fans, dust, or the room",
    fix="check fans and temperatures: sensors",
)


@check("cpu.frequency", "The CPU runs at full speed")
def frequency(context: Context) -> Iterator[Finding]:
    """Reads each CPU's governor and bounds, and for how long heat has slowed it down."""
    policies = [f"{_CPUS}/{name}/cpufreq" for name in _cpu_folders()]
    governors = {policy: (read(f"{policy}/scaling_governor") or "").strip() for policy in policies}
    governors = {policy: governor for policy, governor in governors.items() if governor}
    found = [*_slow_governor(governors), *_capped(list(governors)), *_hot()]
    yield from found
    if found:
        return
    if not governors:
        yield skipped(f"{_CPUS}/cpu*/cpufreq cannot be read: a virtual machine, or /sys is not mounted")
        return
    policy, governor = next(iter(governors.items()))
    yield passed(f"governor {governor} of {_driver(policy)}{_turbo()}")


def _cpu_folders() -> list[str]:
    return [name for name in folder(_CPUS) if re.fullmatch(r"cpu\d+", name)]


def _driver(policy: str) -> str:
    return (read(f"{policy}/scaling_driver") or "unknown driver").strip()


def _slow_governor(governors: dict[str, str]) -> Iterator[Finding]:
    # With these drivers, "powersave" names the dynamic governor of the hardware: the normal state.
    slow = [
        policy
        for policy, governor in governors.items()
        if governor == "powersave" and _driver(policy) not in ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
    ]
    if slow:
        now, most = (_mhz(f"{slow[0]}/{name}") for name in ("scaling_cur_freq", "cpuinfo_max_freq"))
        yield POWERSAVE.found(
            f"the governor of {len(slow)} of {len(governors)} CPUs is powersave ({_driver(slow[0])}, now {now}, "
            f"at most {most})"
        )


def _capped(policies: list[str]) -> Iterator[Finding]:
    for policy in policies:
        allowed, most = number(f"{policy}/scaling_max_freq"), number(f"{policy}/cpuinfo_max_freq")
        if allowed and most and allowed < 0.8 * most:
            yield CAPPED.found(
                f"{policy}/scaling_max_freq is {allowed / 1000:.0f} MHz, cpuinfo_max_freq {most / 1000:.0f} MHz",
                maximum=f"{most / 1000:.0f}",
            )
            return


def _hot() -> Iterator[Finding]:
    names = [f"{_CPUS}/{name}/thermal_throttle/package_throttle_total_time_ms" for name in _cpu_folders()]
    slowed = max((number(name) or 0 for name in names), default=0) / 1000
    uptime = _uptime()
    if uptime and slowed > 0.05 * uptime:
        yield HOT.found(
            f"heat has slowed the CPU for {slowed:.0f} s of {uptime:.0f} s since the start (thermal_throttle)"
        )


def _turbo() -> str:
    off = number(f"{_CPUS}/intel_pstate/no_turbo") == 1 or number(f"{_CPUS}/cpufreq/boost") == 0
    return "; turbo is off" if off else ""


def _mhz(path: str) -> str:
    value = number(path)
    return f"{value / 1000:.0f} MHz" if value else "unknown"


def _uptime() -> float | None:
    words = (read("/proc/uptime") or "").split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


BUSY = fault(
    "cpu.load.busy",
    "warn",
    "The machine is busy",
    cause="other processes take CPU time: training is slower, and timings are wrong",
    fix="stop other processes: top -o %CPU",
)
STOLEN = fault(
    "cpu.load.steal",
    "warn",
    "The host takes CPU time from this virtual machine",
    cause="other virtual machines on the host compete for its CPUs, or this one has used up its credits: training is "
    "slower, and timings jump",
    fix="use an instance with CPUs of its own (not a burstable one)",
)


@check("cpu.load", "Nothing else uses the CPUs")
def load(context: Context) -> Iterator[Finding]:
    """Reads the load average, and what share of CPU time the host kept from this virtual machine."""
    cpus = os.cpu_count() or 1
    words = (read("/proc/loadavg") or "").split()
    try:
        one, five = float(words[0]), float(words[1])
    except (IndexError, ValueError):
        yield skipped("/proc/loadavg cannot be read: /proc is not mounted here, or hidden")
        return
    stolen = _stolen()
    waiting = pressure("cpu").get("some")
    if one > 2 * cpus and five > cpus:
        note = f"; tasks waited for a CPU for {waiting:.0f} % of the last minute" if waiting else ""
        yield BUSY.found(f"load average {one:.1f} (1 min), {five:.1f} (5 min) on {cpus} CPUs (/proc/loadavg){note}")
    if stolen is not None and stolen > 0.1:
        yield STOLEN.found(f"the host kept {stolen:.0%} of the CPU time since the start (steal in /proc/stat)")
    elif not (one > 2 * cpus and five > cpus):
        yield passed(f"load average {one:.1f} on {cpus} CPUs")


def _stolen() -> float | None:
    """Share of the time in which this machine had something to do."""
    words = (read("/proc/stat") or "").partition("\n")[0].split()[1:]
    if len(words) < 8 or not all(word.isdigit() for word in words):
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, words[:8])
    wanted = user + nice + system + irq + soft + steal
    return steal / wanted if wanted > 6000 else None


BEHIND = fault(
    "cpu.clock.behind",
    "warn",
    "The clock is behind: files here come from its future",
    cause="certificates and tokens are 'not yet valid', so downloads fail; builds think that everything is up to date; "
    "logs of several machines cannot be merged",
    fix="sudo timedatectl set-ntp true, or start chrony; in a virtual machine: sudo hwclock --hctosys",
)
AHEAD = fault(
    "cpu.clock.ahead",
    "warn",
    "The clock is far ahead",
    cause="certificates and tokens have 'expired', so downloads fail; logs of several machines cannot be merged",
    fix="sudo timedatectl set-ntp true, or start chrony; in a virtual machine: sudo hwclock --hctosys",
)
FAKED = fault(
    "cpu.clock.faked",
    "warn",
    "This process is shown another time than the kernel's",
    cause="a preloaded library such as libfaketime changes the clock: certificates, tokens, timeouts and build systems "
    "go wrong",
    fix="unset LD_PRELOAD FAKETIME",
)
SLOW_CLOCK = fault(
    "cpu.clock.source",
    "warn",
    "Reading the clock is slow",
    cause="the kernel distrusts the processor's own counter (TSC) and asks a timer chip: each reading takes "
    "microseconds, which profilers, schedulers and CUDA events pay",
    fix="see why: dmesg | grep -i tsc; a virtual machine: use the host's CPU model; a machine that is sound: boot with "
    "tsc=reliable",
)


@check("cpu.clock", "The clock is right")
def clock(context: Context) -> Iterator[Finding]:
    """Compares the time of this process with the kernel's, with the build of the kernel, and with installed files."""
    now, kernel_now = time.time(), _kernel_time()
    source = (read("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "").strip()
    newest, what = _newest_known()
    found = []
    if kernel_now is not None and abs(now - kernel_now) > _DAY:
        found.append(
            FAKED.found(
                f"the clock says {_date(now)} to this process, which is wrong: the kernel dates a new file "
                f"{_date(kernel_now)}"
            )
        )
    elif now < newest - _DAY:
        found.append(
            BEHIND.found(
                f"the clock says {_date(now)}, which is in the past: {what} is of {_date(newest)}, "
                f"{(newest - now) / _DAY:.0f} days later"
            )
        )
    elif newest > _PLAUSIBLE and now > newest + 15 * 365 * _DAY:
        found.append(
            AHEAD.found(f"the clock says {_date(now)}, but nothing here is newer than {what} of {_date(newest)}")
        )
    if source in ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"):
        found.append(SLOW_CLOCK.found(f"the kernel's clock source is {source}, not tsc"))
    yield from found
    if not found:
        yield passed(f"{_date(now)}; clock source {source or 'unknown'}")


def _kernel_time() -> float | None:
    """The time that the kernel gives a file that is made now; in memory, so that no disk is needed."""
    try:
        descriptor = os.memfd_create("clock")
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def _newest_known() -> tuple[float, str]:
    """The latest time at which something here was surely made, and what that is."""
    known = [(_kernel_built(), "this kernel")]
    for path in (*FILES, os.__file__, __file__):
        try:
            known.append((Path(path).stat().st_mtime, str(path)))
        except OSError:
            continue
    return max(known)


FILES = ("/etc/ld.so.cache", "/var/lib/dpkg/status", "/etc/hostname", "/etc/machine-id")
"""What the system writes when something is installed, or when it starts."""


def _kernel_built() -> float:
    """From ``#1 SMP PREEMPT_DYNAMIC Fri Nov 20 10:00:00 UTC 2026``; 0 if the kernel does not say so."""
    words = os.uname().version.split()
    try:
        built = datetime.strptime(" ".join([*words[-5:-2], words[-1]]), "%b %d %H:%M:%S %Y")
    except (ValueError, IndexError):
        return 0.0
    return built.replace(tzinfo=UTC).timestamp()


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


REMOTE_MEMORY = fault(
    "cpu.numa.memory",
    "warn",
    "This process is bound to the CPUs of one NUMA node and to the memory of another",
    cause="each access to memory crosses the link between the processors",
    fix="numactl --cpunodebind=<node> --membind=<node>",
    link="https://docs.kernel.org/admin-guide/mm/numa_memory_policy.html",
)
REMOTE_GPU = fault(
    "cpu.numa.gpu",
    "warn",
    "This process is bound to CPUs that no GPU is attached to",
    cause="each copy to and from a GPU crosses the link between the processors",
    fix="numactl --cpunodebind=<node> --membind=<node>; with Slurm: --gpu-bind=closest",
)
RECLAIM = fault(
    "cpu.numa.reclaim",
    "warn",
    "The kernel frees caches of a NUMA node before it uses another node's memory",
    cause="with vm.zone_reclaim_mode=1, reading data stalls although memory is free elsewhere",
    fix="sudo sysctl vm.zone_reclaim_mode=0",
    link="https://docs.kernel.org/admin-guide/sysctl/vm.html",
)


@check("cpu.numa", "CPUs, memory and GPUs are near each other")
def numa(context: Context) -> Iterator[Finding]:
    """Compares the nodes of this process's CPUs with those of its memory and of the GPUs."""
    base = "/sys/devices/system/node"
    cpus = {
        int(name[4:]): cpu_list(read(f"{base}/{name}/cpulist"))
        for name in folder(base)
        if re.fullmatch(r"node\d+", name)
    }
    nodes = {node for node, its in cpus.items() if its}
    if len(nodes) < 2:
        yield skipped(f"{len(nodes)} NUMA node with CPUs ({base})")
        return
    mine = {node for node in nodes if cpus[node] & os.sched_getaffinity(0)}
    near = f"this process may use the CPUs of NUMA node {_join(mine)} of {_join(nodes)}"
    allowed, gpus = _memory_nodes() & nodes, _gpu_nodes() & nodes
    found = []
    if allowed and mine and not allowed & mine:
        found.append(REMOTE_MEMORY.found(f"{near}, but the memory of node {_join(allowed)} only", node=min(mine)))
    if gpus and mine and not gpus & mine:
        found.append(REMOTE_GPU.found(f"{near}, but the GPUs are attached to node {_join(gpus)}", node=min(gpus)))
    if number("/proc/sys/vm/zone_reclaim_mode"):
        found.append(RECLAIM.found(f"vm.zone_reclaim_mode is not 0, on {len(nodes)} NUMA nodes"))
    yield from found
    if not found:
        balancing = number("/proc/sys/kernel/numa_balancing")
        yield passed(f"{near}; automatic NUMA balancing is {'on' if balancing else 'off'} (kernel.numa_balancing)")


def _memory_nodes() -> set[int]:
    for line in (read("/proc/self/status") or "").splitlines():
        if line.startswith("Mems_allowed_list:"):
            return cpu_list(line.partition(":")[2])
    return set()


def _gpu_nodes() -> set[int]:
    found = {number(f"/sys/bus/pci/devices/{gpu.address}/numa_node") for gpu in pci_gpus("nvidia")}
    return {node for node in found if node is not None and node >= 0}


def _join(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
