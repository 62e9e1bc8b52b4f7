"""How GPUs are set up and shared: modes, MIG, other processes, differences between them, licences."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbench.doctor.checks.registry import fault
from llmbench.doctor.model import Finding
from llmbench.doctor.nvml import Gpu, Reading, gib, gpu_check, in_words, is_running, names, told
from llmbench.doctor.runner import Context
from llmbench.doctor.system import read

_MIG = "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/index.html"
_PERSISTENCE = "https://docs.nvidia.com/deploy/driver-persistence/index.html"

MIG_ON = fault(
    "gpu.mig.on",
    "warn",
    "MIG mode is on",
    cause="the GPU is divided: a process sees one slice (MIG device) of it at most, torch counts one device, and "
    "slices have no peer-to-peer or NVLink, so that NCCL between them fails or is slow",
    fix="choose a slice: CUDA_VISIBLE_DEVICES=MIG-<uuid> (nvidia-smi -L lists them); or switch MIG off when its jobs "
    "have ended: sudo nvidia-smi -i <gpus> -mig 0",
    link=_MIG,
)
MIG_EMPTY = fault(
    "gpu.mig.empty",
    "fail",
    "MIG mode is on without any instance",
    cause="a GPU in MIG mode can be used only through its instances, and there are none: CUDA sees no device",
    fix="make instances: sudo nvidia-smi mig -i <gpus> -cgi 0 -C; or switch MIG off: sudo nvidia-smi -i <gpus> -mig 0",
    link=_MIG,
)
MIG_MIXED = fault(
    "gpu.mig.mixed",
    "warn",
    "MIG mode is on for some GPUs only",
    cause="CUDA then shows MIG devices or whole GPUs, not both, and GPUs differ in size: jobs see fewer GPUs than "
    "there are",
    fix="switch it off: sudo nvidia-smi -i <gpus> -mig 0; or name devices in CUDA_VISIBLE_DEVICES",
    link=_MIG,
)
MIG_PENDING = fault(
    "gpu.mig.pending",
    "warn",
    "A change of the MIG mode waits for a reset",
    cause="the mode was changed while the GPU was in use",
    fix="when its jobs have ended: sudo nvidia-smi --gpu-reset -i <gpus>, or reboot",
    link=_MIG,
)


@gpu_check("gpu.mig", "GPUs are whole (MIG is off)", fields=("mig",))
def mig(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Mode now, mode after a reset, and the number of instances."""
    modes = {gpu.index: mode for gpu in reading.gpus if (mode := gpu.numbers("mig", 2))}
    on = [gpu for gpu in reading.gpus if modes.get(gpu.index, [0])[0]]
    empty = [gpu for gpu in on if gpu.get("mig_instances") == 0]
    yield from told(MIG_EMPTY, [(gpu, "MIG mode is on, but there are no MIG instances") for gpu in empty])
    rest = [gpu for gpu in on if gpu not in empty]
    instances = sum(gpu.number("mig_instances") or 0 for gpu in rest)
    mixed = bool(on) and len(on) < len(modes)
    if mixed:
        text = f"MIG mode is on for {names(on)}, off for the other {len(modes) - len(on)}"
        yield MIG_MIXED.found(text, gpus=",".join(str(gpu.index) for gpu in on))
    elif rest and instances != 1:
        # One slice and no more: that is what a pod or a job was given.
        yield from told(MIG_ON, [(gpu, f"MIG mode is on ({_instances(gpu)})") for gpu in rest])
    waits = [gpu for gpu in reading.gpus if (mode := modes.get(gpu.index)) and mode[0] != mode[1]]
    yield from told(MIG_PENDING, [(gpu, "MIG mode changes at the next reset (pending)") for gpu in waits])
    if modes:
        yield f"MIG is off on {len(modes)} GPUs" if not on else f"MIG: one instance, of {names(on)}"


def _instances(gpu: Gpu) -> str:
    count = gpu.number("mig_instances")
    return "the number of its instances is not told" if count is None else f"{count} instances"


