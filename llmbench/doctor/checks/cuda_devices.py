"""Does each GPU compute, and rightly? Each is asked in a process of its own, so that a broken one hides no other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from llmbench.doctor.checks.cuda_build import LEAST_DRIVER
from llmbench.doctor.checks.cuda_reach import ended
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, fill, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

_FP32_ROUNDOFF = 2.0**-24
# Each element is a sum of 256 products: off by at most (256 + 1) roundings of its magnitude, twice that with the
# reference's own input rounding.
_LIMIT = 2 * 257 * _FP32_ROUNDOFF
_LOOSE = 1e-3
"""Relative error of a convolution or layer in fp32 that no order of summation explains."""
_TEGRA = {53, 62, 72, 87, 101}
"""Compute capabilities (times 10) of GPUs inside Jetson processors, which run only code built for them."""
_AT_ONCE = 16

_DIAGNOSE = "dcgmi diag -r 3 (or NVIDIA's field diagnostic)"
_DMESG = "sudo dmesg | grep -i -e nvrm -e xid"
_CUDA_TABLE = "https://developer.nvidia.com/cuda-gpus"

WRONG = fault(
    "cuda.devices.wrong",
    "fail",
    "A GPU computes wrong values",
    cause="this GPU computes wrong values: whatever is trained on it is silently corrupted",
    fix=f"take the GPU out of service (CUDA_VISIBLE_DEVICES without it) and run its diagnosis: {_DIAGNOSE}",
    link="https://arxiv.org/abs/2102.11245",
)
UNSTEADY = fault(
    "cuda.devices.unsteady",
    "fail",
    "A GPU gives different results for the same inputs",
    cause="the same matmul twice gives different bits, as no sound GPU does: its results are silently corrupted",
    fix=f"take the GPU out of service (CUDA_VISIBLE_DEVICES without it) and run its diagnosis: {_DIAGNOSE}",
    link="https://arxiv.org/abs/2102.11245",
)
TOO_OLD = fault(
    "cuda.devices.too-old",
    "fail",
    "A GPU is too old for this build of torch",
    cause="this build of torch has no kernels for a GPU that old: it is not compatible, and every kernel fails with no "
    "kernel image is available for execution on the device",
    fix="<python> -m pip install --force-reinstall <requirement> --index-url https://download.pytorch.org/whl/<index>",
    link=_CUDA_TABLE,
)
TOO_NEW = fault(
    "cuda.devices.too-new",
    "fail",
    "A GPU is newer than this build of torch",
    cause="this build of torch was made before this GPU and has no kernels for it: it is not compatible, and every "
    "kernel fails with no kernel image is available for execution on the device",
    fix="<python> -m pip install --force-reinstall <requirement> --index-url https://download.pytorch.org/whl/<index>",
    link=_CUDA_TABLE,
)
BY_PTX = fault(
    "cuda.devices.by-ptx",
    "warn",
    "Kernels are translated for this GPU when they are first used",
    cause="this build of torch has no kernels for this GPU, only their PTX, which the driver translates: the first use "
    "of each takes long, and libraries such as flash attention may lack it altogether",
    fix="<python> -m pip install --force-reinstall <requirement> --index-url https://download.pytorch.org/whl/<index>",
    link=_CUDA_TABLE,
)
GFX = fault(
    "cuda.devices.gfx",
    "fail",
    "An AMD GPU for which this build of torch has no kernels",
    cause="this ROCm build of torch has no kernels for this model: they fail with invalid device function, or crash",
    fix="a build for this model (https://rocm.docs.amd.com lists them); for a near relative of a supported one: "
    "export HSA_OVERRIDE_GFX_VERSION (gfx1031, gfx1032: 10.3.0)",
    link="https://rocm.docs.amd.com/projects/install-on-linux/en/latest/reference/system-requirements.html",
)
NO_MEMORY = fault(
    "cuda.devices.no-memory",
    "fail",
    "No memory is left on a GPU",
    cause="not even the first few MiB can be allocated: other processes fill this GPU (a notebook, or a dead worker "
    "that still holds it), or this process may not have more",
    fix="nvidia-smi, or fuser -v /dev/nvidia*, shows which processes; end them",
)
BUSY = fault(
    "cuda.devices.busy",
    "fail",
    "A GPU is busy or prohibited",
    cause="its compute mode is Exclusive_Process and another process holds it, or it is Prohibited",
    fix="nvidia-smi shows who holds it; sudo nvidia-smi -i <numbers> -c DEFAULT lets several processes share it",
)
ECC = fault(
    "cuda.devices.ecc",
    "fail",
    "A GPU stops at an uncorrectable memory error",
    cause="the memory of this GPU has an uncorrectable ECC error: every process on it is ended",
    fix="stop its jobs, then sudo nvidia-smi --gpu-reset -i <numbers>; replace the GPU if it comes back",
    link="https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/index.html",
)
NO_IMAGE = fault(
    "cuda.devices.no-kernel-image",
    "fail",
    "torch has no kernel for a GPU",
    cause="no kernel image is available for execution on the device: this build of torch was not made for this GPU",
    fix="<python> -m pip install --force-reinstall <requirement> --index-url https://download.pytorch.org/whl/<index>",
    link=_CUDA_TABLE,
)
PTX = fault(
    "cuda.devices.ptx-version",
    "fail",
    "The driver cannot translate this build's PTX",
    cause="torch has only PTX for this GPU, made by a newer CUDA than the driver knows: the provided PTX was compiled "
    "with an unsupported toolchain",
    fix="upgrade the driver to one for CUDA <cuda>, or install a torch with kernels for this GPU",
)
CUBLAS = fault(
    "cuda.devices.cublas",
    "fail",
    "cuBLAS does not work on a GPU",
    cause="cuBLAS does not start: mostly no memory is left for its workspace, or a libcublas of another version is "
    "found first (LD_LIBRARY_PATH)",
    fix="unset LD_LIBRARY_PATH; free memory of the GPU (nvidia-smi); <python> -m pip list | grep -i cublas must show "
    "the version that torch asks for",
)
HANG = fault(
    "cuda.devices.hang",
    "fail",
    "A GPU hangs",
    cause="the GPU does not finish what it is given: training on it would stand still",
    fix=f"{_DMESG}; sudo nvidia-smi --gpu-reset -i <numbers>, or power-cycle the machine",
)
CRASH = fault(
    "cuda.devices.crash",
    "fail",
    "Using a GPU crashes the process",
    cause="the driver or a library of torch crashes as soon as it uses this GPU",
    fix=f"unset LD_LIBRARY_PATH LD_PRELOAD; {_DMESG}",
)
ERROR = fault(
    "cuda.devices.error",
    "fail",
    "A GPU fails when it is used",
    cause="torch sees this GPU, but work on it fails",
    fix=f"{_DMESG}; nvidia-smi; sudo nvidia-smi --gpu-reset -i <numbers>, or power-cycle the machine",
)

_ERRORS = (
    (r"no kernel image|invalid device function", NO_IMAGE),
    (r"unsupported toolchain|PTX", PTX),
    (r"CUBLAS_STATUS", CUBLAS),
    (r"out of memory", NO_MEMORY),
    (r"busy or unavailable", BUSY),
    (r"uncorrectable ECC", ECC),
)


@check("cuda.devices", "torch computes right on each GPU", deadline=60, needs=("cuda.reach",))
def devices(context: Context) -> Iterator[Finding]:
    """An allocation, a kernel, and an fp32 matmul against fp64 on the CPU, on each GPU by itself."""
    seen = context.facts.get("devices")
    if not seen:
        yield skipped("no GPU that this torch could use")
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        ask = [pool.submit(context.torch_probe, "cuda_compute", {"device": index}) for index in range(len(seen))]
        outcomes = [future.result() for future in ask]
    judged: dict[Finding, list[str]] = {}
    for index, (device, outcome) in enumerate(zip(seen, outcomes, strict=True)):
        for finding in _judge(context, device, outcome):
            judged.setdefault(finding, []).append(str(index))
    for finding, numbers in judged.items():
        values = {"gpus": f"GPU{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}", "numbers": ",".join(numbers)}
        fix = finding.fix and fill(finding.fix, values)
        yield replace(finding, evidence=fill(finding.evidence, values), fix=fix)


def _judge(context: Context, device: Mapping[str, Any], outcome: Outcome) -> Iterator[Finding]:
    """What is to be said of one GPU, as ``<gpus>``: several may share it."""
    name = f"<gpus>, {device['name']} (compute capability {device['capability']})"
    if finding := _architecture(context, name, device):
        yield finding
        if finding.verdict == "fail":
            return
    found = outcome.answer
    if not outcome.ok:
        yield _failed(context, device, name, outcome)
        return
    error = float(found["relative_error"])
    if not error <= _LIMIT:
        yield WRONG.found(
            f"{name} computes wrong values: an fp32 matmul differs from the CPU's fp64 result by {error:.1e} of |A||B| "
            f"(limit {_LIMIT:.1e})"
        )
    elif found["kernel"] != 1 << 20:
        yield WRONG.found(f"{name} computes wrong values: 2^20 ones add up to {found['kernel']:.0f}")
    elif not found["repeats"]:
        yield UNSTEADY.found(f"{name}: the same fp32 matmul twice gives different bits")
    else:
        free, total = found["free_bytes"] / 2**30, found["memory_bytes"] / 2**30
        yield passed(f"{name}: {free:.1f} of {total:.1f} GiB free; fp32 matmul off by {error:.0e}")


def _failed(context: Context, device: Mapping[str, Any], name: str, outcome: Outcome) -> Finding:
    step = outcome.answer.get("step", "start")
    evidence = f"{name}: {step} {ended(outcome)}"
    if outcome.timed_out:
        return HANG.found(evidence)
    if outcome.signal:
        return CRASH.found(evidence)
    kind = next((kind for words, kind in _ERRORS if re.search(words, evidence)), ERROR)
    return kind.found(evidence, cuda=context.facts["torch"]["cuda"], **wheel(context, device))


# --- architecture


def _architecture(context: Context, name: str, device: Mapping[str, Any]) -> Finding | None:
    """Whether this build has kernels for the device; None if so, or if nothing is known."""
    built = context.facts["cuda_build"]["architectures"]
    if context.facts["torch"]["hip"]:
        gfx = str(device["gfx"]).partition(":")[0]
        known = {entry.partition(":")[0] for entry in built}
        if not gfx or not known or gfx in known:
            return None
        return GFX.found(f"{name} is a {gfx}; torch {context.facts['torch']['version']} is built for {' '.join(built)}")
    parsed = [re.fullmatch(r"(sm|compute)_(\d+)[a-z]?", entry) for entry in built]
    kernels = [int(match[2]) for match in parsed if match and match[1] == "sm"]
    texts = [int(match[2]) for match in parsed if match and match[1] == "compute"]
    capability = _number(device["capability"])
    if not kernels or any(runs(code, capability) for code in kernels):
        return None
    version = context.facts["torch"]["version"]
    evidence = f"{name} is sm_{capability}; torch {version} is built for {' '.join(built)}"
    values = wheel(context, device)
    if any(code <= capability for code in texts):
        return BY_PTX.found(f"{evidence}, of which only PTX fits", **values)
    kind = TOO_NEW if capability > min(kernels) else TOO_OLD
    return kind.found(f"{evidence}, not for sm_{capability}", **values)


def _number(capability: str) -> int:
    major, _, minor = capability.partition(".")
    return 10 * int(major) + int(minor)


def runs(code: int, capability: int) -> bool:
    """Whether a GPU runs kernels that were built for ``code``: the same major version, and no newer minor one."""
    if code in _TEGRA or capability in _TEGRA:
        return code == capability
    return code // 10 == capability // 10 and code <= capability


def wheel(context: Context, device: Mapping[str, Any]) -> dict[str, Any]:
    """Requirement and wheel index of a torch that has kernels for the device, and that the driver runs."""
    capability, version = _number(device["capability"]), str(context.facts["torch"]["version"]).partition("+")[0]
    table: Mapping[str, Sequence[int]] = context.facts["cuda_build"]["wheels"]
    fitting = [cuda for cuda, built in table.items() if any(runs(code, capability) for code in built)]
    driver = context.facts["nvidia"]["driver"] or "999"
    branch = int(driver.partition(".")[0])
    runnable = [cuda for cuda in fitting if _least(cuda) <= branch]
    if runnable or fitting:
        return {"requirement": f"torch=={version}", "index": "cu" + (runnable or fitting)[-1].replace(".", "")}
    if capability < 50:
        return {"requirement": "torch==1.12.1", "index": "cu113"}
    return {"requirement": "torch", "index": "cu126" if capability < 75 else "cu130"}


def _least(cuda: str) -> int:
    return int(LEAST_DRIVER.get(int(cuda.partition(".")[0]), "0").partition(".")[0])


# --- libraries

CUDNN_VERSION = fault(
    "cuda.libraries.cudnn-version",
    "fail",
    "Another cuDNN is loaded than torch was built with",
    cause="a cuDNN of another version is found before the one that torch brings (LD_LIBRARY_PATH, or another wheel): "
    "convolutions and attention fail, or crash",
    fix="unset LD_LIBRARY_PATH; <python> -m pip install --force-reinstall torch==<version> brings the right one",
    link="https://github.com/pytorch/pytorch/issues/185512",
)
CUDNN = fault(
    "cuda.libraries.cudnn",
    "fail",
    "cuDNN does not work",
    cause="cuDNN does not start or does not compute: its parts have different versions, one of them is missing, or no "
    "memory is left",
    fix="unset LD_LIBRARY_PATH; <python> -m pip install --force-reinstall torch==<version>; nvidia-smi shows free "
    "memory",
    link="https://github.com/pytorch/pytorch/issues/188892",
)
CUBLASLT = fault(
    "cuda.libraries.cublas",
    "fail",
    "cuBLAS does not work",
    cause="a layer with a bias fails or computes wrong values in cuBLAS: a libcublas or libcublasLt of another version "
    "is found first (LD_LIBRARY_PATH), or the wheels differ",
    fix="unset LD_LIBRARY_PATH; <python> -m pip install --force-reinstall torch==<version>",
)
NO_NCCL = fault(
    "cuda.libraries.no-nccl",
    "warn",
    "This build of torch has no NCCL",
    cause="several GPUs, but no NCCL: training on more than one of them must use gloo, which is many times slower",
    fix="<python> -m pip install --force-reinstall torch, from https://pytorch.org/get-started",
)
OTHER = fault(
    "cuda.libraries.error",
    "fail",
    "A library of torch's CUDA build fails",
    cause="what training calls on every step fails outright",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; <python> -m pip install --force-reinstall torch==<version>",
)


@check(
    "cuda.libraries",
    "cuDNN, cuBLAS and NCCL work",
    deadline=60,
    needs=("cuda.reach",),
    follows=("cuda.devices",),
)
def libraries(context: Context) -> Iterator[Finding]:
    """A convolution and a layer on the first GPU against the CPU's; versions, and direct access between GPUs."""
    seen = context.facts.get("devices")
    if not seen:
        yield skipped("no GPU that this torch could use")
        return
    outcome = context.torch_probe("cuda_libraries", {"count": len(seen)})
    found = outcome.answer
    version = str(context.facts["torch"]["version"]).partition("+")[0]
    if not outcome.ok:
        yield _library_failed(outcome, found.get("step", "start"), version)
        return
    for error, kind in ((found["convolution_error"], CUDNN), (found["linear_error"], CUBLASLT)):
        if not error <= _LOOSE:
            what = "a convolution" if kind is CUDNN else "a layer with a bias"
            yield kind.found(
                f"{what} on GPU 0 differs from the CPU's by {error:.1e} (limit {_LOOSE:.0e})", version=version
            )
    if found["nccl"] is None and len(seen) > 1:
        yield NO_NCCL.found(f"{len(seen)} GPUs, and torch.cuda.nccl.version() tells none")
    peers = found["peers"]
    direct = (
        f"; {peers['direct']} of {peers['pairs']} pairs of GPUs access each other directly" if peers["pairs"] else ""
    )
    context.facts["cuda_libraries"] = {"cudnn": found["cudnn"], "nccl": found["nccl"], "peers": peers}
    yield passed(f"cuDNN {found['cudnn']}, NCCL {found['nccl']}{direct}")


def _library_failed(outcome: Outcome, step: str, version: str) -> Finding:
    evidence = f"{step} on GPU 0 {ended(outcome)}"
    text = f"{ended(outcome)} {(outcome.error or {}).get('message', '')}"
    if "cuDNN version incompatibility" in text or "SUBLIBRARY_VERSION_MISMATCH" in text:
        return CUDNN_VERSION.found(evidence, version=version)
    if "cudnn" in text.lower():
        return CUDNN.found(evidence, version=version)
    return (CUBLASLT if "cublas" in text.lower() else OTHER).found(evidence, version=version)
