"""The files of the installed torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbench.doctor.checks.installing import install, reinstall
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

UNLISTABLE = fault(
    "torch.files.unlistable",
    "fail",
    "Torch cannot be looked for",
    cause="an entry of site-packages is broken or unreadable, or lies on a file system that does not answer",
    fix="look at the entry that is named, or make the environment anew",
)
NAMESPACE = fault(
    "torch.files.namespace",
    "fail",
    "torch is an empty namespace package",
    cause="a folder torch without __init__.py is left over from an interrupted install or uninstall: import torch "
    "succeeds, and nothing is in it",
    fix="rm -rf <folders>; <python> -m pip install --force-reinstall torch",
)
TWO_VERSIONS = fault(
    "torch.files.two-versions",
    "warn",
    "Two torch distributions are installed",
    cause="a half-finished upgrade, or two installers on top of each other: pip reports one and Python imports the "
    "other",
    fix="<python> -m pip uninstall -y torch, until it is not installed; then install torch once",
)
LEFTOVER = fault(
    "torch.files.leftover",
    "warn",
    "An interrupted install of torch left its folders behind",
    cause="pip renames a package to ~orch while it replaces it, and was killed before it was done: the folders take "
    "gigabytes, pip warns 'Ignoring invalid distribution', and the torch beside them may be incomplete",
    fix="rm -rf <folders>",
)
MISSING = fault(
    "torch.files.missing",
    "fail",
    "Files of torch are missing",
    cause="torch is incomplete: parts of it, like torch.compile, fail when they are first used",
    fix="<reinstall>",
)
TRUNCATED = fault(
    "torch.files.truncated",
    "fail",
    "Files of torch are truncated",
    cause="files of torch are truncated or empty: the disk was full, or the install was killed while it unpacked them",
    fix="free disk space, then <reinstall>",
)
CORRUPT = fault(
    "torch.files.corrupt",
    "fail",
    "A library of torch is no library",
    cause="it holds zeros, text or a pointer of a version control system instead of machine code: a disk that was full "
    "or lost power, or a copy without its large files",
    fix="<reinstall>",
)
REPLACED = fault(
    "torch.files.replaced",
    "warn",
    "A library of torch is another one than was installed",
    cause="somebody replaced it, or another install overwrote it: torch may crash or compute something else",
    fix="if you did not build it yourself: <reinstall>",
)
MIXED = fault(
    "torch.files.mixed",
    "fail",
    "Files of two versions of torch are mixed",
    cause="one version was unpacked over another without removing it: Python code and compiled code do not fit "
    "together",
    fix="<python> -m pip uninstall -y torch; rm -rf <folder>; then <reinstall>",
)
UNREADABLE = fault(
    "torch.files.unreadable",
    "fail",
    "Files of torch may not be read",
    cause="they belong to another user and are closed to this one, mostly by an install as root with umask 077",
    fix="as their owner: chmod -R a+rX <folder>",
)
OTHER_PYTHON = fault(
    "torch.files.other-python",
    "fail",
    "torch is built for another Python",
    cause="its compiled part is for another version of Python, mostly because PYTHONPATH leads into the packages of "
    "another environment: No module named 'torch._C'",
    fix="unset PYTHONPATH, or install torch into this environment: <install>",
)
NOT_COMPILED = fault(
    "torch.files.not-compiled",
    "fail",
    "torch has no compiled part",
    cause="the folder holds only Python files: a source tree that was not built, or a half-finished install",
    fix="work outside of the source tree, or <reinstall>",
)
OTHER_MACHINE = fault(
    "torch.files.other-machine",
    "fail",
    "torch is built for another kind of machine",
    cause="the environment or image was made for another processor or C library, and copied here, or the wheel was "
    "forced in",
    fix="<reinstall>, on this machine",
)
ELSEWHERE = fault(
    "torch.files.elsewhere",
    "warn",
    "torch is imported from elsewhere than it is installed",
    cause="another copy comes first on the import path, by PYTHONPATH or the user's site-packages: pip upgrades one, "
    "and programs use the other",
    fix="unset PYTHONPATH, and set PYTHONNOUSERSITE=1 if the copy lies in ~/.local; see <python> -m site",
)
UNKNOWN_TO_PIP = fault(
    "torch.files.unknown-to-pip",
    "warn",
    "torch is there, but not as an installed package",
    cause="its dist-info is missing: what asks for torch's version (transformers, accelerate) finds none and says that "
    "PyTorch is not installed",
    fix="<install>",
)
NO_RECORD = fault(
    "torch.files.no-record",
    "warn",
    "The list of torch's files is missing",
    cause="dist-info has no RECORD, so pip can neither upgrade nor uninstall this torch, and nothing can be compared",
    fix="<python> -m pip install --force-reinstall --ignore-installed --no-deps torch",
)
TWO_INSTALLERS = fault(
    "torch.files.two-installers",
    "warn",
    "torch was installed by conda and by pip",
    cause="the two overwrite each other's files, and conda restores its own at the next update",
    fix="keep one of them: <python> -m pip uninstall torch, or conda remove pytorch libtorch",
)

# Edited by hand are a few files. So many are another version.
_MANY_EDITED = 25


@check(
    "torch.files",
    "torch's files are all there",
    deadline=45,
    needs=("environment.folder", "python.starts", "python.shadow"),
    follows=("python.path",),
)
def files(context: Context) -> Iterator[Finding]:
    """Compares what lies there with what the installer recorded. Keeps it as facts ``torch_files``, ``cuda_wheels``."""
    outcome = context.probe("torch_files")
    found = outcome.answer
    if "found" not in found:
        yield UNLISTABLE.found(f"looking for torch {outcome.ending}")
        return
    context.facts["torch_files"] = {key: found[key] for key in ("origin", "versions")}
    context.facts["cuda_wheels"] = {
        "installed": found.get("wheels", {}),
        "required": found.get("requires", []),
        "damaged": found.get("damaged_wheels", {}),
        "torch_cuda": (found.get("source") or {}).get("cuda"),
    }
    leftovers = found["leftovers"]
    if leftovers:
        yield LEFTOVER.found(
            f"left over of an interrupted pip install of torch: {', '.join(leftovers)}", folders=" ".join(leftovers)
        )
    if not found["found"] and not found["versions"]:
        yield skipped(f"no torch in {context.python}")
        return
    if found["found"] and found["origin"] is None:
        folders = " ".join(found["folders"])
        yield NAMESPACE.found(f"torch is an empty namespace package: {folders} has no __init__.py", folders=folders)
        return
    findings = [*_installed(context, found), *_compiled(context, found), *_compared(context, outcome)]
    yield from findings
    if not findings and not leftovers:
        edited = found.get("edited", [])
        note = f", {len(edited)} edited since ({edited[0][0]})" if edited else ""
        count = found.get("recorded")
        yield passed(f"{count} files as recorded{note}" if count else "no record of its files (built from source?)")


def _installed(context: Context, found: Mapping[str, Any]) -> Iterator[Finding]:
    """What the packages say of themselves."""
    versions, infos = found["versions"], found["distributions"]
    if len(versions) > 1:
        yield TWO_VERSIONS.found(
            f"{len(versions)} torch distributions are installed: {', '.join(sorted(versions))} "
            f"({', '.join(os.path.basename(info) for info in infos)})"
        )
    if found["conda"] and "pip" in found["installers"]:
        yield TWO_INSTALLERS.found(
            f"conda's {found['conda'][0]} and pip's torch {versions[0]} are both installed in this environment"
        )
    package = found["folders"][0] if found["folders"] else None
    if package and not infos:
        yield UNKNOWN_TO_PIP.found(f"{package} has no torch-*.dist-info beside it", install=install(context, "torch"))
    # An editable install lies elsewhere by intent: its record names no file of torch.
    beside = [info for info in infos if package and os.path.dirname(info) == os.path.dirname(os.path.realpath(package))]
    if package and infos and not beside and found.get("recorded"):
        yield ELSEWHERE.found(f"torch is imported from {package}, but installed is {infos[0]} (version {versions[0]})")
    if beside and not found.get("record", True) and found["installers"][0] in ("pip", "uv"):
        yield NO_RECORD.found(f"{infos[0]} has no RECORD, although {found['installers'][0]} installed it")


def _compiled(context: Context, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether its libraries are for this Python and this machine."""
    values: dict[str, Any] = {"reinstall": reinstall(context), "install": install(context, "torch")}
    compiled, package = found.get("compiled"), (found["folders"] or ["torch"])[0]
    if compiled == [] and not any(name.startswith("torch/_C.") for name in found.get("missing", [])):
        yield NOT_COMPILED.found(f"{package} has no _C*.so", **values)
    elif compiled and not any(name == f"_C{suffix}" for name in compiled for suffix in found["suffixes"]):
        yield OTHER_PYTHON.found(
            f"{package} has {compiled[0]}, but this is Python {found['python']} (*{found['suffixes'][0]})", **values
        )
    for path, machine in found.get("foreign", [])[:1]:
        yield OTHER_MACHINE.found(f"{path} is for {machine}, and this machine is {found['machine']}", **values)
    for tag in [tag for tag in found.get("tags", []) if _foreign(tag, found)][:1]:
        if not found.get("foreign"):
            yield OTHER_MACHINE.found(
                f"torch's wheel was made for {tag}, and this machine is {found['machine']} with glibc", **values
            )
    for path, start, zeros in found.get("not_libraries", [])[:1]:
        what = "zeros" if zeros else f"{start.splitlines()[0]!r}"
        yield CORRUPT.found(f"{path} is no shared library: it starts with {what}", **values)
    unreadable = found.get("unreadable", [])
    for path, reason in unreadable[:1]:
        more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        yield UNREADABLE.found(f"{path}: {reason}{more}", folder=package)