PERSISTENCE = fault(
    "gpu.mode.persistence",
    "warn",
    "Persistence mode is off",
    cause="when the last program leaves, the driver unloads the GPU: each start takes seconds more, ECC counters and "
    "settings such as power limits are forgotten",
    fix="sudo systemctl enable --now nvidia-persistenced; or until the next reboot: sudo nvidia-smi -pm 1",
    link=_PERSISTENCE,
)
EXCLUSIVE = fault(
    "gpu.mode.exclusive",
    "warn",
    "A GPU serves one process only (compute mode Exclusive Process)",
    cause="a second process on it fails with 'CUDA-capable device(s) is/are busy or unavailable': a notebook beside a "
    "training, two ranks on a GPU, or DataLoader workers that use CUDA",
    fix="sudo nvidia-smi -i <gpus> -c DEFAULT",
)
PROHIBITED = fault(
    "gpu.mode.prohibited",
    "fail",
    "A GPU may not be used for computing (compute mode Prohibited)",
    cause="an administrator forbade CUDA on it: torch fails with 'CUDA-capable device(s) is/are busy or unavailable'",
    fix="sudo nvidia-smi -i <gpus> -c DEFAULT",
)


@gpu_check("gpu.mode", "Modes of GPUs suit training", fields=("persistence", "compute_mode"))
def mode(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Persistence mode (where nothing else keeps the driver up) and compute mode."""
    off = [
        gpu
        for gpu in reading.gpus
        if gpu.number("persistence") == 0 and gpu.is_data_centre and not gpu.is_virtual and not gpu.number("display")
    ]
    yield from told(PERSISTENCE, [(gpu, "persistence mode is off") for gpu in off])
    # The server of MPS wants the GPU for itself, and shares it.
    shared = is_running("nvidia-cuda-mps-server") or is_running("nvidia-cuda-mps-control")
    exclusive = [gpu for gpu in reading.gpus if gpu.number("compute_mode") in (1, 3) and not shared]
    yield from told(EXCLUSIVE, [(gpu, "compute mode is EXCLUSIVE_PROCESS") for gpu in exclusive])
    prohibited = [gpu for gpu in reading.gpus if gpu.number("compute_mode") == 2]
    yield from told(PROHIBITED, [(gpu, "compute mode is PROHIBITED") for gpu in prohibited])
    if any(gpu.number("compute_mode") is not None for gpu in reading.gpus):
        on = sum(gpu.number("persistence") == 1 for gpu in reading.gpus)
        firmware = sum(bool((gpu.get("gsp") or [0])[0]) for gpu in reading.gpus)
        accounting = sum(gpu.number("accounting") == 1 for gpu in reading.gpus)
        confidential = (reading.get("confidential") or {}).get("ccFeature")
        yield (
            f"compute mode default; of {len(reading.gpus)} GPUs, persistence mode is on for {on}, GSP firmware for "
            f"{firmware}, accounting for {accounting}" + ("; confidential computing is on" if confidential else "")
        )


BUSY = fault(
    "gpu.busy.process",
    "warn",
    "Another process uses a GPU",
    cause="less memory is left on it, both run slower, and timings are wrong; on a full GPU, training ends with "
    "CUDA out of memory",
    fix="if it is yours and not needed: kill <pids>; else choose another GPU with CUDA_VISIBLE_DEVICES",
)
UNSEEN = fault(
    "gpu.busy.unseen",
    "warn",
    "Memory of a GPU is used by no visible process",
    cause="it is held by a process in another container or PID namespace, by a dead one that the driver has not "
    "cleaned up (zombie DataLoader worker), or by the driver: training runs out of memory early",
    fix="sudo fuser -v /dev/nvidia* on the host shows who holds it; end those; if nobody does, reset the GPU: "
    "sudo nvidia-smi --gpu-reset -i <gpus>",
)
_OWN = 1 << 30
"""Bytes below which a process is no matter: a context, or doctor's own probes."""


@gpu_check("gpu.busy", "GPUs are free", fields=("memory", "processes"))
def busy(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Compute processes, and the memory that they do not explain; only of GPUs that this job may see."""
    gpus = [gpu for gpu in reading.gpus if _is_visible(gpu, reading, context.environ)]
    foreign = {gpu.index: others for gpu in gpus if (others := list(_others(gpu)))}
    used = [(gpu, ", ".join(_process(p) for p in foreign[gpu.index])) for gpu in gpus if gpu.index in foreign]
    pids = sorted({process["pid"] for others in foreign.values() for process in others})
    yield from told(BUSY, used, pids=" ".join(str(pid) for pid in pids))
    yield from told(UNSEEN, [(gpu, text) for gpu in gpus if (text := _unexplained(gpu))])
    free = [memory["free"] / memory["total"] for gpu in gpus if (memory := gpu.get("memory")) and memory["total"]]
    if free:
        yield f"at least {100 * min(free):.0f} % of the memory of each is free"


def _is_visible(gpu: Gpu, reading: Reading, environ: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES shows it; numbers are taken for NVML's only where the order is the same."""
    wanted = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not wanted:
        return True
    if all(name.isdigit() for name in wanted):
        same = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in reading.gpus}) == 1
        return not same or str(gpu.index) in wanted
    return any(str(gpu.get("uuid")).startswith(name) for name in wanted)


