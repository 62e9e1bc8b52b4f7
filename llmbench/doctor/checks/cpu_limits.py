"""Limits of this process (ulimit) and of its control group that end training or keep it from starting."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_devices
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.runner import Context
from llmbench.doctor.system import cgroup_pids, folder, rdma_devices, read, usable_cpus

KIB, MIB, GIB = 2**10, 2**20, 2**30
_UNLIMITED = resource.RLIM_INFINITY

FEW_FILES = fault(
    "cpu.limits.files",
    "fail",
    "The limit of open files is low",
    cause="DataLoader workers pass each tensor as an open file, and collectives hold many sockets: "
    "they fail with 'Too many open files' or 'received 0 items of ancdata'",
    fix="ulimit -n 65536  (limits.conf: nofile; systemd: LimitNOFILE=65536; docker: --ulimit nofile=65536)",
    link="https://github.com/pytorch/pytorch/issues/973",
)
FEW_PROCESSES = fault(
    "cpu.limits.processes",
    "fail",
    "The limit of processes and threads of this user is low",
    cause="each process of torch starts a thread per core, and each DataLoader worker is one more: they fail with "
    "'Resource temporarily unavailable' or 'can't start new thread'",
    fix="ulimit -u 65536  (limits.conf: nproc; systemd: LimitNPROC=65536; docker: --ulimit nproc=65536)",
    link="https://github.com/ray-project/ray/issues/8546",
)
FEW_PIDS = fault(
    "cpu.limits.pids",
    "fail",
    "The control group allows few processes and threads",
    cause="each process of torch starts a thread per core, and each DataLoader worker is one more: they fail with "
    "'Resource temporarily unavailable' or 'can't start new thread'",
    fix="raise pids.max: docker run --pids-limit=-1; systemd: TasksMax=infinity; "
    "Kubernetes: podPidsLimit of the kubelet",
)
LITTLE_LOCKED = fault(
    "cpu.limits.memlock",
    "warn",
    "Little memory can be locked beside an RDMA adapter",
    cause="RDMA (InfiniBand, RoCE) locks its buffers: ibv_reg_mr fails with 'Cannot allocate memory', and NCCL stops "
    "or falls back to slow sockets",
    fix="ulimit -l unlimited  (limits.conf: memlock; systemd: LimitMEMLOCK=infinity; docker: --ulimit memlock=-1; "
    "Slurm: PropagateResourceLimitsExcept=MEMLOCK)",
    link="https://github.com/NVIDIA/nccl-tests/issues/206",
)
NARROW_SPACE = fault(
    "cpu.limits.address-space",
    "fail",
    "The address space is limited",
    cause="torch maps several GiB and CUDA tens of GiB: both fail although memory is free",
    fix="ulimit -v unlimited; on a cluster's login node, ask for a job instead",
    script="ulimit -v unlimited",
)
LITTLE_DATA = fault(
    "cpu.limits.data",
    "fail",
    "The data segment is limited",
    cause="Linux counts all private memory of a process against it: allocations fail although memory is free",
    fix="ulimit -d unlimited; on a cluster's login node, ask for a job instead",
    link="https://man7.org/linux/man-pages/man2/getrlimit.2.html",
    script="ulimit -d unlimited",
)
SMALL_STACK = fault(
    "cpu.limits.stack",
    "warn",
    "The stack is small",
    cause="threads get a stack of this size: deep calls of Python and of compiled code end in a segmentation fault",
    fix="ulimit -s 8192",
    script="ulimit -s 8192",
)
SMALL_FILES = fault(
    "cpu.limits.file-size",
    "warn",
    "The size of files is limited",
    cause="a checkpoint that grows beyond it fails with 'File too large', or the process is killed by SIGXFSZ",
    fix="ulimit -f unlimited",
    script="ulimit -f unlimited",
)
LITTLE_TIME = fault(
    "cpu.limits.cpu-time",
    "warn",
    "The CPU time of a process is limited",
    cause="the kernel kills training (SIGXCPU, then SIGKILL) when its threads together have used it up; "
    "login nodes do so",
    fix="ulimit -t unlimited; on a cluster's login node, ask for a job instead",
    script="ulimit -t unlimited",
)


@check("cpu.limits", "Limits of this process are wide enough")
def limits(context: Context) -> Iterator[Finding]:
    """Compares each limit of the shell, and the number of processes of the control group, with what torch needs."""
    found = [*_files(), *_processes(), *_pids(), *_locked(context), *_sizes()]
    yield from found
    if not found:
        yield passed(_facts(context))


def _files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == _UNLIMITED or soft >= 1024:
        return
    enough = hard == _UNLIMITED or hard >= 4096
    wanted = 65536 if hard == _UNLIMITED else min(hard, 65536)
    yield FEW_FILES.found(
        f"the limit of open files (ulimit -n) is {soft}, which is low (hard limit {_shown(hard)})",
        verdict="fail" if soft < 256 else "warn",
        fix=f"ulimit -n {wanted}" if enough else None,
        script=f"ulimit -n {wanted}" if enough else None,
    )


def _processes() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == _UNLIMITED or soft >= 1024:
        return
    if os.geteuid() == 0:
        yield FEW_PROCESSES.found(
            f"the limit of processes and threads of this user (ulimit -u) is {soft}, which is low "
            f"(hard limit {_shown(hard)}); root is exempt, but not what it starts as another user",
            verdict="warn",
        )
        return
    used = _threads_of_this_user()
    yield FEW_PROCESSES.found(
        f"the limit of processes and threads of this user (ulimit -u) is {soft}, which is low, and {used} are running "
        f"(hard limit {_shown(hard)})",
        verdict="fail" if soft - used < _needed() else "warn",
    )


def _pids() -> Iterator[Finding]:
    group = cgroup_pids()
    if group is None:
        return
    limit, used = group
    left = limit - used
    if limit < 512 or left < 4 * _needed():
        yield FEW_PIDS.found(
            f"the control group (cgroup) allows {limit} processes and threads (pids.max), of which {used} are running",
            verdict="fail" if left < _needed() else "warn",
        )


def _locked(context: Context) -> Iterator[Finding]:
    """Only RDMA needs much of it, so 64 KiB is right for a machine without."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    adapters = rdma_devices()
    several_machines = bool(nvidia_devices()) and _machines(context) > 1
    if soft == _UNLIMITED or soft >= GIB or (os.geteuid() == 0 and _may_lock()) or not (adapters or several_machines):
        return
    reason = f"this machine has RDMA adapters ({', '.join(adapters[:4])})" if adapters else "this job has many machines"
    yield LITTLE_LOCKED.found(
        f"the limit of locked memory (ulimit -l, memlock) is {_size(soft)}, which is low (hard limit {_size(hard)}), "
        f"and {reason}"
    )


