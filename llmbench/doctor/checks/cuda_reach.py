"""Does torch reach the GPUs? If not, why: the library, the device nodes, the container, the driver's error code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from llmbench.doctor import gpus, system
from llmbench.doctor.checks import cuda_faults as faults
from llmbench.doctor.checks.cuda_build import cuda_version, too_old
from llmbench.doctor.checks.cuda_nodes import by_nodes, no_permission, opened
from llmbench.doctor.checks.cuda_visible import no_gpu_allocated, select
from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

_MOST_ALONE = 16
"""GPUs that are tried one by one when torch fails with all."""


@check(
    "cuda.reach",
    "torch reaches the GPUs",
    deadline=60,
    needs=("cuda.driver", "torch.import"),
    follows=("gpu.nvml", "gpu.present", "gpu.mig", "cuda.visible"),
)
def reach(context: Context) -> Iterator[Finding]:
    """Keeps the devices that torch sees as fact ``devices``."""
    torch, nvidia = context.facts["torch"], context.facts["nvidia"]
    amd = [gpu for gpu in gpus.pci_gpus("amd") if gpu.driver == "amdgpu" or gpu.accelerator]
    if not (torch["cuda"] and nvidia["devices"]) and not (torch["hip"] and (amd or gpus.exists("dev/kfd"))):
        yield skipped("no GPU that this torch could use")
        return
    outcome = context.torch_probe("cuda_devices")
    found = outcome.answer
    if outcome.ok and found.get("reason") is None:
        context.facts["devices"] = found["devices"]
        context.facts["cuda_build"] = {key: found[key] for key in ("architectures", "wheels")}
        names = ", ".join(sorted({str(device["name"]) for device in found["devices"]}))
        yield passed(f"torch sees {len(found['devices'])} GPUs: {names}")
        return
    told = str(found["reason"]) if outcome.ok else f"using the GPUs {ended(outcome)}"
    if found.get("available"):
        told += " (though torch.cuda.is_available() is True"
        told += ", from NVML: PYTORCH_NVML_BASED_CUDA_CHECK is set)" if _asks_nvml(context) else ")"
    reasons = list(_rocm(context, told) if torch["hip"] else _explain(context, outcome, told))
    yield from reasons


def ended(outcome: Outcome) -> str:
    """How a probe ended, with its last words where they are not part of that."""
    said = not outcome.error and not outcome.timed_out and outcome.last_words
    return f"{outcome.ending}, {outcome.last_words}" if said else outcome.ending


def _asks_nvml(context: Context) -> bool:
    return context.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") == "1"


# --- it works: for all of them?


@check(
    "cuda.count",
    "torch reaches every GPU",
    deadline=30,
    needs=("cuda.reach",),
    follows=("gpu.nvml", "gpu.present", "gpu.mig", "cuda.visible"),
)
def count(context: Context) -> Iterator[Finding]:
    """The devices that torch sees against the device nodes, the bus, and what the variables leave."""
    devices = context.facts.get("devices")
    expected = _expected(context)
    if not devices or context.facts["torch"]["hip"] or expected is None:
        yield skipped("how many GPUs there should be is not known" if devices else "no GPU that this torch could use")
        return
    told = f"torch sees {len(devices)} of {expected} NVIDIA GPUs"
    away = expected - len(devices)
    if away <= 0 or any(" MIG " in str(device["name"]) for device in devices):
        yield passed(told)
        return
    closed = {path: error for path, error in opened(context).items() if error in ("EPERM", "EACCES", "no answer")}
    reasons = ", ".join(f"{path}: {error}" for path, error in closed.items())
    if list(closed.values()).count("EPERM") >= away:
        yield passed(f"{told}; the others were given to other jobs ({reasons})")
    else:
        yield faults.FEWER.found(f"{told}, {away} missing" + (f"; {reasons}" if reasons else ""), missing=away)


def _expected(context: Context) -> int | None:
    """GPUs that torch should see; None if that is not known."""
    nodes = len(gpus.nvidia_nodes())
    on_bus = [gpu for gpu in gpus.pci_gpus("nvidia") if gpu.driver in (None, "nvidia")]
    # A container sees the bus of the whole machine, but only the nodes of what it was given.
    count = nodes if gpus.container(context.environ) else max(nodes, len(on_bus))
    value = context.environ.get("CUDA_VISIBLE_DEVICES")
    if not nodes:
        return None
    return count if value is None else len(select(value, count).kept)


# --- it does not: NVIDIA


def _explain(context: Context, outcome: Outcome, told: str) -> Iterator[Finding]:
    """The causes that can be shown; else what the error itself means."""
    library = context.probe("libcuda", {"init": True}, deadline=20)
    answer = dict(library.answer)
    evidence = told.splitlines()[0] + _answered(answer)
    if "too old" in told and (number := re.search(r"found version (\d+)", told)):
        context.facts["nvidia"]["cuda"] = cuda_version(int(number[1]))
        yield too_old(context, f"torch says: {evidence}", faults.TOO_OLD)
        return
    if finding := _by_code(context, answer, told, evidence):
        yield finding
        return
    yield from (
        list(_by_container(context, answer, told, evidence))
        or list(by_nodes(context, evidence))
        or list(_by_library(context, answer, told, evidence))
        or list(_one_by_one(context, evidence))
        or [_in_general(context, outcome, answer, told, evidence)]
    )


def _answered(answer: dict[str, object]) -> str:
    """What the driver's own library says, as evidence."""
    if "code" in answer:
        return f"; cuInit of {answer['path']} returns {answer['code']}"
    return ""


