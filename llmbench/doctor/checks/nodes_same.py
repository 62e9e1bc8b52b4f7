"""Whether the nodes are alike: who differs from what most of them have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.nodes.words import Labels, named, odd_ones
from llmbench.doctor.runner import Context

_NEARLY = 0.05
"""Of the memory of equal machines: firmware and kernel keep some for themselves."""


def _fault(id: str, verdict: Literal["fail", "warn"], what: str, cause: str, fix: str) -> Fault:
    return fault(f"nodes.same.{id}", verdict, f"The nodes differ in {what}", cause=cause, fix=fix)


_INSTALL = "on <node>: make it as on the others, from one lock file or image"

FAULTS: dict[str, Fault] = {
    "torch": _fault(
        "torch",
        "fail",
        "the version of torch",
        "ranks of two versions may not agree on what they send: jobs hang, fail, or compute with different kernels",
        "on <node>: <python> -m pip install the version of the others, from one lock file or image",
    ),
    "cuda": _fault(
        "cuda",
        "warn",
        "the CUDA version of torch",
        "kernels, and with them speed and rounding, differ between ranks; the slowest sets the pace",
        _INSTALL,
    ),
    "nccl": _fault(
        "nccl",
        "fail",
        "the version of NCCL",
        "NCCL demands the same version in all ranks: it fails ('NCCL version mismatch', 'invalid usage') or hangs",
        "on <node>: install the NCCL of the others; LD_LIBRARY_PATH and LD_PRELOAD may bring another one",
    ),
    "driver": _fault(
        "driver",
        "warn",
        "the NVIDIA driver",
        "speed and features (P2P, GPUDirect) differ between ranks; an older driver may not start this torch",
        "on <node>: install the driver of the others, and reboot",
    ),
    "gpus": _fault(
        "gpus",
        "warn",
        "their GPUs",
        "the slowest rank sets the pace, the smallest memory the batch; where a GPU is missing, a rank has none",
        "on <node>: nvidia-smi -L and llmbench doctor --only gpu show what is there; ask the scheduler for one kind",
    ),
    "python": _fault(
        "python",
        "warn",
        "the version of Python",
        "what one node pickles another may not read, and packages differ",
        _INSTALL,
    ),
    "llmbench": _fault(
        "llmbench",
        "warn",
        "the version of llmbench",
        "the nodes may measure differently",
        "on <node>: <python> -m pip install llmbench of the version of the others",
    ),
    "kernel": _fault(
        "kernel",
        "warn",
        "the Linux kernel",
        "a node that was updated alone behaves and performs differently, and is often the one with the odd fault",
        "on <node>: boot the kernel of the others",
    ),
    "os": _fault(
        "os",
        "warn",
        "the distribution",
        "libraries of the system (glibc, RDMA, compilers) differ between ranks",
        "use one image for all nodes",
    ),
    "cpu": _fault(
        "cpu",
        "warn",
        "their CPUs",
        "data loading and everything on the CPU is as fast as on the slowest node; kernels of other instruction sets "
        "round differently",
        "ask the scheduler for one kind of node, and for the same number of CPUs on each",
    ),
    "memory": _fault(
        "memory",
        "warn",
        "their memory",
        "what fits on one node is killed for want of memory on another",
        "ask the scheduler for one kind of node; on <node>: dmidecode -t memory shows a module that is missing",
    ),
    "variables": _fault(
        "variables",
        "warn",
        "variables that training reads",
        "ranks choose other transports, algorithms or threads: where NCCL_* differ it hangs or fails, or is slow",
        "set <variable> to the same on every node: in the job's script, or with srun --export",
    ),
}


@check("nodes.same", "The nodes are alike", deadline=60)
def same(context: Context) -> Iterator[Finding]:
    """Versions, hardware and variables of each against what most have; of two that differ, neither is right."""
    yield skipped("asked with --nodes N, by a command on each node")


def judge(known: Labels, facts: Mapping[int, Mapping[str, Any]]) -> Iterator[Finding]:
    """Each topic in which they differ.

    Args:
        known: the nodes.
        facts: by rank, texts by the names in ``FAULTS``, ``memory`` in bytes, ``variables`` by name. What a node could
            not tell is None, and not compared.
    """
    found = []
    for topic, known_fault in FAULTS.items():
        values = {rank: told[topic] for rank, told in facts.items() if told.get(topic) is not None}
        if topic == "variables":
            found += [*_variables(known, values)]
        elif topic == "memory":
            found += [*_told(known_fault, _sizes(values), known)]
        else:
            found += [*_told(known_fault, {rank: f"{_NAMES.get(topic, '')}{v}" for rank, v in values.items()}, known)]
    yield from found
    if not found:
        first = facts[min(facts)]
        shown = [f"{_NAMES.get(topic, '')}{first[topic]}" for topic in FAULTS if isinstance(first.get(topic), str)]
        yield passed(f"{len(facts)} nodes: {', '.join(shown)}")


_NAMES = {
    "torch": "torch ",
    "cuda": "CUDA ",
    "nccl": "NCCL ",
    "driver": "driver ",
    "python": "Python ",
    "llmbench": "llmbench ",
    "kernel": "Linux ",
}


def _told(fault: Fault, values: Mapping[int, Any], known: Labels, variable: str = "") -> Iterator[Finding]:
    odd = odd_ones(values, known)
    if odd:
        yield replace(fault.found(odd.shown, node=named(odd.nodes, known), variable=variable), nodes=odd.nodes)


def _sizes(values: Mapping[int, int]) -> dict[int, str]:
    """In words; those that are nearly the median are the median."""
    if not values:
        return {}
    middle = sorted(values.values())[len(values) // 2]
    near = {rank: abs(size - middle) <= _NEARLY * middle for rank, size in values.items()}
    return {rank: f"{(middle if near[rank] else size) / 2**30:.1f} GiB" for rank, size in values.items()}


def _variables(known: Labels, values: Mapping[int, Mapping[str, str]]) -> Iterator[Finding]:
    for variable in sorted({name for there in values.values() for name in there}):
        shown = {
            rank: f"{variable}={there[variable]}" if variable in there else f"no {variable}"
            for rank, there in values.items()
        }
        yield from _told(FAULTS["variables"], shown, known, variable=variable)
