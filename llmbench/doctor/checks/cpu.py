"""What torch makes of the CPU: threads, their cores, vector instructions."""

from __future__ import annotations

import os
from collections.abc import Iterator

from llmbench.doctor.checks import cpu_limits, cpu_loader, cpu_machine, cpu_memory  # noqa: F401 (their checks are of this area)
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context
from llmbench.doctor.system import (
    cgroup_cpus,
    cgroup_cpuset,
    cgroup_throttled,
    cpu_flags,
    cpu_info,
    usable_cpus,
)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
BINDING_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_HW_SUBSET")

QUOTA = fault(
    "cpu.threads.quota",
    "warn",
    "The control group allows fewer CPUs than torch has threads",
    cause="threads wait for each other while the quota stops them: every step is slow, and timings jump",
    fix="export OMP_NUM_THREADS=<threads>, or raise the container's CPU limit",
    link="https://docs.kernel.org/scheduler/sched-bwc.html",
)
THROTTLED = fault(
    "cpu.threads.throttled",
    "warn",
    "The control group's CPU quota stops this process often",
    cause="its threads use up their share of CPU time and then stand still until the next period",
    fix="raise the container's CPU limit, or use fewer threads and DataLoader workers",
    link="https://docs.kernel.org/scheduler/sched-bwc.html",
)
ONE_THREAD = fault(
    "cpu.threads.one",
    "warn",
    "torch uses one thread on many cores",
    cause="CPU operations use one core; torchrun sets OMP_NUM_THREADS=1 for its workers, and it is often left over",
    fix="unset <variable>, or export <variable>=<cpus>",
    link="https://docs.pytorch.org/docs/stable/elastic/run.html",
)
MANY_THREADS = fault(
    "cpu.threads.many",
    "warn",
    "torch uses more threads than there are cores",
    cause="threads take each other's cores away in the middle of an operation: it is many times slower",
    fix="unset OMP_NUM_THREADS MKL_NUM_THREADS, or export OMP_NUM_THREADS=<cpus>",
)
BAD_NUMBER = fault(
    "cpu.threads.invalid",
    "warn",
    "A number of threads is no number",
    cause="the library ignores it, and mostly takes all cores",
    fix="unset <variable>, or export <variable>=<cpus>",
)
ONE_CORE = fault(
    "cpu.affinity.one",
    "warn",
    "This process may run on one core only",
    cause="torch and all DataLoader workers share one core",
    fix="taskset -pc 0-<last> $$; with Slurm: srun --cpus-per-task=N --cpu-bind=none",
)
CPUSET = fault(
    "cpu.affinity.cpuset",
    "warn",
    "The control group allows one core only",
    cause="torch and all DataLoader workers share one core",
    fix="give the container or job more CPUs: docker run --cpuset-cpus=0-<last>; with Slurm: --cpus-per-task=N",
)
PINNED = fault(
    "cpu.affinity.pinned",
    "warn",
    "Variables pin all threads of torch to one core",
    cause="its threads take turns on one core, and so do all DataLoader workers",
    fix="unset <variables>",
)
WORKERS_PINNED = fault(
    "cpu.affinity.workers",
    "warn",
    "Variables pin the main thread, and so every DataLoader worker",
    cause="the OpenMP library binds the main thread when torch is imported, and DataLoader workers inherit it: "
    "all of them share its cores",
    fix="unset <variables>, or reset the mask in worker_init_fn: os.sched_setaffinity(0, range(os.cpu_count()))",
    link="https://github.com/pytorch/pytorch/issues/101850",
)
NO_VECTORS = fault(
    "cpu.capability.machine",
    "warn",
    "This CPU, or what a virtual machine shows of it, has no AVX2",
    cause="torch falls back to scalar kernels: CPU training is several times slower",
    fix="give the virtual machine the host's CPU model (host-passthrough)",
)
UNUSED_VECTORS = fault(
    "cpu.capability.build",
    "warn",
    "torch leaves the CPU's vector instructions unused",
    cause="this build of torch was made without them: CPU training is several times slower",
    fix="<python> -m pip install --force-reinstall torch",
)
EMULATED = fault(
    "cpu.capability.emulated",
    "warn",
    "The CPU is emulated",
    cause="programs for x86-64 run on an ARM processor through a translator: many times slower, without AVX, and "
    "some libraries crash",
    fix="use an image and a Python for arm64: docker run --platform linux/arm64",
)


