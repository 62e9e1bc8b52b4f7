"""The CUDA libraries that come in packages of their own, against what torch requires of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbench.doctor.checks.installing import install, reinstall
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.checks.torch_files import sizes
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context

WHEEL_MISMATCH = fault(
    "torch.wheels.mismatch",
    "fail",
    "A CUDA library is of another version than torch needs",
    cause="another package, or an upgrade by hand, changed it: torch is built against one version and loads another, "
    "which fails at import or in a kernel",
    fix="<command>",
)
WHEEL_MISSING = fault(
    "torch.wheels.missing",
    "fail",
    "A CUDA library that torch needs is not installed",
    cause="torch was installed without its dependencies (--no-deps), or the package was removed: import torch fails "
    "for want of a shared library",
    fix="<command>",
)
TWO_MAJORS = fault(
    "torch.wheels.two-majors",
    "warn",
    "CUDA libraries of two major versions are installed side by side",
    cause="left over from an upgrade of torch, or wanted by another package: cuDNN and NCCL of both lie in the same "
    "folder and overwrite each other's files",
    fix="<command>",
)
WHEEL_DAMAGED = fault(
    "torch.wheels.damaged",
    "fail",
    "Files of a CUDA library are missing, cut off or overwritten",
    cause="an interrupted install, a full disk, or another package that wrote over the same files",
    fix="<command>",
)


@check("torch.wheels", "The CUDA libraries are those that torch needs", needs=("torch.files",))
def wheels(context: Context) -> Iterator[Finding]:
    """Compares the installed ``nvidia-*`` packages with torch's requirements on them, and with each other."""
    found = context.facts["cuda_wheels"]
    installed: dict[str, str] = found["installed"]
    findings = [
        *_requirements(context, found["required"], installed),
        *_majors(context, found["torch_cuda"], installed),
        *_damage(context, found["damaged"], installed),
    ]
    yield from findings
    if not findings and not installed:
        yield skipped("torch brings no CUDA libraries as packages of their own")
    elif not findings:
        yield passed(f"{len(installed)} packages with CUDA libraries, as torch needs them")


def _requirements(context: Context, lines: Sequence[str], installed: Mapping[str, str]) -> Iterator[Finding]:
    for line in lines:
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([\w.-]+)(?:\[[^\]]*\])?\s*\(?([^)]*)\)?", requirement)
        if match is None or not _applies(marker):
            continue
        name, wanted = match.group(1), match.group(2).strip()
        have = installed.get(re.sub(r"[-_.]+", "_", name).lower())
        command = install(context, f'"{name}{wanted}"' if wanted else name)
        if have is None:
            yield WHEEL_MISSING.found(f"torch requires {name}{wanted}, which is not installed", command=command)
        elif wanted and not satisfies(have, wanted):
            yield WHEEL_MISMATCH.found(f"torch requires {name}{wanted}, but you have {name} {have}", command=command)


def _applies(marker: str) -> bool:
    """Whether a requirement's marker, of those that torch uses, holds on this Linux."""
    machine = os.uname().machine
    for name, operator, value in re.findall(r"(\w+)\s*(==|!=)\s*['\"]([^'\"]*)['\"]", marker):
        here = {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": machine, "os_name": "posix"}
        if name == "extra" or (name in here and (here[name] == value) != (operator == "==")):
            return False
    return True


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version fits requirements like ``==13.0.*,>=12``; what is not understood is taken to fit."""
    have = _numbers(version)
    for part in wanted.split(","):
        match = re.match(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*([\w.*+!-]+)", part)
        if match is None:
            continue
        operator, text = match.groups()
        want = _numbers(text.removesuffix(".*"))
        width = len(want) if text.endswith(".*") else max(len(have), len(want))
        a, b = (tuple(numbers[:width]) + (0,) * (width - len(numbers)) for numbers in (have, want))
        fits = {
            "==": a == b, "===": a == b, "!=": a != b, "<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b,
            "~=": a >= b and have[: len(want) - 1] == want[:-1],
        }  # fmt: skip
        if not fits[operator]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def _majors(context: Context, cuda: str | None, installed: Mapping[str, str]) -> Iterator[Finding]:
    majors: dict[str, list[str]] = {}
    for name, version in installed.items():
        suffix = re.search(r"_cu(\d+)$", name)
        if suffix:
            majors.setdefault(suffix.group(1), []).append(name)
        elif name in ("nvidia_cublas", "nvidia_cuda_runtime", "nvidia_nvjitlink"):
            majors.setdefault(version.partition(".")[0], []).append(name)
    if len(majors) < 2:
        return
    own = (cuda or "").partition(".")[0]
    others = [name.replace("_", "-") for major, names in majors.items() if major != own for name in names]
    shown = "; ".join(
        f"cu{major}: {', '.join(f'{name} {installed[name]}'.replace('_', '-') for name in sorted(names)[:3])}"
        for major, names in sorted(majors.items())
    )
    yield TWO_MAJORS.found(
        f"CUDA libraries for both cu{' and cu'.join(sorted(majors))} are installed side by side ({shown}); "
        f"torch is built for {f'CUDA {cuda}' if cuda else 'the CPU'}",
        command=f"{context.python} -m pip uninstall -y {' '.join(sorted(others))}; then {reinstall(context)}, without "
        "--no-deps, since files that both had are gone",
    )


def _damage(context: Context, damaged: Mapping[str, Any], installed: Mapping[str, str]) -> Iterator[Finding]:
    for name, found in damaged.items():
        project = name.replace("_", "-")
        wrong = [*found["truncated"], *found["replaced"]]
        evidence = sizes(wrong) if wrong else f"{found['missing'][0]} is missing"
        yield WHEEL_DAMAGED.found(
            f"{project} {installed[name]}: {evidence}",
            command=install(
                context, f"{project}=={installed[name]}", "--force-reinstall", "--no-deps", "--no-cache-dir"
            ),
        )
