"""One rank of a case that a scheduler started by itself: a task of an ``srun`` step, in a process of its own.

Everything about the case is in a file on a disk that the nodes share; which rank this is, is in SLURM's variables. What
it says goes to files there, too: nobody reads its pipes. There is no forkserver: each rank imports torch by itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import sys
import tempfile
import time
from typing import Any, NoReturn

from llmbench.worker.process import die_with, write_json

# A rank that raised waits before it leaves: it may only have missed one that died, which SLURM is to see first.
STAY_SECONDS = 2.0
SIOCGIFADDR = 0x8915  # Linux: the address of an interface
RANK_OF = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}


class Silent:
    """Events that nobody listens to: what is kept of them is evidence."""

    def send(self, event: str, **values: Any) -> None:
        return


def run_rank(file: str) -> NoReturn:
    """Does the job of a file as the rank that SLURM's variables name, and ends the process.

    Args:
        file: a JSON object: the ``job``, its ``folder`` (for results), ``log`` (of the whole job), ``master_addr``,
            ``master_port``, ``local_world_size``, ``hosts``; ``step`` is the number of the step.
    """
    begin = time.monotonic()
    die_with(os.getppid())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(file, encoding="utf-8") as text:
        step = json.load(text)
    rank = _enter_world(step)
    _redirect(f"{os.path.splitext(step['log'])[0]}.rank{rank}{os.path.splitext(step['log'])[1]}")
    from llmbench.worker import evidence
    from llmbench.worker.job import begin_process, work

    # The clock of another host means nothing here: what was before this process began is SLURM's time, not torch's.
    job = step["job"] | {"asked_at": begin}
    with tempfile.TemporaryDirectory(prefix="llmbench-") as folder:  # on this host: steps are counted in shared memory
        heartbeat = os.path.join(folder, "steps")
        open(heartbeat, "x").close()
        job |= {"heartbeat": heartbeat}
        begin_process(job)
        with evidence.open_for(job, rank) as kept:
            result = work(job, kept.follow(Silent()))
            failed = "error" in result or "unavailable" in result
            if "error" in result:
                kept.error(result["error"])
            write_json(result_of(step["folder"], rank), result | {"host": socket.gethostname()})
            kept.end(1 if failed else 0)
    sys.stdout.flush()
    sys.stderr.flush()
    if failed:
        time.sleep(STAY_SECONDS)
    os._exit(1 if failed else 0)  # process groups are not torn down: their threads may wait for each other


def result_of(folder: str, rank: int) -> str:
    return os.path.join(folder, f"result.rank{rank}.json")


def _enter_world(step: dict[str, Any]) -> int:
    """Sets the variables that torch and the workloads know from SLURM's; the rank."""
    for name, source in RANK_OF.items():
        os.environ[name] = os.environ[source]
    os.environ["LOCAL_WORLD_SIZE"] = str(step["local_world_size"])
    os.environ["MASTER_ADDR"] = step["master_addr"]
    os.environ["MASTER_PORT"] = str(step["master_port"])
    interface = interface_towards(step["hosts"])
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    # By this torch, and llmbench's workers, know that they are one of several.
    os.environ["TORCHELASTIC_RUN_ID"] = f"slurm-{os.environ.get('SLURM_JOB_ID', '')}.{step['step']}"
    return int(os.environ["RANK"])


def interface_towards(hosts: list[str]) -> str | None:
    """The network interface by which another of the hosts is reached; None if none of them is another.

    Without it gloo takes the address of this host's own name, which on many hosts is one of the loopback.
    """
    for host in hosts:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)  # sends nothing
                own = probe.getsockname()[0]
        except OSError:
            continue
        if own != address[0] and family == socket.AF_INET:
            return _interface_with(own)
    return None


def _interface_with(address: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None


def _redirect(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