@check("cpu.threads", "Threads fit to the cores", needs=("torch.import",))
def threads(context: Context) -> Iterator[Finding]:
    """Compares torch's threads with the affinity mask, the control group's quota and all CPUs."""
    count = context.facts["torch"].get("threads") or usable_cpus()
    usable, quota, all_cpus = usable_cpus(), cgroup_cpus(), os.cpu_count() or 1
    context.facts["cpus"] = {"usable": usable, "all": all_cpus, "quota": quota, "torch_threads": count}
    set_here = {name: context.environ[name] for name in THREAD_VARIABLES if name in context.environ}
    found = list(_invalid(set_here, usable))
    throttled = cgroup_throttled()
    if quota is not None and quota < usable and count > quota:
        found.append(
            QUOTA.found(
                f"the control group (cgroup) allows {quota:g} CPU, but torch uses {count} threads",
                fix="raise the container's CPU limit" if count == 1 else None,
                threads=max(1, int(quota)),
            )
        )
    elif throttled and throttled[1] >= 100 and throttled[0] > throttled[1] // 4:
        found.append(
            THROTTLED.found(
                f"the control group's CPU quota stopped this group in {throttled[0]} of {throttled[1]} periods"
            )
        )
    if count == 1 and usable > 1 and (quota is None or quota >= 2):
        ones = [name for name, value in set_here.items() if value.strip() == "1"]
        reason = " and ".join(f"{name}=1" for name in ones) or "torch.get_num_threads()"
        found.append(
            ONE_THREAD.found(
                f"{reason}: torch uses 1 thread on {usable} usable CPUs",
                variable=ones[0] if ones else "OMP_NUM_THREADS",
                cpus=usable,
            )
        )
    elif count > usable and (quota is None or quota >= usable):
        found.append(
            MANY_THREADS.found(f"torch uses {count} threads on {usable} usable CPUs{_set(set_here)}", cpus=usable)
        )
    yield from found
    if not found:
        limit = f"; cgroup quota {quota:g} CPU" if quota is not None else ""
        yield passed(f"{count} threads on {usable} usable CPUs of {all_cpus}{limit}{_set(set_here)}")


def _invalid(variables: dict[str, str], usable: int) -> Iterator[Finding]:
    for name, value in variables.items():
        numbers = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in numbers):
            yield BAD_NUMBER.found(f"{name}={value!r} is not a number of threads", variable=name, cpus=usable)


def _set(variables: dict[str, str]) -> str:
    return "".join(f"; {name}={value}" for name, value in variables.items())


@check("cpu.affinity", "Threads and DataLoader workers may use all cores", needs=("torch.import",))
def affinity(context: Context) -> Iterator[Finding]:
    """Compares the masks of this process, of its control group, and of torch's threads with all CPUs."""
    mine, group, all_cpus = os.sched_getaffinity(0), cgroup_cpuset(), os.cpu_count() or 1
    if len(mine) == 1 and all_cpus > 1:
        (cpu,) = mine
        if len(group) == 1:
            yield CPUSET.found(
                f"the control group's cpuset (cgroup) binds this process to 1 of {all_cpus} CPUs (CPU {cpu})",
                last=all_cpus - 1,
            )
        else:
            yield ONE_CORE.found(
                f"the affinity mask binds this process to 1 of {all_cpus} CPUs (CPU {cpu})", last=all_cpus - 1
            )
        return
    outcome = context.torch_probe("threads")
    main, masks = outcome.answer.get("main"), outcome.answer.get("masks", [])
    if main is None:
        yield skipped(f"the process that asks for the masks of torch's threads {outcome.ending}")
        return
    variables = [name for name in BINDING_VARIABLES if name in context.environ]
    shown = " ".join(f"{name}={context.environ[name]}" for name in variables) or "no OpenMP variable"
    cores = {cpu for mask in masks for cpu in mask}
    if len(masks) > 1 and len(cores) == 1 and len(mine) > 1:
        yield PINNED.found(
            f"{shown}: all {outcome.answer['threads']} threads of torch are bound to 1 of {len(mine)} CPUs",
            variables=" ".join(variables),
        )
    elif len(main) < len(mine):
        yield WORKERS_PINNED.found(
            f"{shown}: after import torch the main thread is bound to {len(main)} of {len(mine)} CPUs",
            variables=" ".join(variables) or "the variables that bind threads",
        )
    else:
        limit = f"; the control group's cpuset has {len(group)}" if group and len(group) < all_cpus else ""
        yield passed(f"{len(mine)} of {all_cpus} CPUs, for the workers too{limit}")


@check("cpu.capability", "torch uses the CPU's vector instructions", needs=("torch.import",))
def capability(context: Context) -> Iterator[Finding]:
    name = context.facts["torch"].get("cpu_capability", "unknown")
    machine = context.facts["python"]["machine"]
    info, flags = cpu_info(), cpu_flags()
    intel = machine in ("x86_64", "AMD64")
    if intel and ("VirtualApple" in info.get("vendor_id", "") or "CPU implementer" in info):
        model = info.get("vendor_id") or f"CPU implementer {info['CPU implementer']}"
        yield EMULATED.found(f"this Python is for {machine}, but /proc/cpuinfo shows {model}")
    elif intel and name in ("DEFAULT", "NO AVX") and "ATEN_CPU_CAPABILITY" not in context.environ:
        if "avx2" in flags:
            yield UNUSED_VECTORS.found(f"torch uses the {name} kernels, but /proc/cpuinfo shows avx2")
        else:
            yield NO_VECTORS.found(f"torch uses the {name} kernels on {machine}")
    else:
        yield passed(f"{name} kernels on {info.get('model name') or machine}")
