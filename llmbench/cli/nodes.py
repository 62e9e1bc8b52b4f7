"""``llmbench run`` on several nodes: which one this is, who leads, and what a node does that follows."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.options import DeviceKind, ProgressKind

if TYPE_CHECKING:
    from llmbench.cluster.allocation import Allocation
    from llmbench.cluster.channel import Leader
    from llmbench.cluster.place import Place

JOIN_SECONDS = 300.0

NodeCount = Annotated[
    int | None,
    typer.Option("--nnodes", min=1, help="Nodes that train together; start the same command on each of them."),
]
NodeRank = Annotated[
    int | None, typer.Option("--node-rank", min=0, help="Which of the nodes this is; node 0 leads and writes the run.")
]
ProcessCount = Annotated[
    int | None,
    typer.Option("--nproc-per-node", min=1, help="Processes of a node. Default: one for each CUDA device, else one."),
]
MasterAddress = Annotated[
    str | None, typer.Option("--master-addr", metavar="HOST", help="Where the other nodes reach node 0.")
]
MasterPort = Annotated[
    int | None, typer.Option("--master-port", min=1, max=65535, help="Port of node 0. Default: 29500.")
]
JoinSeconds = Annotated[float, typer.Option("--join-seconds", min=1.0, help="How long nodes wait for each other.")]


@dataclass(frozen=True)
class NodeOptions:
    """What the command line says of nodes."""

    nnodes: int | None = None
    node_rank: int | None = None
    nproc_per_node: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    join_seconds: float = JOIN_SECONDS

    def allocation(self) -> Allocation | None:
        """The nodes of the script of SLURM in which this runs, once for all of them; None elsewhere.

        Raises:
            UserError: the job has fewer nodes.
        """
        from llmbench.cluster.allocation import find_allocation, within_script

        alone = self.nnodes is None or self.nnodes == 1 or not within_script(os.environ)
        if alone or any(each is not None for each in (self.node_rank, self.master_addr, self.master_port)):
            return None
        return find_allocation(os.environ, self.nnodes)

    def place(self) -> Place | None:
        """This node among the others; None where there are none.

        Raises:
            UserError: the options, or the variables of a launcher, do not say which node this is.
        """
        given = (self.nnodes, self.node_rank, self.nproc_per_node, self.master_addr, self.master_port)
        if given == (None,) * len(given) and "PET_NNODES" not in os.environ:
            return None
        from llmbench.cluster.place import find_place

        return find_place(os.environ, *given)


def processes_here(nproc_per_node: int | None, device: DeviceKind) -> int:
    """Ranks that this node can take: as asked for, else one for each CUDA device, else one."""
    if nproc_per_node is not None:
        return nproc_per_node
    if device is DeviceKind.cpu:
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([name for name in visible.split(",") if name.strip()]))
    import pynvml

    try:
        pynvml.nvmlInit()
        return max(1, int(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return 1


@dataclass(frozen=True)
class Led:
    """The nodes that have joined, and the ranks that each can take."""

    leader: Leader
    processes: Sequence[int]


@contextmanager
def led(place: Place, processes: int, join_seconds: float, say: Callable[[str], None]) -> Iterator[Led]:
    """Leads the others, once all have joined; on leaving, they are told to go.

    Raises:
        UserError: some never join, or do something else.
    """
    from dataclasses import replace

    from llmbench.cluster.channel import Leader
    from llmbench.errors import UserError

    told: list[list[int]] = []

    def waiting(missing: list[int]) -> None:
        if missing not in told:
            told.append(missing)
            say(f"waiting for {_nodes(missing)} at port {place.master_port}")

    if place.nnodes == 1:
        place = replace(place, master_port=0)  # nobody else needs to know it
    hello = {"processes": processes}
    with Leader(place, hello, join_seconds=join_seconds, on_wait=waiting) as leader:
        hellos = leader.join()
        for node, says in hellos.items():
            if "processes" not in says:
                raise UserError(
                    f"node {node} ({leader.hosts[node]}) runs another command", "the same command on every node"
                )
        yield Led(leader, [int(hellos[node]["processes"]) for node in range(place.nnodes)])


def _nodes(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"node {shown}" if len(ranks) == 1 else f"nodes {shown}"


def follow(place: Place, python: str, processes: int, join_seconds: float, kind: ProgressKind) -> int:
    """Follows node 0 until it has done; the exit code.

    Raises:
        UserError: node 0 is not there, or refuses this node.
    """
    from llmbench.cli.interrupts import interruptible
    from llmbench.cluster.channel import Follower, LeaderLost
    from llmbench.launch.follow import Follow
    from llmbench.start import USAGE, complain

    def say(message: str) -> None:
        if kind is not ProgressKind.none:
            typer.echo(f"node {place.node_rank} ({socket.gethostname()}): {message}", err=True)

    say(f"joining node 0 at {place.master_addr}:{place.master_port}")
    with interruptible() as ending:
        with (
            Follower(place, {"processes": processes}, join_seconds) as follower,
            Follow(follower, python, say) as following,
        ):
            say(f"joined, as one of {place.nnodes} nodes")
            try:
                why = follower.serve(following.handlers)
            except LeaderLost as lost:
                complain(f"llmbench: {lost}", "  what was finished is there; go on with --resume on node 0")
                return USAGE
        say("node 0 was interrupted" if why else "done: node 0 has ended the run")
        return 0
    return ending.code
