"""Which node this is: from the options, or from the variables that a launcher set."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from llmbench.errors import UserError

DEFAULT_PORT = 29500
FIRST_JOB_PORT, JOB_PORTS = 20000, 10000
MOST_NODES = 100_000

Launcher = Literal["options", "PET", "SLURM"]


@dataclass(frozen=True)
class Place:
    """One node among those that were started together, each with the same command.

    Attributes:
        nproc_per_node: ranks of a node; None: one for each device, on CPUs one.
        master_addr: name or address at which the other nodes reach node 0, which leads.
        launcher: who said which node this is.
    """

    nnodes: int
    node_rank: int
    master_addr: str
    master_port: int
    nproc_per_node: int | None = None
    launcher: Launcher = "options"

    @property
    def leads(self) -> bool:
        return self.node_rank == 0


def find_place(
    environ: Mapping[str, str],
    nnodes: int | None = None,
    node_rank: int | None = None,
    nproc_per_node: int | None = None,
    master_addr: str | None = None,
    master_port: int | None = None,
    hostnames: Callable[[str], list[str]] | None = None,
) -> Place:
    """The place of this process. Options come first, then torchrun's ``PET_*``, then SLURM's variables of a step.

    Args:
        environ: the environment variables.
        hostnames: the hosts of a SLURM node list; by default ``scontrol`` tells.

    Raises:
        UserError: something is missing or cannot be right; the option or variable is named.
    """
    pet = "PET_NNODES" in environ or "PET_NODE_RANK" in environ
    step = "SLURM_STEP_ID" in environ and not pet
    if step:
        _one_task_per_node(environ)
    launcher: Launcher = "PET" if pet else "SLURM" if step else "options"
    nodes = nnodes or _number(environ, ["PET_NNODES"] + ["SLURM_STEP_NUM_NODES", "SLURM_NNODES"] * step)
    if nodes is None:
        raise UserError("how many nodes? Neither --nnodes nor a launcher says it", "--nnodes N, the same on every node")
    if nodes > MOST_NODES:
        raise UserError(f"--nnodes {nodes}: at most {MOST_NODES}", None)
    ranks = ["PET_NODE_RANK"] + ["JOB_COMPLETION_INDEX"] * pet + ["SLURM_NODEID"] * step
    rank = node_rank if node_rank is not None else _number(environ, ranks)
    if rank is None:
        if nodes > 1:
            raise UserError(
                f"which of the {nodes} nodes is this?",
                "--node-rank 0 on the first, 1 on the next …; under SLURM start it by srun --ntasks-per-node=1",
            )
        rank = 0
    if not 0 <= rank < nodes:
        raise UserError(f"--node-rank {rank}: of {nodes} nodes the last one is {nodes - 1}", "count from 0")
    return Place(
        nnodes=nodes,
        node_rank=rank,
        master_addr=master_addr or _master(environ, nodes, step, hostnames or slurm_hostnames),
        master_port=master_port or _port(environ, step),
        nproc_per_node=nproc_per_node or _processes(environ),
        launcher=launcher,
    )


def _one_task_per_node(environ: Mapping[str, str]) -> None:
    tasks, nodes = (_number(environ, [f"SLURM_STEP_NUM_{what}"]) for what in ("TASKS", "NODES"))
    if tasks is not None and nodes is not None and tasks != nodes:
        raise UserError(
            f"srun starts it {tasks} times on {nodes} nodes; it is to be started once a node",
            "srun --ntasks-per-node=1; --nproc-per-node says how many processes train on each",
        )


def _master(environ: Mapping[str, str], nodes: int, step: bool, hostnames: Callable[[str], list[str]]) -> str:
    for name in ("PET_MASTER_ADDR", "MASTER_ADDR"):
        if environ.get(name):
            return environ[name]
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if step and hosts:
        return hostnames(hosts)[0]
    if nodes > 1:
        raise UserError("where is node 0?", "--master-addr HOST, the same on every node")
    return "127.0.0.1"


def _port(environ: Mapping[str, str], step: bool) -> int:
    given = _number(environ, ["PET_MASTER_PORT", "MASTER_PORT"])
    if given is not None:
        if not 0 < given < 65536:
            raise UserError(f"master port {given}: not a port", "--master-port 1 to 65535")
        return given
    job = _number(environ, ["SLURM_JOB_ID"]) if step else None
    # Steps of one job, and jobs that share a node, are to meet at ports of their own.
    step_id = _number(environ, ["SLURM_STEP_ID"]) or 0
    return DEFAULT_PORT if job is None else FIRST_JOB_PORT + (job * 7 + step_id) % JOB_PORTS


def _processes(environ: Mapping[str, str]) -> int | None:
    given = environ.get("PET_NPROC_PER_NODE", "")
    return None if given in ("", "auto", "gpu", "cpu") else _number(environ, ["PET_NPROC_PER_NODE"])


def _number(environ: Mapping[str, str], names: Iterable[str]) -> int | None:
    """The first of these variables that is set."""
    for name in names:
        value = environ.get(name)
        if value:
            # Torch's elastic launcher also takes LOW:HIGH; how many nodes it will be is then not known yet.
            low, _, high = value.partition(":")
            if not re.fullmatch(r"\d{1,9}", low) or high not in ("", low):
                raise UserError(f"{name}={value}: not a number", f"unset {name}, or give the option")
            return int(low)
    return None


def slurm_hostnames(hosts: str) -> list[str]:
    """The hosts of a SLURM node list such as ``h[0-3,7]``, in its order.

    Raises:
        UserError: ``scontrol`` is missing, or does not understand it.
    """
    if shutil.which("scontrol") is None:
        raise UserError(f"the nodes {hosts}: scontrol is not there to name them", "--master-addr HOST of node 0")
    found = subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, check=False)
    if found.returncode != 0 or not found.stdout.split():
        raise UserError(
            f"scontrol show hostnames {hosts}: {found.stderr.strip() or 'nothing'}", "--master-addr HOST of node 0"
        )
    return found.stdout.split()
