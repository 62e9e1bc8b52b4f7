"""The dynamic linker: which shared libraries come first, and whether they are new enough for torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.runner import Context

PRELOAD_GONE = fault(
    "torch.libraries.preload-gone",
    "warn",
    "A preloaded library does not exist",
    cause="every program prints an error and runs without it",
    fix="unset LD_PRELOAD, or install what it names",
    script="unset LD_PRELOAD",
)
PRELOAD_BROKEN = fault(
    "torch.libraries.preload-broken",
    "warn",
    "A preloaded library cannot be loaded",
    cause="it is no library, or one for another machine: every program prints an error and runs without it",
    fix="unset LD_PRELOAD, or name a library of this machine",
    script="unset LD_PRELOAD",
)
OLD_LIBSTDCXX = fault(
    "torch.libraries.libstdcxx-old",
    "fail",
    "An old libstdc++.so.6 comes first",
    cause="the C++ library that is found first lacks symbols that torch needs: import torch fails with 'version "
    "GLIBCXX_… not found'",
    fix="<remedy>",
    link="https://gcc.gnu.org/onlinedocs/libstdc++/manual/abi.html",
)
OLD_GLIBC = fault(
    "torch.libraries.glibc-old",
    "fail",
    "The C library of this system is older than torch needs",
    cause="this torch was built for newer systems: it cannot be loaded here, and the C library cannot be exchanged",
    fix="use a newer system or container image, or an older torch",
)
OLD_CUDA_LIBRARY = fault(
    "torch.libraries.cuda-older",
    "warn",
    "LD_LIBRARY_PATH provides older CUDA libraries than torch's own",
    cause="the dynamic linker takes these before the ones that torch brings: undefined symbols at import, 'cuDNN "
    "version incompatibility', or a slower or failing kernel later",
    fix="<command>",
    link="https://github.com/pytorch/pytorch/issues/80637",
)
OTHER_TORCH = fault(
    "torch.libraries.other-torch",
    "fail",
    "LD_LIBRARY_PATH provides another libtorch",
    cause="the libraries of a libtorch for C++, or of another environment, are loaded in place of torch's own: "
    "undefined symbols or a crash at import",
    fix="<command>",
    link="https://github.com/pytorch/pytorch/issues/96797",
)


@check("torch.libraries", "The dynamic linker finds the right libraries", deadline=15, needs=("python.starts",))
def libraries(context: Context) -> Iterator[Finding]:
    """What LD_PRELOAD, LD_LIBRARY_PATH and ld.so.conf put first, against what torch's libraries need."""
    outcome = context.probe("libraries")
    found = outcome.answer
    findings = [
        *_preloaded(found.get("preloaded", [])),
        *_cxx(context, found),
        *_c(found),
        *_shadows(context, found),
    ]
    yield from findings
    if findings:
        return
    if not outcome.ok:
        yield skipped(f"looking at the libraries {outcome.ending}")
        return
    folders = _folders(context)
    shadowed = ", ".join(f"{s['name']} {s['version'] or ''}".strip() for s in found.get("shadows", []))
    notes = [
        f"{len(found['preloaded'])} libraries preloaded",
        f"{len(folders)} folders in LD_LIBRARY_PATH" + (f" with {shadowed}" if shadowed else ""),
        f"libstdc++ from {found['cxx'].get('path') or 'nowhere'}",
        found["libc"] or "no glibc",
    ]
    yield passed("; ".join(notes))


def _preloaded(entries: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for entry in entries:
        source = entry["source"]
        change: dict[str, Any] = {} if source == "LD_PRELOAD" else {"fix": f"remove it from {source}"}
        if not entry["error"]:
            continue
        if not entry["exists"] or "No such file" in entry["error"]:
            missing = "which does not exist" if "/" in entry["name"] else "which the dynamic linker does not find"
            yield PRELOAD_GONE.found(f"{source} names {entry['name']}, {missing}", **change)
        else:
            yield PRELOAD_BROKEN.found(f"{source} names {entry['name']}: {entry['error']}", **change)


def _cxx(context: Context, found: Mapping[str, Any]) -> Iterator[Finding]:
    library, needed = found.get("cxx", {}), found.get("needed", {})
    path, defined = library.get("path"), library.get("defined")
    if not path or not defined:
        return
    for family in ("GLIBCXX", "CXXABI"):
        want, by = needed.get(family, ([], ""))
        have = defined.get(family, [])
        if want > have:
            source, remedy = _origin(context, path)
            yield OLD_LIBSTDCXX.found(
                f"{source} provides {path}, which has only {family}_{_dotted(have) or '…'}; "
                f"{by} needs {family}_{_dotted(want)}",
                remedy=remedy,
            )
            return


def _c(found: Mapping[str, Any]) -> Iterator[Finding]:
    want, by = found.get("needed", {}).get("GLIBC", ([], ""))
    have = [int(part) for part in re.findall(r"\d+", found.get("libc", ""))]
    if have and want > have:
        yield OLD_GLIBC.found(f"this system has glibc {_dotted(have)}, and {by} needs GLIBC_{_dotted(want)}")


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))


