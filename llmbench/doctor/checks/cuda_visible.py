"""Which GPUs the variables leave visible: CUDA's driver hides what it cannot read, and says nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmbench.doctor import gpus
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Fault, Finding, passed, skipped
from llmbench.doctor.runner import Context

_GUIDE = "https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html"
_ALL = ("", "-1", "NoDevFiles")
"""Values that hide every GPU on purpose; SLURM writes the last for jobs without GPUs."""
_ALLOCATED = (
    "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE",
    "SLURM_GPUS_PER_TASK", "SLURM_GPUS_PER_SOCKET", "GPU_DEVICE_ORDINAL",
)  # fmt: skip
"""Variables by which SLURM tells a job that it has GPUs."""

HIDDEN = fault(
    "cuda.visible.hidden",
    "fail",
    "A variable hides every GPU",
    cause="<variable> is set to nothing, or to a value that means nothing: it hides every GPU of this machine from "
    "torch, and training says that no CUDA GPUs are available",
    fix="unset <variable>",
    script="unset <variable>",
    link=_GUIDE,
)
OUT_OF_RANGE = fault(
    "cuda.visible.out-of-range",
    "fail",
    "CUDA_VISIBLE_DEVICES names a GPU that is not there",
    cause="CUDA counts GPUs from 0, and stops at the first index that does not exist: that GPU and all after it in "
    "<variable> are hidden, without a word",
    fix="nvidia-smi -L lists the GPUs; export <variable>=<good>",
    link=_GUIDE,
)
DUPLICATE = fault(
    "cuda.visible.duplicate",
    "fail",
    "CUDA_VISIBLE_DEVICES names a GPU twice",
    cause="a GPU that is named twice in <variable> makes CUDA hide every GPU",
    fix="name each GPU once: export <variable>=<good>",
    link=_GUIDE,
)
UNKNOWN_UUID = fault(
    "cuda.visible.unknown-uuid",
    "fail",
    "CUDA_VISIBLE_DEVICES names a GPU of another machine",
    cause="the UUID in <variable> belongs to no GPU here (it was copied from another machine, or the GPU was "
    "replaced): CUDA hides that entry and all after it, without a word",
    fix="nvidia-smi -L lists the UUIDs of this machine; or unset <variable>",
    link=_GUIDE,
)
MIG_GONE = fault(
    "cuda.visible.mig-gone",
    "fail",
    "CUDA_VISIBLE_DEVICES names a MIG instance that is gone",
    cause="MIG instances get new UUIDs whenever they are made, also after a reboot: the one in <variable> is gone, and "
    "CUDA hides that entry and all after it",
    fix="nvidia-smi -L lists today's MIG instances: export <variable>=MIG-<uuid>",
    link="https://docs.nvidia.com/datacenter/tesla/mig-user-guide/",
)
MIXED = fault(
    "cuda.visible.mixed",
    "fail",
    "CUDA_VISIBLE_DEVICES mixes indices and UUIDs",
    cause="CUDA reads either indices or UUIDs in <variable>, and stops where the kind changes: the entries from there "
    "on are hidden, without a word",
    fix="use one kind only: export <variable>=<good>",
    link=_GUIDE,
)
TEXT = fault(
    "cuda.visible.text",
    "fail",
    "CUDA_VISIBLE_DEVICES is no list of numbers",
    cause="CUDA reads <variable> as numbers with commas between them (no ranges, no quotes, no 'all', no 'cuda:0'), "
    "takes the digits that an entry starts with, and stops at an entry without any: other GPUs are hidden, without a "
    "word",
    fix="export <variable>=0,1 for the first two GPUs; or unset <variable> for all",
    link=_GUIDE,
)
ORDER = fault(
    "cuda.visible.order",
    "warn",
    "CUDA counts different GPUs in another order than nvidia-smi",
    cause="with GPUs of different models, CUDA counts the fastest first, nvidia-smi by the place on the bus: an index "
    "in CUDA_VISIBLE_DEVICES may mean another GPU than the one that was looked up",
    fix="export CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs",
    script="export CUDA_DEVICE_ORDER=PCI_BUS_ID",
    link=_GUIDE,
)
TWO_VARIABLES = fault(
    "cuda.visible.two-variables",
    "fail",
    "ROCm's variables contradict each other",
    cause="ROCR_VISIBLE_DEVICES selects first, and HIP_VISIBLE_DEVICES (or CUDA_VISIBLE_DEVICES) counts from 0 among "
    "what that leaves: one that names more than is left hides GPUs, or makes torch raise RuntimeError",
    fix="unset ROCR_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES, and select with HIP_VISIBLE_DEVICES only",
    link="https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html",
)


@dataclass(frozen=True)
class Selection:
    """What CUDA makes of a list of GPUs.

    Attributes:
        kept: the entries that count.
        fault: what stopped it before the end, or spoils an entry.
        why: the entry, and what is wrong with it.
    """

    kept: tuple[str, ...]
    fault: Fault | None = None
    why: str = ""


def select(value: str, count: int | None, uuids: Sequence[str] = ()) -> Selection:
    """As the driver reads CUDA_VISIBLE_DEVICES.

    Args:
        value: of the variable.
        count: GPUs of the machine; None if not known.
        uuids: of its GPUs and MIG instances; empty if not known.
    """
    if value.strip() in _ALL:
        return Selection((), HIDDEN, "hides all")
    entries = [entry.strip() for entry in value.split(",")]
    if entries[0].startswith(("GPU-", "MIG-")):
        return _by_uuid(entries, uuids)
    return _by_index(entries, count)


def _by_uuid(entries: Sequence[str], uuids: Sequence[str]) -> Selection:
    kept: list[str] = []
    for entry in entries:
        if entry in kept:
            return Selection((), DUPLICATE, f"{entry} comes twice")
        if not entry.startswith(entries[0][:4]):
            return Selection(tuple(kept), MIXED, f"{entry} is no UUID like {entries[0]}")
        # A UUID may be shortened; the old name of a MIG instance is MIG-<UUID of its GPU>/<instance>/<instance>.
        wanted = re.sub(r"^MIG-(?=GPU-)|/.*", "", entry)
        if uuids and not any(uuid.startswith(wanted) for uuid in uuids):
            what = MIG_GONE if entry.startswith("MIG-") else UNKNOWN_UUID
            return Selection(tuple(kept), what, f"{entry} is none of the {len(uuids)} of this machine")
        kept.append(entry)
    return Selection(tuple(kept))


def _by_index(entries: Sequence[str], count: int | None) -> Selection:
    kept: list[str] = []
    spoilt = ""
    for entry in entries:
        if entry.startswith(("GPU-", "MIG-")):
            return Selection(tuple(kept), MIXED, f"{entry} comes after indices")
        digits = re.match(r"[+-]?\d+", entry)
        if not digits:
            return Selection(tuple(kept), TEXT, f"{entry!r} is no number")
        index = int(digits[0])
        if index < 0 or (count is not None and index >= count):
            there = f"GPUs 0 to {count - 1} are here" if count else "indices count from 0"
            return Selection(tuple(kept), OUT_OF_RANGE, f"{entry} is no GPU of this machine ({there})")
        if str(index) in kept:
            return Selection((), DUPLICATE, f"{index} comes twice")
        kept.append(str(index))
        if digits[0] != entry:
            spoilt = f"of {entry!r} only {index} counts"
    return Selection(tuple(kept), TEXT if spoilt else None, spoilt)


@check("cuda.visible", "The variables leave GPUs visible", deadline=8, needs=("cuda.build",), follows=("cuda.driver",))
def visible(context: Context) -> Iterator[Finding]:
    """CUDA_VISIBLE_DEVICES (HIP_ and ROCR_VISIBLE_DEVICES for ROCm) against the GPUs of this machine."""
    torch = context.facts["torch"]
    if torch["hip"]:
        yield from _rocm(context)
        return
    devices = context.facts["nvidia"]["devices"]
    value = context.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch["cuda"] or not devices:
        yield skipped("no GPU that this torch could use")
    elif value is None:
        yield passed("CUDA_VISIBLE_DEVICES is not set: all GPUs are visible")
    elif value.strip() in _ALL and no_gpu_allocated(context):
        yield passed(f"CUDA_VISIBLE_DEVICES={value} hides all GPUs from this job, which asked SLURM for none")
    else:
        nodes = gpus.nvidia_nodes()
        uuids = _uuids(context) if "GPU-" in value or "MIG-" in value else []
        yield _judged("CUDA_VISIBLE_DEVICES", value, len(nodes) or None, uuids)
        yield from _order(context, value)


def no_gpu_allocated(context: Context) -> bool:
    """Whether this is a SLURM job to which no GPU was given."""
    return "SLURM_JOB_ID" in context.environ and not any(context.environ.get(name) for name in _ALLOCATED)


def _uuids(context: Context) -> list[str]:
    """Of the GPUs and MIG instances here. Only nvidia-smi tells the latter."""
    listed = context.command(["nvidia-smi", "-L"], deadline=5).noise
    found = re.findall(r"UUID:\s*((?:GPU|MIG)-[0-9a-fA-F/-]+)", listed)
    return found or gpus.nvidia_uuids()


def _judged(variable: str, value: str, count: int | None, uuids: Sequence[str] = ()) -> Finding:
    selection = select(value, count, uuids)
    here = f" of {count}" if count else ""
    if selection.fault is None:
        return passed(f"{variable}={value} shows {len(selection.kept)}{here} GPUs")
    shown = f"{variable}={value or repr('')}"
    good = ",".join(dict.fromkeys(selection.kept)) or ",".join(str(index) for index in range(count or 1))
    left = f"only {len(selection.kept)}{here} GPUs stay visible ({', '.join(selection.kept)})"
    if not selection.kept:
        left = f"all {count or ''} GPUs are hidden".replace("  ", " ")
    return selection.fault.found(
        f"{shown}: {selection.why}; {left}",
        verdict="warn" if selection.kept else "fail",
        variable=variable,
        good=good,
    )


def _order(context: Context, value: str) -> Iterator[Finding]:
    models = gpus.nvidia_models()
    entries = [entry.strip() for entry in value.split(",")]
    by_bus = context.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(set(models)) > 1 and not by_bus and all(map(str.isdigit, entries)) and len(entries) < len(models):
        evidence = f"CUDA_VISIBLE_DEVICES={value} without CUDA_DEVICE_ORDER, and the GPUs are: {', '.join(models)}"
        yield ORDER.found(evidence)


def _rocm(context: Context) -> Iterator[Finding]:
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    values = {name: context.environ[name] for name in names if name in context.environ}
    if not values:
        yield passed("neither HIP_, ROCR_ nor CUDA_VISIBLE_DEVICES is set: all GPUs are visible")
        return
    count: int | None = len([gpu for gpu in gpus.pci_gpus("amd") if gpu.driver == "amdgpu"]) or None
    shown = " ".join(f"{name}={value}" for name, value in values.items())
    selected = [values[name] for name in names[1:] if name in values]
    if len(set(selected)) > 1:
        yield TWO_VARIABLES.found(f"{shown}: the last two differ", verdict="warn")
        return
    if "ROCR_VISIBLE_DEVICES" in values and selected:
        left = len(select(values["ROCR_VISIBLE_DEVICES"], count).kept)
        kept = select(selected[0], left)
        if left and kept.fault not in (None, HIDDEN):
            yield TWO_VARIABLES.found(f"{shown}: ROCR_VISIBLE_DEVICES leaves {left} GPUs, and {kept.why}")
            return
    for name, value in values.items():
        yield _judged(name, value, count)
