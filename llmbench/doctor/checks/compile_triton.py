"""Triton, which makes the kernels of torch.compile for GPUs: its version, its files, its assembler, and libcuda."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.gpus import nvidia_devices
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context

_COMPILES = "torch.compile for the GPU fails"
_NO_TRITON = fault(
    "compile.triton.missing",
    "fail",
    "Triton is missing",
    cause=f"{_COMPILES} ('Cannot find a working triton installation'): torch was installed without what it requires",
    fix="<python> -m pip install <requirement>",
    script="<python> -m pip install <requirement>",
)
_OTHER_TRITON = fault(
    "compile.triton.version",
    "warn",
    "Triton is of another version than torch requires",
    cause=f"torch and Triton are made for each other: {_COMPILES}, or makes slower kernels",
    fix="<python> -m pip install <requirement>",
)
_TWO_TRITONS = fault(
    "compile.triton.two",
    "warn",
    "Two distributions of Triton are installed",
    cause="both write into the same folder: what is imported is a mixture of both",
    fix="<python> -m pip uninstall -y <names>; <python> -m pip install <requirement>",
)
_PART = fault(
    "compile.triton.incomplete",
    "fail",
    "Files of Triton are missing",
    cause=f"an install was interrupted, or something removed them: {_COMPILES}",
    fix="<python> -m pip install --force-reinstall --no-deps <requirement>",
)
_NO_PTXAS = fault(
    "compile.triton.ptxas-missing",
    "fail",
    "Triton's assembler (ptxas) is missing",
    cause=f"{_COMPILES} ('Cannot find ptxas'): Triton turns every kernel into machine code with it",
    fix="<python> -m pip install --force-reinstall --no-deps <requirement>",
)
_BAD_PTXAS = fault(
    "compile.triton.ptxas-broken",
    "fail",
    "Triton's assembler (ptxas) does not run",
    cause=f"{_COMPILES}: Triton turns every kernel into machine code with it; it has no right to be executed, "
    "lies on a "
    "disk mounted noexec, or is of another machine",
    fix="chmod a+x <ptxas>; if it stays, <python> -m pip install --force-reinstall --no-deps <requirement>",
)
_PTXAS_PATH = fault(
    "compile.triton.ptxas-path",
    "warn",
    "TRITON_PTXAS_PATH names no assembler",
    cause=f"older Triton fails with 'Cannot find ptxas', newer ones take their own; {_COMPILES} where it cannot "
    "be executed",
    fix="unset TRITON_PTXAS_PATH, or point it to the ptxas of a CUDA toolkit",
    script="unset TRITON_PTXAS_PATH",
)
_NO_LIBCUDA = fault(
    "compile.triton.libcuda",
    "fail",
    "Triton does not find libcuda.so.1",
    cause=f"{_COMPILES} ('libcuda.so cannot found!'): Triton asks ldconfig where the driver's library is, and its "
    "cache "
    "does not list it",
    fix="ldconfig <folder>  (as root); or export TRITON_LIBCUDA_PATH=<folder>",
    link="https://github.com/triton-lang/triton/pull/2019",
)
_LIBCUDA_PATH = fault(
    "compile.triton.libcuda-path",
    "fail",
    "TRITON_LIBCUDA_PATH has no libcuda.so.1",
    cause=f"Triton links its launcher against the library in that folder, and nowhere else: {_COMPILES}",
    fix="unset TRITON_LIBCUDA_PATH",
    script="unset TRITON_LIBCUDA_PATH",
)


@check(
    "compile.triton",
    "Triton is there, and of the version that torch requires",
    deadline=20,
    needs=("torch.import",),
    follows=("torch.files",),
)
def triton(context: Context) -> Iterator[Finding]:
    if not context.facts["torch"].get("cuda"):
        yield skipped("this torch is not built for CUDA")
        return
    outcome = context.torch_probe("triton_files")
    found = outcome.answer
    if "gone" not in found:
        yield skipped(f"looking for Triton {outcome.ending}")
        return
    faults = [*_version(found), *_ptxas(context, found), *_libcuda(context)]
    yield from faults
    if not faults:
        names = [f"{name} {version}" for name, version in found["installed"].items()]
        ptxas = f"; ptxas {found['ptxas']['release']}" if "release" in found.get("ptxas", {}) else ""
        yield passed((", ".join(names) or str(found["folder"] or "none, and this torch requires none")) + ptxas)


def _requirement(found: dict[str, Any]) -> str:
    required = found["required"] or {"name": "triton", "version": None}
    return f"{required['name']}=={required['version']}" if required["version"] else str(required["name"])


def _version(found: dict[str, Any]) -> Iterator[Finding]:
    installed, required = found["installed"], found["required"]
    requirement = _requirement(found)
    if not installed and not found["folder"]:
        if required:
            yield _NO_TRITON.found(
                f"torch requires {requirement}, which is not installed",
                # Without a GPU, nothing asks for it.
                verdict="fail" if nvidia_devices() else "warn",
                requirement=requirement,
            )
        return
    if len(installed) > 1:
        names = " ".join(installed)
        both = " and ".join(f"{name} {version}" for name, version in installed.items())
        yield _TWO_TRITONS.found(f"{both} are both installed", names=names, requirement=requirement)
    elif installed and required and required["version"]:
        ((name, version),) = installed.items()
        if version.partition("+")[0] != required["version"].partition("+")[0]:
            yield _OTHER_TRITON.found(
                f"torch requires {requirement}, but {name} {version} is installed", requirement=requirement
            )
    if found["gone"]:
        yield _PART.found(
            f"{len(found['gone'])} files of Triton are missing, the first is {found['gone'][0]}",
            requirement=requirement,
        )


def _ptxas(context: Context, found: dict[str, Any]) -> Iterator[Finding]:
    requirement, own, named = _requirement(found), found.get("ptxas"), found.get("named_ptxas")
    if own and not any("ptxas" in name for name in found["gone"]):
        if not own["exists"]:
            yield _NO_PTXAS.found(f"Triton's assembler {own['path']} does not exist (missing)", requirement=requirement)
        elif "release" not in own:
            yield _BAD_PTXAS.found(f"{own['path']} {_trouble(own)}", ptxas=own["path"], requirement=requirement)
    if named and "release" not in named:
        yield _PTXAS_PATH.found(f"TRITON_PTXAS_PATH={named['path']} {_trouble(named)}")


def _trouble(tool: dict[str, Any]) -> str:
    if not tool["exists"]:
        return "does not exist"
    if not tool["executable"]:
        return "is not executable"
    return f"--version fails: {tool.get('error')}"


_LDCONFIG = "/sbin/ldconfig"
_LIBCUDA = "libcuda.so.1"
_USUAL_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/run/opengl-driver/lib",
)


def _libcuda(context: Context) -> Iterator[Finding]:
    """Looks for the driver's library as Triton does. Where it is nowhere, the driver is missing: cuda.driver's "
    "matter.
    """
    named = context.environ.get("TRITON_LIBCUDA_PATH")
    if named:
        if not os.path.exists(os.path.join(named, _LIBCUDA)):
            yield _LIBCUDA_PATH.found(f"TRITON_LIBCUDA_PATH={named} has no {_LIBCUDA}")
        return
    if not (nvidia_devices() or os.path.exists("/dev/dxg")):
        return
    paths = context.environ.get("LD_LIBRARY_PATH", "").split(":")
    folders = [*filter(None, paths), *_USUAL_FOLDERS]
    there = [folder for folder in folders if os.path.exists(os.path.join(folder, _LIBCUDA))]
    if not there:
        return
    outcome = context.command([_LDCONFIG, "-p"])
    listed = [line.split()[-1] for line in outcome.noise.splitlines() if _LIBCUDA in line]
    if not any(os.path.exists(path) for path in listed) and (listed or there[0] not in paths):
        why = f"lists only {listed[0]}, which is gone" if listed else "does not list it"
        if not outcome.ok:
            why = outcome.ending
        yield _NO_LIBCUDA.found(f"{there[0]}/{_LIBCUDA} exists, but {_LDCONFIG} -p {why}", folder=there[0])