def _by_code(context: Context, answer: dict[str, object], told: str, evidence: str) -> Finding | None:
    """Errors that have one cause each: by the code of the driver's library, or by the words of torch."""
    code = str(answer.get("code", ""))
    fault = next((fault for codes, words, fault in faults.BY_CODE if code in codes or re.search(words, told)), None)
    if fault in (faults.COMPAT, faults.MISMATCH):
        return _two_versions(context, answer, evidence, fault is faults.COMPAT)
    if fault is faults.FABRIC:
        running = any((gpus.text(path) or "").startswith("nv-fabricmanag") for path in gpus.glob("proc", "[0-9]*/comm"))
        evidence += f"; nv-fabricmanager {'runs' if running else 'does not run'} (/proc)"
    return fault.found(evidence, branch=_branch(context)) if fault else None


def _branch(context: Context) -> str:
    """Of the loaded driver, as packages are named by it."""
    return str(context.facts["nvidia"]["driver"] or "<branch>").partition(".")[0]


def _two_versions(context: Context, answer: dict[str, object], evidence: str, compat: bool) -> Finding:
    """A library of another version than the kernel's driver: on purpose (forward compatibility) or not."""
    place = str(answer.get("path") or _first_libcuda(context) or "")
    version = re.search(r"libcuda\.so\.(\d+\.[\d.]+)", place)
    kernel = context.facts["nvidia"]["driver"]
    library = f"libcuda.so.1 is {place}" if place else "libcuda.so.1 was not found"
    if compat or "/compat" in place:
        folder = os.path.dirname(place) or "the compat folder"
        where = _names_compat(context)
        return faults.COMPAT.found(f"{evidence}; {library}, beside driver {kernel}{where}", folder=folder)
    evidence = (
        f"{evidence}; {library} (version {version[1] if version else 'unknown'}), but the loaded driver is {kernel}"
    )
    return faults.MISMATCH.found(evidence)


def _first_libcuda(context: Context) -> str | None:
    """The library that LD_LIBRARY_PATH puts first."""
    for folder in context.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if folder and os.path.exists(os.path.join(folder, "libcuda.so.1")):
            return os.path.join(folder, "libcuda.so.1")
    return None


def _names_compat(context: Context) -> str:
    """Where a compat folder is named."""
    folders = [part for part in context.environ.get("LD_LIBRARY_PATH", "").split(":") if "compat" in part]
    if folders:
        return f"; LD_LIBRARY_PATH names {folders[0]}"
    for path in gpus.glob("etc/ld.so.conf.d", "*.conf"):
        lines = [line for line in (gpus.text(path) or "").splitlines() if "compat" in line and "cuda" in line]
        if lines:
            return f"; {gpus.shown(path)} names {lines[0].strip()}"
    return ""


def _by_container(context: Context, answer: dict[str, object], told: str, evidence: str) -> Iterator[Finding]:
    """GPUs that the machine has, but this container or job was not given."""
    if no_gpu_allocated(context):
        job = f"SLURM_JOB_ID={context.environ['SLURM_JOB_ID']} without SLURM_JOB_GPUS or SLURM_GPUS_ON_NODE"
        yield faults.NO_ALLOCATION.found(f"{evidence}; {job}")
        return
    seen = gpus.container(context.environ)
    if not seen or (gpus.nvidia_nodes() and "error" not in answer):
        return
    visible = context.environ.get("NVIDIA_VISIBLE_DEVICES")
    capabilities = context.environ.get("NVIDIA_DRIVER_CAPABILITIES")
    here = f"this is a container ({seen})"
    if not gpus.nvidia_nodes() and visible in ("void", "none", ""):
        yield faults.VOID.found(f"{evidence}; {here}, NVIDIA_VISIBLE_DEVICES={visible}, no /dev/nvidia*")
    elif not gpus.nvidia_nodes():
        # The images of NVIDIA set the variable: whoever runs one wants GPUs.
        verdict = "fail" if visible else "warn"
        number = len(gpus.pci_gpus("nvidia"))
        there = f"{here} on a host with {number or 'a'} NVIDIA GPUs, but without /dev/nvidia*"
        yield faults.CONTAINER.found(f"{evidence}; {there}", verdict=verdict)  # type: ignore[arg-type]
    elif capabilities is not None and not {"compute", "all"} & set(capabilities.split(",")):
        yield faults.CAPABILITIES.found(f"{evidence}; {here}, NVIDIA_DRIVER_CAPABILITIES={capabilities}")
    elif "no NVIDIA driver" in told and "cannot open shared object" in str(answer.get("error")):
        yield faults.NOT_MOUNTED.found(f"{evidence}; {here} with /dev/nvidia*, but: {answer['error']}")