def _others(gpu: Gpu) -> Iterator[Mapping[str, Any]]:
    """Compute processes that are not doctor's own, and hold much memory."""
    for process in gpu.get("processes") or []:
        memory = process["memory"]
        if not _is_own(process["pid"]) and (memory is None or memory >= min(_OWN, 0.05 * _total(gpu))):
            yield process


def _is_own(pid: int) -> bool:
    """Whether doctor started it."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = read(f"/proc/{pid}/stat") or ""
        parent = stat.rpartition(")")[2].split()[1:2]
        pid = int(parent[0]) if parent and parent[0].isdigit() else 0
    return False


def _total(gpu: Gpu) -> int:
    return int((gpu.get("memory") or {}).get("total") or 2**36)


def _process(process: Mapping[str, Any]) -> str:
    here = (read(f"/proc/{process['pid']}/comm") or "").strip()
    name = here or process["name"] or "a process that is not visible here"
    memory = process["memory"]
    return f"{name} (pid {process['pid']}) uses it" + ("" if memory is None else f", {gib(memory)} of memory")


def _unexplained(gpu: Gpu) -> str | None:
    """Memory that neither processes nor the driver's own reserve account for."""
    memory, processes = gpu.get("memory"), [*(gpu.get("processes") or []), *(gpu.get("graphics") or [])]
    # Under WSL, Windows' own use is not listed; where CPU and GPU share memory, the kernel's cache may lie in it.
    if not memory or os.path.exists("/dev/dxg") or gpu.name.startswith(("NVIDIA GH200", "NVIDIA GB", "GH200", "GB")):
        return None
    if any(process["memory"] is None for process in processes) or memory["used"] > memory["total"]:
        return None
    known = sum(process["memory"] for process in processes) + (gpu.number("memory_reserved") or 0)
    rest = memory["used"] - known
    allowed = max(2 * 2**30, 0.05 * memory["total"]) + (4 * 2**30 if gpu.number("display") else 0)
    if rest < allowed:
        return None
    who = "no process is visible" if not processes else f"its processes account for {gib(memory['used'] - rest)} only"
    load = f"; it computes {gpu.load} % of the time" if gpu.load else ""
    return f"{gib(memory['used'])} of {gib(memory['total'])} memory is used, {who}{load}"


MODELS = fault(
    "gpu.alike.models",
    "warn",
    "The GPUs are of different models",
    cause="in data-parallel training all wait for the slowest, and the smallest memory sets the batch size; kernels "
    "are compiled for each, and CUDA orders them otherwise than nvidia-smi",
    fix="train on equal ones: CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=<largest group>",
)
MEMORIES = fault(
    "gpu.alike.memory",
    "warn",
    "GPUs of one model have different memory",
    cause="a GPU has lost a part of its memory, or some have ECC or MIG on: the smallest sets the batch size, or fails",
    fix="nvidia-smi --query-gpu=index,memory.total,ecc.mode.current,mig.mode.current --format=csv; make them alike, "
    "reset",
)
FIRMWARE = fault(
    "gpu.alike.firmware",
    "warn",
    "GPUs of one model have different firmware",
    cause="VBIOS versions differ: clocks, power limits and known faults differ between GPUs of one node",
    fix="bring all to the newest VBIOS with the server vendor's update tool",
)
SETTINGS = fault(
    "gpu.alike.settings",
    "warn",
    "GPUs of one model are set up differently",
    cause="ECC, persistence or compute mode differ: they run at different speeds or fail at different times",
    fix="set them alike: sudo nvidia-smi -e 1; sudo nvidia-smi -pm 1; sudo nvidia-smi -c DEFAULT",
)


