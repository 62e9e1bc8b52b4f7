"""The nodes that SLURM gave to the script in which this process runs: which, how long, and how many cores."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from llmbench.cluster.place import slurm_hostnames
from llmbench.errors import UserError
from llmbench.submit.scontrol import fields

NEAR_SECONDS = 120.0  # before the wall limit: a goodbye by then is taken for that of the limit
ASK_SECONDS = 10.0
SIGN_SECONDS = 1.5  # for a slurmd to take a connection
_GONE = ("down", "fail")

Address = tuple[str, int]


@dataclass(frozen=True)
class Allocation:
    """What a job of SLURM has.

    Attributes:
        job: its id.
        hosts: in SLURM's order; the script runs on the first.
    """

    job: str
    hosts: tuple[str, ...]

    def master_address(self) -> str:
        """The name of the first host if it has one that leads there, else its address by SLURM."""
        first = self.hosts[0]
        try:
            socket.getaddrinfo(first, None)
        except OSError:
            return _address(first)
        return first


def within_script(environ: Mapping[str, str]) -> bool:
    """Whether this process runs in a script of sbatch (or under salloc): in a job, and in none of its steps."""
    return "SLURM_JOB_ID" in environ and "SLURM_STEP_ID" not in environ


def find_allocation(
    environ: Mapping[str, str],
    nnodes: int | None = None,
    hostnames: Callable[[str], list[str]] = slurm_hostnames,
) -> Allocation:
    """The allocation of this process.

    Args:
        nnodes: how many of its nodes are wanted; None: all.

    Raises:
        UserError: there is none, or it has too few nodes.
    """
    nodes = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    if not within_script(environ) or not nodes:
        raise UserError("this is no script of SLURM", "`llmbench submit slurm` writes and submits one")
    hosts = hostnames(nodes)
    if nnodes is not None and nnodes > len(hosts):
        raise UserError(
            f"--nnodes {nnodes}: the job {environ['SLURM_JOB_ID']} has {len(hosts)} nodes ({nodes})",
            f"sbatch --nodes={nnodes}, or a smaller --nnodes",
        )
    return Allocation(environ["SLURM_JOB_ID"], tuple(hosts[:nnodes]))


def why_terminated(environ: Mapping[str, str], now: datetime | None = None) -> str | None:
    """Why SLURM says goodbye to this process, where its wall limit is near; None where it is not, or nobody knows."""
    job = environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    found = _scontrol("job", job)
    try:
        left = (datetime.fromisoformat(found["EndTime"]) - (now or datetime.now())).total_seconds()
    except (KeyError, ValueError):
        return None
    if left > NEAR_SECONDS:
        return None
    return f"the job {job} of SLURM reached its wall limit ({found.get('TimeLimit', 'unknown')})"


def down_hosts(hosts: Sequence[str]) -> dict[str, str]:
    """Which of these SLURM does not have any more, and in which state they are."""
    listed = _ask(["sinfo", "--noheader", "--Node", f"--nodes={','.join(hosts)}", "--format=%N %T"])
    found = {}
    for line in listed.splitlines():
        host, _, state = line.strip().partition(" ")
        if host in hosts and (state.endswith("*") or state.startswith(_GONE)):
            found[host] = f"SLURM has it as {state}"
    return found


def slurmd_address(host: str) -> Address | None:
    """Where the slurmd of a host listens; None where SLURM does not tell."""
    told = _scontrol("node", host)
    # A node that listens where all do is shown without a port.
    found = re.search(r"^SlurmdPort\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    port = told.get("Port") or (found and found[1])
    return (told["NodeAddr"], int(port)) if port and "NodeAddr" in told else None


def answers(address: Address) -> bool:
    """Whether somebody takes a connection there."""
    try:
        socket.create_connection(address, timeout=SIGN_SECONDS).close()
    except OSError:
        return False
    return True


def _address(host: str) -> str:
    address = _scontrol("node", host).get("NodeAddr", "")
    try:
        socket.getaddrinfo(address, None)
    except OSError:
        raise UserError(
            f"the name of the first node, {host}, leads nowhere, and neither does its address {address!r} in SLURM",
            "the nodes must find each other: /etc/hosts or DNS",
        ) from None
    return address


def _scontrol(kind: str, name: str) -> dict[str, str]:
    """What SLURM knows of a job or a node; nothing where it does not answer."""
    return fields(_ask(["scontrol", "show", kind, "-o", name]))


def _ask(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