def _by_library(context: Context, answer: dict[str, object], told: str, evidence: str) -> Iterator[Finding]:
    error = str(answer.get("error", ""))
    path = str(answer.get("path") or _first_libcuda(context) or "")
    if "/stubs" in path:
        yield faults.STUB.found(f"{evidence}; libcuda.so.1 is {path}")
    elif gpus.in_wsl() and (error or not path.startswith(("/usr/lib/wsl", "/mnt"))):
        yield faults.WSL.found(f"{evidence}; libcuda.so.1: {error or path}, not in /usr/lib/wsl/lib")
    elif "no NVIDIA driver" in told and "cannot open shared object" in error:
        yield faults.NO_LIBRARY.found(f"{evidence}; {error}", branch=_branch(context))
    elif "no NVIDIA driver" in told and error:
        yield faults.BROKEN_LIBRARY.found(f"{evidence}; {error}")


def _one_by_one(context: Context, evidence: str) -> Iterator[Finding]:
    """Each GPU on its own: one that is lost often makes the driver fail for all."""
    count = _expected(context) or 0
    value = context.environ.get("CUDA_VISIBLE_DEVICES")
    names = select(value, count).kept if value is not None else tuple(str(index) for index in range(count))
    if not 1 < len(names) <= _MOST_ALONE:
        return

    def works(name: str) -> bool:
        outcome = context.torch_probe("cuda_devices", environ={"CUDA_VISIBLE_DEVICES": name}, deadline=25)
        return outcome.ok and outcome.answer.get("reason") is None

    with ThreadPoolExecutor(len(names)) as pool:
        good = dict(zip(names, pool.map(works, names), strict=True))
    lost = [name for name in names if not good[name]]
    if any(good.values()) and lost:
        without = ",".join(name for name in names if good[name])
        yield faults.LOST.found(
            f"GPU {', '.join(lost)} fails alone, the other {len(names) - len(lost)} of {len(names)} work alone: "
            f"{evidence}",
            without=without,
        )
    elif all(good.values()):
        yield faults.TOGETHER.found(f"each of {len(names)} GPUs works alone, but not all together: {evidence}")


def _in_general(context: Context, outcome: Outcome, answer: dict[str, object], told: str, evidence: str) -> Finding:
    """Nothing but the error itself is known."""
    if outcome.timed_out:
        return faults.HANG.found(evidence)
    if outcome.signal:
        return faults.CRASH.found(evidence)
    visible = context.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        evidence += f" (CUDA_VISIBLE_DEVICES={visible})"
    if private := [node for node in gpus.nvidia_nodes() if not os.stat(system.ROOT / node[1:]).st_mode & 0o006]:
        evidence += f"; not everybody may open {', '.join(private)} (ls -l)"
    code = str(answer.get("code", ""))
    known = (fault for number, words, fault in faults.BY_WORDS if code == number or re.search(words, told))
    fault = next(known, faults.OTHER)
    return fault.found(f"torch sees none of {len(context.facts['nvidia']['devices'])} GPUs: {evidence}")


# --- it does not: AMD


def _rocm(context: Context, told: str) -> Iterator[Finding]:
    evidence = told.splitlines()[0]
    nodes = ["/dev/kfd", *(f"/dev/dri/{path.name}" for path in gpus.glob("dev/dri", "renderD*"))]
    places = {node: system.ROOT / node[1:] for node in nodes}
    closed = [node for node, place in places.items() if place.exists() and not os.access(place, os.W_OK)]
    override = context.environ.get("HSA_OVERRIDE_GFX_VERSION")
    if not gpus.exists("dev/kfd"):
        yield faults.KFD.found(f"/dev/kfd is missing: {evidence}")
    elif closed:
        yield no_permission(closed, evidence, faults.KFD_PERMISSION)
    elif override:
        yield faults.GFX_OVERRIDE.found(f"HSA_OVERRIDE_GFX_VERSION={override}: {evidence}")
    else:
        yield faults.HIP_OTHER.found(evidence)
