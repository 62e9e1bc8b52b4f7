"""Whether every GPU is there, answers, and tells what can be true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbench.doctor.checks.registry import fault
from llmbench.doctor.model import Finding
from llmbench.doctor.nvml import (
    CORRUPTED_INFOROM,
    LOST,
    PLAUSIBLE,
    RESET_REQUIRED,
    Gpu,
    Reading,
    gib,
    gpu_check,
    nvidia_on_pci,
    told,
)
from llmbench.doctor.runner import Context

_XID = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"

LOST_GPU = fault(
    "gpu.present.lost",
    "fail",
    "A GPU is lost: it has fallen off the bus",
    cause="it no longer answers on the PCI bus (Xid 79): power, overheating, a loose card or riser, or a defect. "
    "Jobs on it die, and torch may see fewer GPUs or none",
    fix="drain the node, power it off and on (a reboot may not do), and read sudo dmesg | grep -i xid; "
    "if it comes back, check power cables and seat, then return the card",
    link=_XID,
)
RESET = fault(
    "gpu.present.reset",
    "fail",
    "A GPU requires a reset",
    cause="an error that it cannot recover from has stopped it: every program that uses it fails",
    fix="stop its processes (sudo fuser -v /dev/nvidia*), then sudo nvidia-smi --gpu-reset -i <gpus>; else reboot",
    link=_XID,
)
RECOVERY = fault(
    "gpu.present.recovery",
    "fail",
    "The driver asks for a recovery of a GPU",
    cause="after an error, the driver says that the GPU must be recovered before it is used again",
    fix="do what the driver asks for, named above: reset is sudo nvidia-smi --gpu-reset -i <gpus> after its jobs "
    "have ended",
    link=_XID,
)
UNREADABLE = fault(
    "gpu.present.unreadable",
    "fail",
    "NVML cannot open a GPU",
    cause="the driver knows the GPU but fails to start it, or this user may not use it",
    fix="sudo dmesg | grep -i -e nvrm -e xid; ls -l /dev/nvidia*; reset it (sudo nvidia-smi --gpu-reset -i <gpus>) "
    "or reboot",
)
FEWER = fault(
    "gpu.present.missing",
    "fail",
    "A GPU is missing: NVML lists fewer than there are on the PCI bus",
    cause="the driver could not start it (RmInitAdapter failed), or it is dead: jobs that expect all GPUs fail",
    fix="sudo dmesg | grep -i -e nvrm -e 'fallen off'; reboot; then reseat or replace the card",
)
STUCK = fault(
    "gpu.present.stuck",
    "fail",
    "NVML crashes or hangs at one GPU",
    cause="the driver does not get an answer from this GPU; programs that use it will crash or hang as well",
    fix="sudo dmesg | grep -i -e nvrm -e xid; drain the node and reboot it",
)
INFOROM = fault(
    "gpu.present.inforom",
    "warn",
    "The infoROM of a GPU is corrupted",
    cause="the board's memory of its configuration and its errors is damaged: ECC, retired pages and power limits may "
    "not be kept or not be right",
    fix="update the VBIOS with the vendor's tool; if it stays, return the card",
)
_RECOVERY_ACTIONS = {
    1: "reset the GPU",
    2: "reboot the node",
    3: "drain peer-to-peer traffic",
    4: "drain and reset",
    5: "recover the IMEX domain",
    6: "reset the bus",
    7: "reboot the system",
}


@gpu_check("gpu.present", "Every GPU is there and answers", fields=("name",))
def present(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """The PCI bus and /dev against NVML, and what NVML says when it opens each GPU."""
    expected, known = nvidia_on_pci(), {gpu.bus for gpu in reading.gpus}
    unknown = [address for address in expected if address not in known]
    failed = {index: error for index in range(reading.count or 0) if (error := reading.handle_error(index))}
    lost = [gpu for gpu in reading.gpus if LOST in _errors(gpu)]
    reset = [gpu for gpu in reading.gpus if RESET_REQUIRED in _errors(gpu)]
    yield from _unopened(failed, unknown)
    yield from told(LOST_GPU, [(gpu, "NVML: GPU is lost (it has fallen off the bus)") for gpu in lost])
    yield from told(RESET, [(gpu, "NVML: GPU requires a reset") for gpu in reset if gpu not in lost])
    actions = [(gpu, gpu.number("recovery") or 0) for gpu in reading.gpus if gpu not in lost + reset]
    wanted = [(gpu, f"NVML: recovery action: {_RECOVERY_ACTIONS.get(a, a)}") for gpu, a in actions if a]
    yield from told(RECOVERY, wanted)
    yield from told(INFOROM, [(gpu, "NVML: the infoROM is corrupted") for gpu in reading.gpus if _is_corrupted(gpu)])
    yield from _stuck(reading)
    yield from _fewer(reading, expected, [address for address in unknown if len(unknown) > len(failed)])
    yield f"all {reading.count} answer" + (f", {len(expected)} on the PCI bus" if expected else "")


def _unopened(failed: Mapping[int, Mapping[str, Any]], unknown: Sequence[str]) -> Iterator[Finding]:
    """GPUs of which NVML gives no handle, by what it says."""
    # Those that NVML cannot name are those that only the bus knows.
    addresses = dict(zip(failed, unknown, strict=True)) if len(failed) == len(unknown) else {}
    for number in dict.fromkeys(error["error"] for error in failed.values()):
        same = {index: error["words"] for index, error in failed.items() if error["error"] == number}
        where = [f"GPU {index}" + (f" ({addresses[index]})" if index in addresses else "") for index in same]
        kind = {LOST: LOST_GPU, RESET_REQUIRED: RESET}.get(number, UNREADABLE)
        more = {LOST_GPU.id: " (it has fallen off the bus)", RESET.id: " (it must be reset)"}.get(kind.id, "")
        text = f"{', '.join(where)}: NVML: {next(iter(same.values()))}{more}"
        yield kind.found(text, gpus=",".join(str(index) for index in same))


def _errors(gpu: Gpu) -> set[int]:
    return {field["error"] for field in gpu.fields.values() if "error" in field}


def _is_corrupted(gpu: Gpu) -> bool:
    return CORRUPTED_INFOROM in _errors(gpu)


def _stuck(reading: Reading) -> Iterator[Finding]:
    outcome, index = reading.outcome, reading.outcome.answer.get("asked_gpu")
    if not outcome.ok:
        asked = reading.outcome.answer.get("asking", "")
        bus = next((f" ({gpu.bus})" for gpu in reading.gpus if gpu.index == index and gpu.bus), "")
        where = f"GPU {index}{bus}: " if index is not None else ""
        kind = "hangs" if outcome.timed_out else "crashes"
        yield STUCK.found(f"{where}NVML {kind} when asked for {asked}: the probe {outcome.ending}")


def _fewer(reading: Reading, expected: list[str], unknown: list[str]) -> Iterator[Finding]:
    nodes = {path: number for path, number in reading.answer.get("nodes", {}).items() if not path.endswith("ctl")}
    # A container or a job is given some: others have no device file, or one that its cgroup forbids to open.
    given = len([path for path, number in nodes.items() if number not in (1, 13)]) or len(expected)
    there = min(given, len(expected))
    if (reading.count or 0) < there:
        missing = f" (missing: {', '.join(unknown)})" if unknown else ""
        yield FEWER.found(
            f"NVML lists {reading.count} of {there} GPUs: {len(expected)} on the PCI bus, {len(nodes)} in /dev{missing}"
        )


LIES = fault(
    "gpu.readings.implausible",
    "warn",
    "NVML tells what cannot be",
    cause="a sensor or the driver is broken, or the library is not the driver's: what rests on it (health checks, "
    "power and memory management) is wrong",
    fix="sudo nvidia-smi -q -i <gpus> shows whether the driver tells the same; reset the GPU or reboot; "
    "update driver and VBIOS",
)


@gpu_check("gpu.readings", "What NVML tells can be true", fields=("temperature", "memory"))
def readings(context: Context, reading: Reading) -> Iterator[Finding | str]:
    """Temperatures, memory, utilisation and clocks against what is possible at all."""
    wrong = [(gpu, ", ".join(lies)) for gpu in reading.gpus if (lies := list(_lies(gpu)))]
    yield from told(LIES, wrong)
    warm = [value for gpu in reading.gpus if (value := gpu.number("temperature")) is not None]
    if warm:
        yield f"temperatures of {min(warm)} to {max(warm)} C"


def _lies(gpu: Gpu) -> Iterator[str]:
    for name, (low, high) in PLAUSIBLE.items():
        value = gpu.get(name)
        if isinstance(value, int) and not low <= value <= high:
            yield f"{name.replace('_', ' ')} of {value}"
    memory = gpu.get("memory") or {}
    if memory and memory["used"] > memory["total"]:
        yield f"{gib(memory['used'])} of {gib(memory['total'])} memory used"
    elif memory and not memory["total"]:
        yield "0 bytes of memory"
    for name, value in (gpu.get("utilization") or {}).items():
        if value > 100:
            yield f"utilisation ({name}) of {value} %"