def _sizes() -> Iterator[Finding]:
    space, data = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    stack, file, time = (
        resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_STACK, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)
    )
    if space != _UNLIMITED:
        # A judgement: torch alone maps 0.8 GiB on the CPU, each thread of each library tens of MiB, CUDA tens of GiB.
        yield NARROW_SPACE.found(
            f"the address space (ulimit -v) is limited to {_size(space)}", verdict="fail" if space < 8 * GIB else "warn"
        )
    if data != _UNLIMITED:
        yield LITTLE_DATA.found(
            f"the data segment (ulimit -d) is limited to {_size(data)}", verdict="fail" if data < 8 * GIB else "warn"
        )
    if stack != _UNLIMITED and stack < MIB:
        yield SMALL_STACK.found(
            f"the stack (ulimit -s) is {_size(stack)}, which is low", verdict="fail" if stack < 256 * KIB else "warn"
        )
    if file != _UNLIMITED:
        yield SMALL_FILES.found(
            f"files (ulimit -f) can have {_size(file)} at most", verdict="fail" if file < GIB else "warn"
        )
    if time != _UNLIMITED:
        yield LITTLE_TIME.found(
            f"a process (ulimit -t) can use {time} s of CPU time at most", verdict="fail" if time < 600 else "warn"
        )


def _facts(context: Context) -> str:
    files, locked, stack = (
        resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_STACK)
    )
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    context.facts["limits"] = {
        name: None if value == _UNLIMITED else value
        for name, value in (("open_files", files), ("locked_bytes", locked), ("stack_bytes", stack))
    }
    pids = cgroup_pids()
    note = f"; pids.max {pids[0]}" if pids else ""
    low = " (low for RDMA, which is not here)" if locked != _UNLIMITED and locked <= MIB else ""
    return (
        f"{_shown(files)} open files, locked memory (ulimit -l) {_size(locked)}{low}, stack {_size(stack)}, "
        f"core files {_size(core)}, no limit of address space, data, file size and CPU time{note}"
    )


def _needed() -> int:
    """Threads of a training process and of two DataLoader workers, each with a thread per core and some to spare."""
    return 3 * (min(usable_cpus(), 64) + 8)


def _threads_of_this_user() -> int:
    user, count = os.getuid(), 0
    for process in (name for name in folder("/proc") if name.isdigit()):
        fields = dict(line.partition(":\t")[::2] for line in (read(f"/proc/{process}/status") or "").splitlines())
        if fields.get("Uid", "").split()[:1] == [str(user)] and fields.get("Threads", "").isdigit():
            count += int(fields["Threads"])
    return count


def _machines(context: Context) -> int:
    """Machines of the job that this process belongs to, as its launcher says."""
    for name in ("SLURM_NNODES", "SLURM_JOB_NUM_NODES", "PET_NNODES", "NNODES", "GROUP_WORLD_SIZE"):
        value = context.environ.get(name, "").partition(":")[2] or context.environ.get(name, "")
        if value.isascii() and value.isdigit():
            return int(value)
    return 1


def _may_lock() -> bool:
    """Whether this process has CAP_IPC_LOCK, to which the limit does not apply."""
    for line in (read("/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 14 & 1)
    return False


def _shown(value: int) -> str:
    return "unlimited" if value == _UNLIMITED else str(value)


def _size(value: int) -> str:
    if value == _UNLIMITED:
        return "unlimited"
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}".replace(".0 ", " ")
    return f"{value} B"
