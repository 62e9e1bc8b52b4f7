"""Collectives that are really carried out: gloo on each interface, a start with torchrun, NCCL on the GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_devices
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.network import network
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import PROBES, Context

JOB = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
"""What is left over of a job would make these processes wait for others."""
_DEFAULT = ["all_reduce"]
_ALL = ["all_reduce", "broadcast", "all_gather", "all_to_all", "barrier"]
_LARGE = 16 * 2**20

Kind = Literal["hangs", "crashed", "wrong", "limit", "address", "failed"]
_KINDS: dict[Kind, tuple[str, str, str]] = {
    "hangs": (
        "does not end",
        "the processes do not reach each other: a firewall or a policy drops connections between them",
        "iptables -I INPUT -i lo -j ACCEPT; look at the host name in /etc/hosts; or export GLOO_SOCKET_IFNAME=lo",
    ),
    "crashed": (
        "kills a process",
        "a library of torch crashes in it: a broken install, or one that is not meant for this CPU or driver",
        "<python> -m pip install --force-reinstall torch",
    ),
    "wrong": (
        "computes a wrong result",
        "gradients that are added up between processes are wrong, so training computes wrong",
        "<python> -m pip install --force-reinstall torch; then test the memory, and the GPUs with dcgmi diag -r 3",
    ),
    "limit": (
        "runs into a limit",
        "each pair of processes needs files, threads and memory, and a limit of this process or its container is too "
        "low",
        "ulimit -n 65536; ulimit -u unlimited; raise the container's memory and process limits",
    ),
    "address": (
        "finds no address",
        "the host name, or the interface that a variable names, has no address that it can listen on",
        "echo '127.0.0.1 <host>' >> /etc/hosts, or export GLOO_SOCKET_IFNAME=lo",
    ),
    "failed": (
        "fails",
        "processes of this machine cannot form a group: distributed training fails",
        "look at the host name in /etc/hosts and at firewalls, or export GLOO_SOCKET_IFNAME=lo",
    ),
}


def _family(id: str, what: str) -> Mapping[Kind, Fault]:
    return {
        kind: fault(f"{id}.{kind}", "fail", f"{what} {title}", cause=cause, fix=fix)
        for kind, (title, cause, fix) in _KINDS.items()
    }


_SAID: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (
        "limit",
        ("Too many open files", "Cannot allocate memory", "Resource temporarily unavailable", "can't start new thread"),
    ),
    (
        "address",
        ("Unable to find address", "Cannot assign requested address", "gai error", "Unable to resolve", "getaddrinfo"),
    ),
    ("hangs", ("imed out", "imeout", "Connection refused", "No route to host", "unreachable")),
)


def judge(outcome: Outcome, world_size: int, operations: list[str]) -> tuple[Kind, str] | None:
    """What went wrong, and how it shows; None if every rank carried out every operation."""
    ranks: list[dict[str, Any]] = outcome.answer.get("answers") or []
    if outcome.timed_out:
        return "hangs", f"{outcome.ending}"
    for number, rank in enumerate(ranks):
        wrong = next((f"{name}: {rank[name]}" for name in operations if rank.get(name)), None)
        if wrong:
            return "wrong", f"rank {number}, {wrong}"
    killed = [(number, code) for number, code in enumerate(outcome.answer.get("codes", [])) if code < 0]
    if killed:
        number, code = killed[0]
        at = ranks[number].get("at", "forming the group")
        return "crashed", f"rank {number} was killed by signal {-code} at: {at}"
    errors = [(number, rank["error"]) for number, rank in enumerate(ranks) if "error" in rank]
    # What the first to fail says tells more than that its peers lost it.
    errors.sort(key=lambda pair: "Connection closed by peer" in pair[1] or "reset by peer" in pair[1])
    for number, error in errors:
        return _of_error(error), f"rank {number}: {error.splitlines()[0][:300]}"
    if outcome.signal:
        return "crashed", outcome.ending
    if not outcome.ok or len(ranks) != world_size:
        return _of_error(outcome.last_words), outcome.ending
    return None


def _of_error(error: str) -> Kind:
    return next((kind for kind, words in _SAID if any(word in error for word in words)), "failed")


def run(context: Context, world_size: int, operations: list[str], environ: Mapping[str, str], **more: Any) -> Outcome:
    arguments = {"world_size": world_size, "timeout": 20, "operations": operations, **more}
    return context.torch_probe("allreduce", arguments, {**dict.fromkeys(JOB), **environ})


_ALLREDUCE = _family("network.allreduce", "A gloo all-reduce of two processes")


@check(
    "network.allreduce",
    "Two processes all-reduce with gloo",
    deadline=60,
    needs=("torch.import", "network.loopback", "network.host"),
    follows=("cpu.memory", "cpu.limits", "network.interfaces", "network.links"),
)
def allreduce(context: Context) -> Iterator[Finding]:
    """As training would, with the interface that gloo chooses by the host name or a variable."""
    if not context.facts["torch"].get("gloo"):
        yield skipped("this build of torch has no gloo")
        return
    outcome = run(context, 2, _DEFAULT, {})
    fault = judge(outcome, 2, _DEFAULT)
    variable = context.environ.get("GLOO_SOCKET_IFNAME")
    by = f" with GLOO_SOCKET_IFNAME={variable}" if variable else ""
    if fault:
        yield _ALLREDUCE[fault[0]].found(
            f"2-process gloo all-reduce{by}: {fault[1]}", host=network(context).get("host", "$(hostname)")
        )
    else:
        yield passed(f"2 ranks{by}, sum 3 as expected, {outcome.answer['seconds']:.1f} s")


_COLLECTIVES = _family("network.collectives", "A collective of several processes on one of the interfaces")


@check(
    "network.collectives",
    "Collectives work on each interface",
    deadline=60,
    needs=("network.allreduce",),
    follows=("network.interfaces", "network.links"),
    deep=True,
)
def collectives(context: Context) -> Iterator[Finding]:
    """All kinds of collectives between four processes, and the rate of a large all-reduce."""
    if not context.facts["torch"].get("gloo"):
        yield skipped("this build of torch has no gloo")
        return
    for link in network(context).get("interfaces", []):
        if not link["up"] or not link["address"]:
            continue
        outcome = run(context, 4, _ALL, {"GLOO_SOCKET_IFNAME": link["name"]}, bytes=_LARGE)
        fault = judge(outcome, 4, _ALL)
        name = f"{link['name']} ({link['address']})"
        if fault:
            yield _COLLECTIVES[fault[0]].found(
                f"4-process gloo on {name}: {fault[1]}", host=network(context).get("host", "")
            )
        else:
            rate = min(rank["bytes_per_second"] for rank in outcome.answer["answers"])
            yield passed(
                f"{name}: {', '.join(_ALL)} of 4 ranks as expected; all-reduce of 16 MiB at {rate / 1e6:.0f} MB/s"
            )


NO_RENDEZVOUS = fault(
    "network.rendezvous.failed",
    "fail",
    "torchrun cannot start two ranks on this machine",
    cause="the ranks do not meet: the host name, a firewall or left-over variables lead them elsewhere",
    fix="torchrun --standalone --local-addr 127.0.0.1; look at the host name in /etc/hosts",
)


@check(
    "network.rendezvous",
    "torchrun starts two ranks",
    deadline=60,
    needs=("torch.import", "network.loopback"),
    follows=("network.host", "network.localhost", "network.interfaces", "network.links", "network.allreduce"),
    deep=True,
)
def rendezvous(context: Context) -> Iterator[Finding]:
    """The real launcher, with a script that adds up over the ranks."""
    if not context.facts["torch"].get("gloo"):
        yield skipped("this build of torch has no gloo")
        return
    clean = ["env", *(f"--unset={name}" for name in (*JOB, "TORCHELASTIC_RUN_ID"))]
    launcher = [context.python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    outcome = context.command([*clean, *launcher, str(Path(PROBES) / "torchrun_rank.py")])
    good = set(re.findall(r"llmbench: rank (\d) of 2 has 0(?![.\d])", outcome.noise))
    if good == {"0", "1"}:
        yield passed(f"torchrun --standalone --nproc-per-node=2: both ranks added up, {outcome.seconds:.1f} s")
    else:
        said = [line for line in outcome.noise.splitlines() if "Error" in line or "c10d" in line]
        yield NO_RENDEZVOUS.found(
            f"torchrun --standalone --nproc-per-node=2 {outcome.ending}: {(said or ['no error shown'])[-1][:300]}"
        )


_NCCL = _family("network.nccl", "An NCCL collective over all GPUs")


@check(
    "network.nccl",
    "NCCL works over all GPUs",
    deadline=120,
    needs=("torch.import", "cuda.driver", "network.loopback"),
    deep=True,
)
def nccl(context: Context) -> Iterator[Finding]:
    """All kinds of collectives with one process per GPU, and the rate of a large all-reduce."""
    if not context.facts["torch"].get("nccl") or not nvidia_devices():
        yield skipped("no GPU, or a build of torch without NCCL")
        return
    outcome = run(context, 0, _ALL, {}, backend="nccl", bytes=16 * _LARGE)
    count = outcome.answer.get("world_size", 0)
    if outcome.ok and count == 0:
        yield skipped("torch sees no GPU")
        return
    fault = judge(outcome, count, _ALL)
    if fault:
        hint = (
            "NCCL_DEBUG=INFO shows where it stops; NCCL_P2P_DISABLE=1, NCCL_SHM_DISABLE=1 and NCCL_IB_DISABLE=1, "
            "one at a time, narrow it down"
        )
        known = fault[0] in ("wrong", "limit")
        yield _NCCL[fault[0]].found(f"NCCL over {count} GPUs: {fault[1]}", fix=None if known else hint)
    else:
        rate = min(rank["bytes_per_second"] for rank in outcome.answer["answers"])
        yield passed(f"{', '.join(_ALL)} of {count} GPUs as expected; all-reduce of 256 MiB at {rate / 1e9:.1f} GB/s")