def _foreign(tag: str, found: Mapping[str, Any]) -> bool:
    """Whether a wheel's tag names another processor, or another C library than this Linux has."""
    platform = tag.rpartition("-")[2]
    musl_here = any("musl" in suffix for suffix in found["suffixes"])
    if platform == "any" or "linux" not in platform:
        return platform != "any"
    return not platform.endswith(found["machine"]) or (("musllinux" in platform) != musl_here and "any" not in platform)


def _compared(context: Context, outcome: Outcome) -> Iterator[Finding]:
    """Presence and size against the record, and the version against the one in the files."""
    found = outcome.answer
    values: dict[str, Any] = {"reinstall": reinstall(context), "folder": (found["folders"] or ["torch"])[0]}
    missing, truncated = found.get("missing", []), found.get("truncated", [])
    replaced, edited = found.get("replaced", []), found.get("edited", [])
    # Those are told of with what they hold.
    corrupt = tuple(path for path, _, _ in found.get("not_libraries", []))
    truncated, replaced = ([f for f in files if not _names(corrupt, f[0])] for files in (truncated, replaced))
    inside, recorded = (found.get("source") or {}).get("version"), found["versions"]
    other = inside and len(recorded) == 1 and inside.partition("+")[0] != recorded[0].partition("+")[0]
    if other or len(edited) > _MANY_EDITED:
        differ = f"; {len(edited) + len(replaced) + len(truncated)} files have other sizes than recorded"
        yield MIXED.found(
            f"torch/version.py says {inside}, and the installer recorded {', '.join(recorded)}{differ}", **values
        )
        return
    cut = [[path, size, least] for path, size, least in found.get("cut", []) if not truncated]
    if truncated:
        yield TRUNCATED.found(sizes(truncated), **values)
    elif cut:
        path, size, least = cut[0]
        yield TRUNCATED.found(f"{path} has {size:,} bytes; its own headers speak of {least:,}", **values)
    if missing:
        yield MISSING.found(
            f"{len(missing)} files that torch's installer recorded are missing, the first is {missing[0]}", **values
        )
    if replaced:
        yield REPLACED.found(sizes(replaced), **values)


def _names(paths: Sequence[str], name: str) -> bool:
    return any(path.endswith(f"/{name}") for path in paths)


def sizes(files: Sequence[Sequence[Any]]) -> str:
    """The first of these files (name, bytes, recorded bytes) in words, and how many more there are."""
    name, size, recorded = files[0]
    others = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
    return f"{name} has {size:,} bytes; its installer recorded {recorded:,}{others}"
