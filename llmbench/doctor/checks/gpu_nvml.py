"""Whether NVML and nvidia-smi answer, and whether they tell of every GPU."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_driver
from llmbench.doctor.model import Fault, Finding, passed
from llmbench.doctor.nvml import (
    CORRUPTED_INFOROM,
    LOST,
    PLAUSIBLE,
    RESET_REQUIRED,
    Gpu,
    Reading,
    device_files,
    gib,
    gpu_check,
    is_container,
    nvidia_on_pci,
    take_reading,
    told,
)
from llmbench.doctor.runner import Context

_XID = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"
_TOOLKIT = "https://github.com/NVIDIA/nvidia-container-toolkit/issues/48"
_OLDEST_BRANCH = 470
"""Branch R470 appeared in July 2021; what is older has had no updates for years."""
# Without these, faults stay unseen; others are newer than some drivers in use and have a forerunner.
_ESSENTIAL = {
    "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetEccMode",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetComputeRunningProcesses_v2",
}

MISSING = fault(
    "gpu.nvml.missing",
    "warn",
    "The library NVML is not there",
    cause="libnvidia-ml.so.1 comes with the driver: its user space part is not installed, or not in this container "
    "(NVIDIA_DRIVER_CAPABILITIES without 'utility'). Nothing can be told of the health of the GPUs; torch's "
    "memory and clock queries, NCCL's topology search and monitoring fail",
    fix="container: NVIDIA_DRIVER_CAPABILITIES=compute,utility and docker run --gpus all; "
    "else install the driver's libraries (Debian: apt-get install libnvidia-ml1) and run ldconfig",
)
NOT_LOADED = fault(
    "gpu.nvml.not_loaded",
    "fail",
    "NVML says that the driver is not loaded",
    cause="the library of the driver is here, but its kernel module is not loaded, or /dev/nvidiactl is missing: "
    "no program can use the GPUs",
    fix="sudo modprobe nvidia && nvidia-smi; if that fails, sudo dmesg | grep -i nvrm tells why "
    "(secure boot without a signed module, nouveau loaded, module not built for kernel <kernel>)",
)
MISMATCH = fault(
    "gpu.nvml.mismatch",
    "fail",
    "Driver library and kernel module are of different versions",
    cause="the driver was upgraded (often unattended) while its old kernel module stayed loaded: "
    "driver/library version mismatch. New programs cannot use the GPUs until the module is replaced",
    fix="reboot; or stop all that uses the GPUs, then "
    "sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia",
    link="https://github.com/pytorch/pytorch/issues/45109",
)
UNKNOWN = fault(
    "gpu.nvml.unknown",
    "fail",
    "NVML: Unknown Error",
    cause="typical of a container that lost its GPUs: systemctl daemon-reload on the host reset the device rules of "
    "its cgroup, and /dev/nvidia* may no longer be opened. Outside a container, the driver itself has failed",
    fix="restart the container; to keep it from coming back, run it with --device=/dev/nvidia0 …, use CDI, or set "
    "native.cgroupdriver=cgroupfs in /etc/docker/daemon.json. Not in a container: sudo dmesg | grep -i nvrm, reboot",
    link=_TOOLKIT,
)
PERMISSION = fault(
    "gpu.nvml.permission",
    "fail",
    "This user may not use the GPUs",
    cause="the driver refuses this user: the rights of /dev/nvidia* or the cgroup's device rules forbid them",
    fix="ls -l /dev/nvidia*; then become a member of their group: sudo usermod -aG video $USER (and log in anew), or "
    "set NVreg_DeviceFileMode=0666 for the module nvidia; SLURM: ask for GPUs (--gres=gpu:1)",
)
FAILED = fault(
    "gpu.nvml.failed",
    "fail",
    "NVML does not initialise",
    cause="the driver's management library gives up: the driver or a GPU is in a bad state, and CUDA will fail as well",
    fix="sudo dmesg | grep -i -e nvrm -e xid tells why; reboot if nothing else helps",
)
STUB = fault(
    "gpu.nvml.stub",
    "fail",
    "A stub of NVML is loaded in place of the driver's",
    cause="the CUDA toolkit brings an empty libnvidia-ml.so for linking in its folder stubs; found at run time, it "
    "hides the driver's own, and programs see no GPU or crash",
    fix="remove the folder stubs from LD_LIBRARY_PATH (now <path>) and from /etc/ld.so.conf.d, then sudo ldconfig",
)
CRASHES = fault(
    "gpu.nvml.crashes",
    "fail",
    "NVML crashes the process",
    cause="whatever loads it dies: libraries of two driver versions are mixed, a stub (cuda/lib64/stubs) is first on "
    "LD_LIBRARY_PATH, or the driver is broken",
    fix="ls -l <library>; ldconfig -p | grep nvidia-ml; keep one driver version only, install it again, and reboot",
)
HANGS = fault(
    "gpu.nvml.hangs",
    "fail",
    "NVML hangs",
    cause="the driver does not answer: a GPU hangs or has fallen off the bus, its firmware (GSP) is stuck, or the "
    "driver waits for a lock. nvidia-smi and CUDA will hang as well",
    fix="sudo dmesg | grep -i -e nvrm -e xid; drain the node and reboot it; without persistence mode, the first start "
    "of many GPUs takes long: sudo nvidia-smi -pm 1",
)
EMPTY = fault(
    "gpu.nvml.empty",
    "fail",
    "NVML lists no GPU although there are some",
    cause="the driver could not initialise any of them (RmInitAdapter failed), or the container or job was given none",
    fix="sudo dmesg | grep -i nvrm; container: docker run --gpus all; SLURM: --gres=gpu:1",
)
OLD = fault(
    "gpu.nvml.old",
    "warn",
    "The driver lacks functions of NVML",
    cause="it is so old that its health cannot be told in full: what it does not know is shown as skip, not as fine",
    fix="upgrade the driver to a branch that is still maintained (535 or newer)",
    link="https://docs.nvidia.com/datacenter/tesla/drivers/index.html",
)
OTHER_DRIVER = fault(
    "gpu.nvml.other_driver",
    "warn",
    "NVML and the kernel tell different driver versions",
    cause="the library that was found is not that of the loaded driver: an upgrade is half done, or another "
    "libnvidia-ml.so.1 comes first",
    fix="ldconfig -p | grep nvidia-ml; cat /proc/driver/nvidia/version; remove the odd one, then reboot",
)
_INIT_FAULTS: dict[int, Fault] = {4: PERMISSION, 9: NOT_LOADED, 12: MISSING, 17: PERMISSION, 18: MISMATCH, 999: UNKNOWN}


@check("gpu.nvml", "NVML, the driver's management library, answers", deadline=15, follows=("cuda.driver",))
def nvml(context: Context) -> Iterator[Finding]:
    """Keeps name, address, memory and driver of each GPU as fact ``gpus``."""
    reason = _nothing_to_ask(context)
    if reason:
        # Its own root: none of the checks that need it has anything to ask either.
        yield Finding("skip", reason, root="gpu.nvml")
        return
    reading = take_reading(context)
    gpus = reading.gpus
    problem = _problem(context, reading)
    if problem:
        yield problem
        if problem.verdict != "fail":
            yield Finding("skip", "without NVML nothing is told of the health of the GPUs", root="gpu.nvml")
        return
    context.facts["gpus"] = [_facts(gpu, reading) for gpu in gpus]
    yield from _old(reading)
    kernel = nvidia_driver()
    if kernel and reading.get("driver") and kernel != reading.driver:
        yield OTHER_DRIVER.found(f"NVML: driver {reading.driver}; kernel module: {kernel}")
    models = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    yield passed(f"{reading.count} GPUs ({models}), driver {reading.driver}, NVML {reading.get('library')}")


def _nothing_to_ask(context: Context) -> str | None:
    """Why there is no NVIDIA GPU that NVML could tell of; None if there may be one."""
    on_bus = nvidia_on_pci()
    if device_files() or os.path.exists("/dev/dxg"):
        return None
    if on_bus and (nvidia_driver() is None or is_container(context.environ)):
        why = "this container was given none of them" if is_container(context.environ) else "no NVIDIA driver is loaded"
        return f"{len(on_bus)} NVIDIA GPUs on the PCI bus, but no /dev/nvidia*: {why}"
    if on_bus:
        return None
    amd = os.path.exists("/dev/kfd") or os.path.isdir("/sys/module/amdgpu/drivers")
    return "no NVIDIA device" + (" (GPUs of AMD, driver amdgpu, are not covered)" if amd else "")


def _problem(context: Context, reading: Reading) -> Finding | None:
    """The fault that keeps NVML from telling anything."""
    outcome, answer = reading.outcome, reading.answer
    library = answer.get("loaded") or "libnvidia-ml.so.1"
    if "stub library" in outcome.noise or "/stubs/" in str(library):
        path = context.environ.get("LD_LIBRARY_PATH", "")
        return STUB.found(f"NVML was loaded from {library}", path=path)
    asked = answer.get("asking", "its start")
    if "count" not in answer or (reading.count and not reading.gpus and not outcome.ok):
        if outcome.timed_out:
            return HANGS.found(f"NVML hangs: {asked} {outcome.ending}")
        if outcome.signal:
            return CRASHES.found(f"NVML ({library}) crashes: {asked} {outcome.ending}", library=library)
        if "error" not in answer.get("init", {}):
            return FAILED.found(f"NVML could not be asked: {asked} {outcome.ending}")
    failure = answer["init"] if "error" in answer["init"] else answer["count"]
    if "error" in failure:
        return _not_initialised(context, reading, failure["error"], failure["words"])
    files = [path for path in device_files() if not path.endswith("ctl")]
    if not reading.count and (files or nvidia_on_pci()):
        return EMPTY.found(f"NVML lists 0 GPUs; {len(nvidia_on_pci())} on the PCI bus, {len(files)} in /dev")
    return None


def _not_initialised(context: Context, reading: Reading, error: int, words: str) -> Finding:
    nodes = reading.answer.get("nodes", {})
    refused = [path for path, number in nodes.items() if number in (1, 13)]
    kernel = nvidia_driver()
    library = reading.answer.get("loaded") or "libnvidia-ml.so.1"
    where = "in a container" if is_container(context.environ) else "not in a container, as far as can be seen"
    evidence = f"NVML does not initialise: {words} (error {error}; {where})"
    if error == 18:
        version = re.search(r"\.so\.(\d[\d.]+\d)$", os.path.realpath(library))
        evidence = (
            f"NVML: {words.rstrip('.')}: library {library}{f' ({version[1]})' if version else ''}, "
            f"loaded kernel module {kernel or 'of unknown version'}"
        )
    elif refused:
        evidence += f"; {', '.join(refused)} may not be opened"
    elif error == 9 and not nodes:
        evidence += "; no /dev/nvidia*"
    fault = _INIT_FAULTS.get(error, FAILED)
    return fault.found(evidence, kernel=os.uname().release)


def _old(reading: Reading) -> Iterator[Finding]:
    missing = reading.answer.get("missing", [])
    number = reading.driver.partition(".")[0]
    is_old = number.isdigit() and int(number) < _OLDEST_BRANCH
    if is_old or _ESSENTIAL & set(missing):
        lacks = (
            f"lacks {len(missing)} NVML functions (Function Not Found): {', '.join(missing)}" if missing else "is old"
        )
        yield OLD.found(f"driver {reading.driver} {lacks}")


def _facts(gpu: Gpu, reading: Reading) -> dict[str, object]:
    memory = gpu.get("memory") or {}
    return {
        "index": gpu.index,
        "name": gpu.name,
        "bus": gpu.bus,
        "memory_bytes": memory.get("total"),
        "capability": gpu.get("capability"),
        "driver": reading.driver,
        "vbios": gpu.get("vbios"),
        "power_limit_watts": (gpu.number("power_limit") or 0) / 1000 or None,
        "ecc": (gpu.get("ecc") or [None])[0],
        "mig": (gpu.get("mig") or [None])[0],
    }


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


NO_SMI = fault(
    "gpu.smi.missing",
    "warn",
    "nvidia-smi is missing",
    cause="the driver's tool is not on PATH although the driver works: scripts and schedulers that call it fail",
    fix="install the driver's utilities (Debian, Ubuntu: apt-get install nvidia-smi or nvidia-utils-<branch>), or "
    "add their folder to PATH (WSL: /usr/lib/wsl/lib)",
)
SMI_HANGS = fault(
    "gpu.smi.hangs",
    "warn",
    "nvidia-smi hangs",
    cause="it does not answer although NVML does: a monitoring tool holds the driver, or a GPU is slow to start; "
    "scripts that call nvidia-smi (launchers, schedulers, prologs) hang with it",
    fix="sudo nvidia-smi -pm 1 keeps GPUs started; sudo fuser -v /dev/nvidiactl shows who uses the driver; else reboot",
)
SMI_FAILS = fault(
    "gpu.smi.fails",
    "warn",
    "nvidia-smi fails",
    cause="NVML works here, but the tool nvidia-smi does not: it is of another driver version, or finds another "
    "library",
    fix="type -a nvidia-smi; keep only that of the installed driver",
)
SMI_UNREADABLE = fault(
    "gpu.smi.unreadable",
    "warn",
    "The output of nvidia-smi is unreadable",
    cause="it has bytes that are no text, or fields such as [Unknown Error] in place of values: programs that parse it "
    "break, or take nonsense for a fact. NVML was used instead",
    fix="type -a nvidia-smi (a wrapper script?); nvidia-smi -q; reset the GPU whose fields are in error, or reboot",
)
_QUERY = "index,name,temperature.gpu,memory.total"


@check("gpu.smi", "nvidia-smi answers", needs=("gpu.nvml",), follows=("gpu.present",), deadline=10)
def smi(context: Context) -> Iterator[Finding]:
    """The tool that everybody else parses."""
    path = shutil.which("nvidia-smi", path=context.environ.get("PATH"))
    if path is None:
        if is_container(context.environ):
            yield passed("nvidia-smi is not in this container; NVML is used")
        else:
            yield NO_SMI.found("no nvidia-smi on PATH; NVML is used instead")
        return
    outcome = context.command([path, f"--query-gpu={_QUERY}", "--format=csv,noheader"])
    text = outcome.noise.strip()
    if outcome.timed_out:
        yield SMI_HANGS.found(f"{path} {outcome.ending}; NVML is used instead")
    elif outcome.signal:
        yield SMI_FAILS.found(f"{path} {outcome.ending}; NVML is used instead")
    elif "\ufffd" in text or "\0" in text:
        yield SMI_UNREADABLE.found("nvidia-smi: its output cannot be parsed: it is no UTF-8 text; NVML is used instead")
    elif outcome.returncode != 0:
        yield SMI_FAILS.found(f"{path}: exit code {outcome.returncode}: {outcome.last_words[:200]}")
    else:
        yield _parsed(path, text)


def _parsed(path: str, text: str) -> Finding:
    wrong = [line for line in text.splitlines() if not re.match(r"\d+, [^,]+, (\d+|\[?N/A\]?), ", line)]
    errors = sorted(set(re.findall(r"\[(?!N/A|Not Supported)[A-Z][^\]]*\]|ERR!", text)))
    if errors or wrong or not text:
        what = ", ".join(errors) or (wrong[0][:80] if wrong else "nothing")
        return SMI_UNREADABLE.found(f"nvidia-smi: its output cannot be parsed: {what}; NVML is used instead")
    return passed(f"{path} lists {len(text.splitlines())} GPUs")
