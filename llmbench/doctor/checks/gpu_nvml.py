"""Whether NVML answers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_driver
from llmbench.doctor.model import Fault, Finding, passed
from llmbench.doctor.nvml import (
    Gpu,
    Reading,
    device_files,
    is_container,
    nvidia_on_pci,
    take_reading,
)
from llmbench.doctor.runner import Context

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
    "gpu.nvml.not-loaded",
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
    "gpu.nvml.other-driver",
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
