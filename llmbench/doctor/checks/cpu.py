"""CPU threads, memory and limits of this process, and a DataLoader that lives within them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, failure, passed, skipped, warning
from llmbench.doctor.runner import Context
from llmbench.doctor.system import cgroup_cpus, cgroup_memory, memory, usable_cpus

GIB = 2**30
_MEMORY_TO_TRAIN = 2 * GIB
_OPEN_FILES = 1024
_ADDRESS_SPACE = 8 * GIB
"""A judgement: torch alone maps 0.8 GiB on the CPU, each thread of each library tens of MiB, CUDA tens of GiB."""


@check("cpu.threads", "Threads fit to the cores", needs=("torch.import",))
def threads(context: Context) -> Iterator[Finding]:
    """Compares torch's threads with the affinity mask, the control group's quota and all CPUs."""
    count = context.facts["torch"].get("threads")
    usable, quota, all_cpus = usable_cpus(), cgroup_cpus(), os.cpu_count() or 1
    context.facts["cpus"] = {"usable": usable, "all": all_cpus, "quota": quota, "torch_threads": count}
    setting = context.environ.get("OMP_NUM_THREADS")
    if quota is not None and quota < usable and (count or usable) > max(1, quota):
        yield warning(
            f"the control group (cgroup) allows {quota:g} CPU, but torch uses {count} threads",
            "threads wait for each other while the quota stops them: every step is slow, and timings jump",
            f"export OMP_NUM_THREADS={max(1, int(quota))}, or raise the container's CPU limit",
        )
    elif count == 1 and usable > 1:
        reason = f"OMP_NUM_THREADS={setting}" if setting else "torch.get_num_threads()"
        yield warning(
            f"{reason}: torch uses 1 thread on {usable} usable CPUs",
            "CPU operations use one core; torchrun sets this for its workers, and it is often left over",
            f"unset OMP_NUM_THREADS, or export OMP_NUM_THREADS={usable}",
        )
    elif usable == 1 and all_cpus > 1:
        yield warning(
            f"the affinity mask binds this process to 1 of {all_cpus} CPUs",
            "torch and all DataLoader workers share one core",
            "taskset -p, or with Slurm: srun --cpus-per-task=N --cpu-bind=none",
        )
    else:
        limit = f"; cgroup quota {quota:g}" if quota is not None else ""
        yield passed(f"{count} threads on {usable} usable CPUs of {all_cpus}{limit}")


@check("cpu.capability", "torch uses the CPU's vector instructions", needs=("torch.import",))
def capability(context: Context) -> Iterator[Finding]:
    name = context.facts["torch"].get("cpu_capability", "unknown")
    machine = context.facts["python"]["machine"]
    if name == "DEFAULT" and machine in ("x86_64", "AMD64") and "ATEN_CPU_CAPABILITY" not in context.environ:
        yield warning(
            f"torch uses the {name} kernels on {machine}",
            "this CPU, or what a virtual machine shows of it, has no AVX2: CPU training is several times slower",
            "give the virtual machine the host's CPU model (host-passthrough)",
        )
    else:
        yield passed(f"{name} kernels")


@check("cpu.memory", "There is memory to train in")
def free_memory(context: Context) -> Iterator[Finding]:
    available, total, limit = memory().get("MemAvailable"), memory().get("MemTotal"), cgroup_memory()
    if available is None or total is None:
        yield skipped("/proc/meminfo cannot be read: /proc is not mounted here")
        return
    context.facts["memory"] = {"available_bytes": available, "total_bytes": total, "cgroup_bytes": limit}
    if limit is not None and limit < _MEMORY_TO_TRAIN:
        yield warning(
            f"the control group (cgroup) memory limit is {limit / GIB:.1f} GiB",
            "the kernel kills what needs more; torch alone needs about 0.3 GiB in each process",
            "raise the container's or job's memory limit",
        )
    elif available < _MEMORY_TO_TRAIN:
        yield warning(
            f"only {available / GIB:.1f} GiB of {total / GIB:.1f} GiB memory is available",
            "training may be killed, or swap and slow down",
            "stop other processes, or use a larger machine",
        )
    else:
        note = f"; cgroup limit {limit / GIB:.1f} GiB" if limit is not None else ""
        yield passed(f"{available / GIB:.1f} of {total / GIB:.1f} GiB available{note}")


@check("cpu.limits", "Limits of the shell are wide enough")
def limits(context: Context) -> Iterator[Finding]:
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    narrow = False
    if files != resource.RLIM_INFINITY and files < _OPEN_FILES:
        narrow = True
        verdict = failure if files < _OPEN_FILES // 4 else warning
        yield verdict(
            f"the limit of open files (ulimit -n) is {files}, which is low (hard limit {hard})",
            "DataLoader workers and collectives hold many files: they fail with 'Too many open files'",
            "ulimit -n 65536  (systemd: LimitNOFILE=65536; docker: --ulimit nofile=65536)",
        )
    if space != resource.RLIM_INFINITY:
        narrow = True
        verdict = failure if space < _ADDRESS_SPACE else warning
        yield verdict(
            f"the address space (ulimit -v) is limited to {space / GIB:.1f} GiB",
            "torch maps several GiB and CUDA tens of GiB: both fail although memory is free",
            "ulimit -v unlimited; on a cluster's login node, ask for a job instead",
        )
    if not narrow:
        yield passed(f"{files} open files, no limit of the address space")


@check(
    "cpu.loader", "DataLoader workers deliver batches", deadline=60, needs=("torch.import", "storage.shm", "cpu.limits")
)
def loader(context: Context) -> Iterator[Finding]:
    arguments = {"rows": 6, "columns": (16 if context.deep else 1) * 2**20, "timeout": 40}
    outcome = context.torch_probe("loader", arguments)
    found = outcome.answer
    if not outcome.ok:
        bus_error = "bus error" in f"{outcome.noise}{outcome.error}".lower()
        yield failure(
            f"a DataLoader with 2 workers {outcome.ending}",
            "shared memory is too small for the batches (/dev/shm)"
            if bus_error
            else "worker processes cannot be started, or cannot pass their batches through shared memory",
            "docker run --shm-size=16g, or --ipc=host; until then use num_workers=0",
        )
    elif not found["right"]:
        yield failure(
            "batches came out of the workers with other values than they went in",
            "shared memory is not coherent between processes",
            "use num_workers=0, and test the machine's memory",
        )
    else:
        size = found["batch_bytes"] / 2**20
        yield passed(f"{found['batches']} batches of {size:.0f} MiB from 2 workers in {found['seconds']:.1f} s")