@gpu_check("gpu.alike", "The GPUs are alike", fields=("name", "vbios"), follows=("gpu.ecc", "gpu.mode"))
def alike(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Models, memory, firmware and settings of those that this job may see."""
    gpus = [gpu for gpu in reading.gpus if gpu.get("name") and _is_visible(gpu, reading, context.environ)]
    biggest = max((_total(gpu) for gpu in gpus), default=0)
    # A small card for the display beside those that compute is a workstation as it should be.
    gpus = [gpu for gpu in gpus if not (gpu.number("display") and _total(gpu) < biggest / 2)]
    models = list(dict.fromkeys(gpu.name for gpu in gpus))
    if len(models) > 1:
        groups = [[gpu for gpu in gpus if gpu.name == model] for model in models]
        text = in_words([(gpu, f"{gpu.name}, {gib(_total(gpu))}") for gpu in gpus])
        largest = max(groups, key=len)
        yield MODELS.found(f"mixed models: {text}", largest_group=",".join(str(gpu.index) for gpu in largest))
    for model in models:
        yield from _differences([gpu for gpu in gpus if gpu.name == model])
    if gpus:
        yield f"{len(gpus)} x {models[0]}" if len(models) == 1 else "no GPU"


def _differences(gpus: Sequence[Gpu]) -> Iterator[Finding]:
    totals = [_total(gpu) for gpu in gpus]
    if max(totals) - min(totals) > 0.02 * max(totals):
        yield MEMORIES.found(in_words([(gpu, f"{gib(_total(gpu))} of memory") for gpu in gpus]))
    firmware = {gpu.get("vbios") for gpu in gpus if gpu.get("vbios")}
    if len(firmware) > 1 and gpus[0].is_data_centre:
        yield FIRMWARE.found(in_words([(gpu, f"VBIOS {gpu.get('vbios')}") for gpu in gpus]))
    settings = {"ECC": "ecc", "persistence mode": "persistence", "compute mode": "compute_mode"}
    told_of = {name: [gpu.get(field) for gpu in gpus if gpu.get(field) is not None] for name, field in settings.items()}
    different = [name for name, values in told_of.items() if any(value != values[0] for value in values)]
    if different:
        texts = [(gpu, ", ".join(f"{name} {_setting(gpu, settings[name])}" for name in different)) for gpu in gpus]
        yield SETTINGS.found(in_words(texts))


def _setting(gpu: Gpu, field: str) -> str:
    value = gpu.get(field)
    value = value[0] if isinstance(value, list) else value
    modes = {0: "DEFAULT", 2: "PROHIBITED"}
    return modes.get(value, "EXCLUSIVE") if field == "compute_mode" else {0: "off", 1: "on"}.get(value, "unknown")


UNLICENSED = fault(
    "gpu.licence.vgpu",
    "fail",
    "The virtual GPU has no licence",
    cause="an unlicensed vGPU is throttled after 20 minutes to a few frames per second, and new CUDA programs fail",
    fix="set the licence server (ClientConfigToken in /etc/nvidia/ClientConfigToken, FeatureType in "
    "/etc/nvidia/gridd.conf), then sudo systemctl restart nvidia-gridd; nvidia-smi -q | grep -i license",
    link="https://docs.nvidia.com/vgpu/latest/grid-licensing-user-guide/index.html",
)


@gpu_check("gpu.licence", "Virtual GPUs are licensed", fields=("licences", "virtualization"))
def licence(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Only guests with a vGPU need one."""
    virtual = [gpu for gpu in reading.gpus if gpu.is_virtual]
    unlicensed = [
        (gpu, f"vGPU {gpu.name} is unlicensed ({', '.join(feature['product'] or 'vGPU' for feature in features)})")
        for gpu in virtual
        if (features := gpu.get("licences")) and not any(feature["enabled"] for feature in features)
    ]
    yield from told(UNLICENSED, unlicensed)
    if virtual:
        if all(gpu.get("licences") for gpu in virtual):
            yield f"{len(virtual)} virtual GPUs are licensed"
    elif any(gpu.number("virtualization") is not None for gpu in reading.gpus):
        yield "no virtual GPU: none is needed"
