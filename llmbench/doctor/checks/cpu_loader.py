"""A DataLoader with workers, and what keeps it from delivering."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

NO_SHARED_MEMORY = fault(
    "cpu.loader.shared-memory",
    "fail",
    "Shared memory is too small for DataLoader batches",
    cause="workers write their batches to /dev/shm, and die of a bus error when it is full",
    fix="docker run --shm-size=16g, or --ipc=host; until then use num_workers=0",
    link="https://docs.pytorch.org/docs/stable/data.html",
)
NO_OBJECT = fault(
    "cpu.loader.object",
    "fail",
    "DataLoader workers cannot make files in shared memory",
    cause="the shared memory folder (/dev/shm) is missing, read-only or full",
    fix="mount -t tmpfs -o size=16g tmpfs /dev/shm, or docker run --shm-size=16g; until then use num_workers=0",
)
NO_FILES = fault(
    "cpu.loader.files",
    "fail",
    "DataLoader workers run out of open files",
    cause="each tensor that a worker passes is an open file until it is freed",
    fix="ulimit -n 65536, or torch.multiprocessing.set_sharing_strategy('file_system')",
    link="https://github.com/pytorch/pytorch/issues/973",
)
NO_PROCESS = fault(
    "cpu.loader.processes",
    "fail",
    "DataLoader workers cannot be started",
    cause="a limit of processes and threads is reached: of the user (ulimit -u) or of the control group (pids.max)",
    fix="ulimit -u 65536; docker run --pids-limit=-1; until then use num_workers=0",
)
NO_MEMORY = fault(
    "cpu.loader.memory",
    "fail",
    "DataLoader workers get no memory",
    cause="the limit of the control group or of the address space is reached, or the kernel promises no more than it "
    "has (vm.overcommit_memory=2)",
    fix="raise the memory limit; use fewer workers",
)
NO_SEMAPHORE = fault(
    "cpu.loader.semaphore",
    "fail",
    "This system has no semaphores for DataLoader workers",
    cause="sem_open is not permitted or not there, as in some sandboxes and serverless functions",
    fix="use num_workers=0 there",
)
WORKER_KILLED = fault(
    "cpu.loader.killed",
    "fail",
    "A DataLoader worker was killed",
    cause="most likely the kernel killed it for want of memory",
    fix="give the container or job more memory, and look into the kernel log: dmesg | grep -i kill",
)
LOADER_HANGS = fault(
    "cpu.loader.hangs",
    "fail",
    "DataLoader workers hang",
    cause="workers are forked, and wait for a lock that a thread of their parent held",
    fix="unset OMP_NUM_THREADS KMP_AFFINITY, use multiprocessing_context='spawn' or num_workers=0",
)
LOADER_BROKEN = fault(
    "cpu.loader.broken",
    "fail",
    "A DataLoader with workers fails",
    cause="worker processes cannot be started, or cannot pass their batches through shared memory",
    fix="use num_workers=0 until the reason that is named is mended",
)
LOADER_WRONG = fault(
    "cpu.loader.wrong",
    "fail",
    "Batches come out of DataLoader workers with other values than they went in",
    cause="shared memory is not coherent between processes, or memory is defective",
    fix="use num_workers=0, and test the machine's memory",
)
LOADER_CAUSES = (
    (r"received 0 items of ancdata|Too many open files|Errno 24", NO_FILES),
    (r"[Bb]us error|SIGBUS|insufficient shared memory", NO_SHARED_MEMORY),
    (r"unable to (?:open|mmap|resize|allocate) (?:shared memory|\d+ bytes)|/torch_\d+", NO_OBJECT),
    (r"can't start new thread|Resource temporarily unavailable|Errno 11|pthread_create failed", NO_PROCESS),
    (r"[Cc]annot allocate memory|MemoryError|not enough memory|Errno 12", NO_MEMORY),
    (r"sem_open|Function not implemented|Errno 38|SemLock", NO_SEMAPHORE),
    (r"killed by signal: Killed|signal: 9", WORKER_KILLED),
    (r"timed out after", LOADER_HANGS),
)
"""What torch, Python or the kernel says, and what that means."""


@check(
    "cpu.loader",
    "DataLoader workers deliver batches",
    deadline=60,
    needs=("torch.import", "storage.shm", "cpu.limits"),
    follows=("cpu.memory", "torch.basics", "torch.numpy"),
)
def loader(context: Context) -> Iterator[Finding]:
    arguments = {"rows": 6, "columns": (16 if context.deep else 1) * 2**20, "timeout": 40}
    outcome = context.torch_probe("loader", arguments)
    found = outcome.answer
    if not outcome.ok:
        yield _loader_fault(outcome).found(f"a DataLoader with 2 workers {outcome.ending}")
    elif not found["right"]:
        yield LOADER_WRONG.found(f"the sum of {found['batches']} batches is not that of the data")
    else:
        size = found["batch_bytes"] / 2**20
        how = f", shared as {found['sharing']}" if found.get("sharing") else ""
        yield passed(f"{found['batches']} batches of {size:.0f} MiB from 2 workers in {found['seconds']:.1f} s{how}")


def _loader_fault(outcome: Outcome) -> Fault:
    said = f"{outcome.noise}\n{(outcome.error or {}).get('message', '')}"
    for pattern, named in LOADER_CAUSES:
        if re.search(pattern, said):
            return named
    if outcome.signal == "SIGBUS":
        return NO_SHARED_MEMORY
    if outcome.signal == "SIGKILL":
        return WORKER_KILLED
    return LOADER_HANGS if outcome.timed_out else LOADER_BROKEN