def _folders(context: Context) -> list[str]:
    return [part for part in re.split("[:;]", context.environ.get("LD_LIBRARY_PATH", "")) if part]


def _origin(context: Context, path: str) -> tuple[str, str]:
    """Why the linker took this file, and what changes that."""
    folder = os.path.dirname(path)
    if any(os.path.realpath(path) == os.path.realpath(part) for part in _preload(context)):
        return f"LD_PRELOAD={context.environ['LD_PRELOAD']}", "unset LD_PRELOAD"
    for part in _folders(context):
        if os.path.realpath(part) == os.path.realpath(folder):
            return f"LD_LIBRARY_PATH={context.environ['LD_LIBRARY_PATH']}", without(context, [part])
    for file in [Path("/etc/ld.so.conf"), *sorted(Path("/etc/ld.so.conf.d").glob("*.conf"))]:
        try:
            lines = [line.strip() for line in file.read_text(errors="replace").splitlines()]
        except OSError:
            continue
        if folder in lines and not folder.startswith(("/lib", "/usr/lib")):
            return f"{file} ({folder})", f"remove {folder} from {file}, then run ldconfig as root"
    if context.environ.get("CONDA_PREFIX") and path.startswith(context.environ["CONDA_PREFIX"]):
        return "the conda environment", "conda install -c conda-forge 'libstdcxx-ng>=12'"
    return (
        "this system",
        "use a newer system or container image, or a conda environment, which brings its own libstdc++",
    )


def _preload(context: Context) -> list[str]:
    return [part for part in re.split("[: ]+", context.environ.get("LD_PRELOAD", "")) if part]


def without(context: Context, folders: Sequence[str]) -> str:
    """The command that takes folders out of LD_LIBRARY_PATH."""
    gone = {os.path.realpath(folder) for folder in folders}
    kept = [part for part in _folders(context) if os.path.realpath(part) not in gone]
    return f"export LD_LIBRARY_PATH={':'.join(kept)}" if kept else "unset LD_LIBRARY_PATH"


def _shadows(context: Context, found: Mapping[str, Any]) -> Iterator[Finding]:
    shadows = found.get("shadows", [])
    own = [shadow for shadow in shadows if shadow["library"] == "torch" and not found["insists"]]
    if own:
        names = ", ".join(shadow["name"] for shadow in own)
        yield OTHER_TORCH.found(
            f"LD_LIBRARY_PATH={context.environ['LD_LIBRARY_PATH']} provides another {names} (in {own[0]['folder']})",
            command=without(context, [shadow["folder"] for shadow in own]),
        )
    for folder in dict.fromkeys(shadow["folder"] for shadow in shadows):
        here = [s for s in shadows if s["folder"] == folder and _is_taken(s, found)]
        if any(_is_older(s, found) for s in here):
            described = ", ".join(_described(s, found) for s in here if _is_older(s, found) or s["version"] is None)
            yield OLD_CUDA_LIBRARY.found(
                f"LD_LIBRARY_PATH={context.environ['LD_LIBRARY_PATH']} provides older CUDA libraries than torch's own "
                f"in {folder}: {described}",
                command=without(context, [folder]),
            )


_PACKAGES = {"cudart": "cuda_runtime", "cublasLt": "cublas", "nvrtc": "cuda_nvrtc", "nvJitLink": "nvjitlink"}


def _own(shadow: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Version of this library that torch brings."""
    library = shadow["library"]
    name = "cudnn" if library.startswith("cudnn") else _PACKAGES.get(library, library).lower()
    version: str | None = found.get("own", {}).get(name)
    return version


def _is_taken(shadow: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether torch asks for a library of this very name: those of another major version do not disturb it."""
    cuda, own = found.get("torch_cuda"), _own(shadow, found)
    if not cuda or not own or shadow["library"] == "torch":
        return False
    if shadow["library"] in ("cudart", "cublas", "cublasLt", "nvrtc", "nvJitLink"):
        return bool(str(shadow["soname"]) == cuda.partition(".")[0])
    return bool(not shadow["library"].startswith("cudnn") or str(shadow["soname"]) == own.partition(".")[0])


def _is_older(shadow: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    have = [int(part) for part in re.findall(r"\d+", shadow["version"] or "")]
    own = [int(part) for part in re.findall(r"\d+", _own(shadow, found) or "")]
    width = min(len(have), len(own), 3)
    return bool(have) and have[:width] < own[:width]


def _described(shadow: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    version = f"version {shadow['version']}" if shadow["version"] else "which does not tell its version"
    return f"{shadow['name']} ({version}; torch brings {_own(shadow, found)})"
