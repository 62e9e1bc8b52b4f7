"""An all-reduce over all nodes: whether it works, how fast it is, and who breaks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.nodes.words import Labels, named
from llmbench.doctor.runner import Context

SIZES = (2**20, 16 * 2**20)
"""Bytes of the messages whose time is taken."""
STAGES = (
    "start",
    "import torch",
    "meet node 0",
    "form the group",
    *(f"all-reduce {s // 2**20} MiB" for s in SIZES),
    "end",
)
"""What a rank does, in this order; it tells each when it begins."""

_DEBUG = "torch's own words: TORCH_DISTRIBUTED_DEBUG=DETAIL, and NCCL_DEBUG=INFO on GPUs"

HANGS = fault(
    "nodes.allreduce.hangs",
    "fail",
    "An all-reduce over all nodes does not end",
    cause="a node does not reach the others in it: a firewall, an interface or an address that leads nowhere, large "
    "packets that are dropped; training would hang in its first step",
    fix=f"on <node>: llmbench doctor --only network; GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME to an interface that all "
    f"share; {_DEBUG}",
)
FAILED = fault(
    "nodes.allreduce.failed",
    "fail",
    "A node fails in an all-reduce over all nodes",
    cause="what is told below: the others only lose their connection to it",
    fix=f"on <node>: llmbench doctor --only torch,network; {_DEBUG}",
)
CRASHED = fault(
    "nodes.allreduce.crashed",
    "fail",
    "A process is killed in an all-reduce over all nodes",
    cause="a library of torch crashes there, or the system killed it for want of memory",
    fix="on <node>: llmbench doctor --only torch,cpu; dmesg -T | tail",
)
WRONG = fault(
    "nodes.allreduce.wrong",
    "fail",
    "An all-reduce over all nodes computes a wrong sum",
    cause="gradients that are added up between nodes are wrong, so training computes wrong: memory, a GPU or a link "
    "that changes bits, or libraries that do not fit together",
    fix="llmbench doctor --nodes --deep on halves of the nodes, until the one is found; then its memory and GPUs",
)


@check("nodes.allreduce", "An all-reduce over all nodes, timed", deadline=180, needs=("nodes.ports",),
       follows=("nodes.joined", "nodes.host", "nodes.interface", "nodes.same"))  # fmt: skip
def allreduce(context: Context) -> Iterator[Finding]:
    """1 and 16 MiB, with NCCL where every node has GPUs, else with gloo; bus bandwidth as nccl-tests define it."""
    yield skipped("asked with --nodes N, by a command on each node")


@dataclass(frozen=True)
class Rank:
    """How one process fared.

    Attributes:
        node: its node's rank.
        at: the stage (of ``STAGES``) that it began last.
        error: what it raised; ``signal``: what killed it.
        stopped: it was ended because another one had failed, or the time was over.
        wrong: what it computed instead of the sum.
        seconds: of one all-reduce, by bytes.
    """

    node: int
    at: str = "start"
    error: str | None = None
    signal: str | None = None
    stopped: bool = False
    wrong: str | None = None
    seconds: Mapping[int, float] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.at == "end" and not self.error and not self.signal


_CONSEQUENCES = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "timed out",
    "Timeout",
    "timeout",
    "recvValue failed",
    "client socket",
    "Failed to recv",
    "Read error",
    "Write error",
    "remote process",
    "remote error",
    "DistStoreError",
    "Socket Timeout",
    "Connection was likely closed",
)
"""In what gloo, NCCL and the store say when it was another one that failed."""


def judge(known: Labels, backend: str, ranks: Sequence[Rank]) -> Iterator[Finding]:
    """Who failed first, or how fast it was."""
    wrong = [rank for rank in ranks if rank.wrong]
    killed = [rank for rank in ranks if rank.signal and not rank.stopped]
    raised = [rank for rank in ranks if rank.error and not any(words in rank.error for words in _CONSEQUENCES)]
    if killed:
        yield _blamed(CRASHED, killed, [f"killed by {killed[0].signal} in {killed[0].at}"], known)
    elif raised:
        yield _blamed(FAILED, raised, dict.fromkeys(f"{rank.at}: {rank.error}" for rank in raised), known)
    elif wrong:
        yield _blamed(WRONG, wrong, dict.fromkeys(str(rank.wrong) for rank in wrong), known)
    elif not all(rank.done for rank in ranks):
        yield _hang(known, backend, ranks)
    else:
        yield passed(f"{backend}, {len(ranks)} ranks on {len(known)} nodes: {rates_in_words(ranks)}")


def _blamed(fault: Fault, ranks: Sequence[Rank], said: Any, known: Labels) -> Finding:
    nodes = tuple(sorted({rank.node for rank in ranks}))
    who = named(nodes, known)
    return replace(fault.found(f"{who}: {'; '.join(said)}", node=who), nodes=nodes)


def _hang(known: Labels, backend: str, ranks: Sequence[Rank]) -> Finding:
    """Those that came least far keep the others waiting; where all came equally far, nobody can be told."""
    open_ = [rank for rank in ranks if not rank.done]
    behind = min(STAGES.index(rank.at) for rank in open_)
    last = [rank for rank in open_ if STAGES.index(rank.at) == behind]
    nodes = tuple(sorted({rank.node for rank in last}))
    others = sorted({rank.node for rank in ranks} - set(nodes))
    errors = dict.fromkeys(rank.error.splitlines()[0][:200] for rank in open_ if rank.error)
    what = f"{named(nodes, known)} did not get beyond: {STAGES[behind]}"
    if others:
        what += f"; {named(others, known)} wait in: {next(rank.at for rank in ranks if rank.node == others[0])}"
    said = f" ({'; '.join(list(errors)[:2])})" if errors else ""
    return replace(HANGS.found(f"{backend}: {what}{said}", node=named(nodes, known)), nodes=nodes)


def rates(ranks: Sequence[Rank]) -> list[dict[str, float]]:
    """Of each size ``bytes``, ``seconds`` of the slowest rank, and ``busbw`` in bytes a second.

    Bus bandwidth is bytes / seconds · 2 (n - 1) / n, as nccl-tests define it (doc/PERFORMANCE.md).
    """
    count = len(ranks)
    found = []
    for size in SIZES:
        seconds = max(rank.seconds[size] for rank in ranks)
        found.append({"bytes": size, "seconds": seconds, "busbw": size / seconds * 2 * (count - 1) / count})
    return found


def rates_in_words(ranks: Sequence[Rank]) -> str:
    return ", ".join(
        f"{rate['bytes'] // 2**20} MiB in {1000 * rate['seconds']:.3g} ms (bus {rate['busbw'] / 1e9:.3g} GB/s)"
        for rate in rates(ranks)
    )
