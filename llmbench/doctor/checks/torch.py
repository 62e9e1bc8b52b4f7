"""The installed torch: its files, its import, its version, and numpy beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, failure, passed, skipped, warning
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context

OLDEST_TO_TRAIN = (2, 6)
_SLOW_IMPORT = 15.0


def install(context: Context, package: str, *options: str) -> str:
    """The command that installs a package into the interpreter under test."""
    command = " ".join([context.python, "-m", "pip", "install", *options, package])
    if context.facts.get("python", {}).get("pip", True):
        return command
    return f"{context.python} -m ensurepip && {command}"


def reinstall(context: Context) -> str:
    version = (context.facts.get("torch_files") or {}).get("versions", [])
    name = f"torch=={version[0].partition('+')[0]}" if version else "torch"
    return install(context, name, "--force-reinstall", "--no-cache-dir")


@check("torch.files", "torch's files are all there", deadline=45, needs=("python.starts", "python.shadow"))
def files(context: Context) -> Iterator[Finding]:
    """Keeps where torch lies as fact ``torch_files``."""
    outcome = context.probe("torch_files")
    found = outcome.answer
    if "found" not in found:
        yield failure(
            f"looking for torch {outcome.ending}",
            "the packages of this interpreter cannot even be listed",
            "look into site-packages for a broken or unreadable entry, or make the environment anew",
        )
        return
    context.facts["torch_files"] = {key: found[key] for key in ("origin", "versions")}
    if not found["found"] and not found["versions"]:
        yield skipped(f"no torch in {context.python}")
        return
    if found["found"] and found["origin"] is None:
        yield failure(
            f"torch is an empty namespace package: {' '.join(found['folders'])} has no __init__.py",
            "an interrupted install or uninstall left a part of torch behind",
            f"rm -rf {' '.join(found['folders'])}; {install(context, 'torch', '--force-reinstall')}",
        )
        return
    if len(found["versions"]) > 1:
        yield warning(
            f"{len(found['versions'])} torch distributions are installed: {', '.join(sorted(found['versions']))}",
            "a half-finished upgrade, or two installers on top of each other: pip may report one and import the other",
            f"{context.python} -m pip uninstall -y torch, until it is not installed; then {install(context, 'torch')}",
        )
    yield from _compare(context, outcome)


def _compare(context: Context, outcome: Outcome) -> Iterator[Finding]:
    found = outcome.answer
    missing, truncated = found.get("missing", []), found.get("truncated", [])
    replaced, edited = found.get("replaced", []), found.get("edited", [])
    if truncated:
        yield failure(
            _sizes(truncated),
            "files of torch are truncated: the disk was full, or the install was interrupted",
            f"free disk space, then {reinstall(context)}",
        )
    if missing:
        yield failure(
            f"{len(missing)} files that torch's installer recorded are missing, the first is {missing[0]}",
            "torch is incomplete: parts of it, like torch.compile, fail when they are first used",
            reinstall(context),
        )
    if replaced:
        yield warning(
            _sizes(replaced),
            "a library of torch is another one than was installed: torch may crash or compute something else",
            f"if you did not build it yourself: {reinstall(context)}",
        )
    if truncated or missing or replaced:
        return
    count = found.get("recorded")
    note = f", {len(edited)} edited since ({edited[0][0]})" if edited else ""
    yield passed(f"{count} files as recorded{note}" if count else "no record of its files (built from source?)")


def _sizes(files: list[list[Any]]) -> str:
    name, size, recorded = files[0]
    others = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
    return f"{name} has {size:,} bytes; its installer recorded {recorded:,}{others}"


@check(
    "torch.import",
    "torch imports",
    deadline=30,
    needs=("environment.folder", "python.starts"),
    follows=("torch.files", "python.shadow"),
)
def import_(context: Context) -> Iterator[Finding]:
    """Keeps what torch says of itself as fact ``torch``."""
    outcome = context.import_torch()
    found = outcome.answer
    if "version" not in found:
        yield _import_failure(context, outcome)
        return
    context.facts["torch"] = found
    if outcome.signal:
        yield warning(
            f"torch imports, but then its process {outcome.ending}",
            "a library crashes when it is first used, or when Python ends",
            f"{context.python} -X faulthandler -c 'import torch' shows where",
        )
    if found["seconds"] > _SLOW_IMPORT:
        yield warning(
            f"import torch took {found['seconds']:.0f} s",
            "the environment lies on slow storage, such as a network file system; every process pays this",
            "put the environment on a local disk",
        )
    yield passed(f"torch {found['version']} in {found['seconds']:.1f} s")


def _import_failure(context: Context, outcome: Outcome) -> Finding:
    error = outcome.error or {}
    message, missing = error.get("message", ""), error.get("module", "")
    evidence = f"import torch {outcome.ending}"
    if outcome.signal and outcome.last_words:
        evidence += f", {outcome.last_words}"
    if error.get("type") == "ModuleNotFoundError" and missing == "torch":
        return failure(
            f"No module named 'torch' in {context.python}",
            "torch is not installed in this environment",
            install(context, "torch"),
        )
    if error.get("type") == "ModuleNotFoundError":
        return failure(evidence, f"{missing}, which torch needs, is not installed", install(context, missing))
    for pattern, cause, fix in _IMPORT_CAUSES:
        if re.search(pattern, f"{message}\n{outcome.noise}"):
            return failure(evidence, cause, fix)
    if outcome.timed_out:
        return failure(
            evidence,
            "importing torch hangs: a library waits for a device, a lock or a network file system",
            f"see where: timeout 30 {context.python} -X faulthandler -c "
            "'import faulthandler; faulthandler.dump_traceback_later(20); import torch'",
        )
    cause, fix = _SIGNAL_CAUSES.get(outcome.signal or "", ("", ""))
    where = f" (at {error['where']})" if error.get("where") else ""
    return failure(
        evidence + where,
        cause or "torch is installed, but broken, or something that it loads is",
        fix or reinstall(context),
    )


# What to look for in the exception's message, cause, fix.
_IMPORT_CAUSES = (
    (
        r"GLIBCXX|CXXABI|libstdc\+\+",
        "an older libstdc++.so.6 than torch needs is found first, mostly because LD_LIBRARY_PATH names its folder",
        "unset LD_LIBRARY_PATH",
    ),
    (r"GLIBC_2", "the system's C library is older than this torch needs", "use a newer system or container image"),
    (
        r"failed to map segment|[Cc]annot allocate memory|MemoryError|Out of memory",
        "no memory for torch's libraries: the address space (ulimit -v) or the memory of this process is limited",
        "ulimit -v unlimited; on a cluster's login node, ask for a job instead",
    ),
    (
        r"Failed to load the backend extension",
        "a package that adds a backend to torch (entry point torch.backends) does not load",
        "uninstall that package, or export TORCH_DEVICE_BACKEND_AUTOLOAD=0",
    ),
    (
        r"Invalid log|TORCH_LOGS",
        "TORCH_LOGS holds a name that torch does not know",
        "unset TORCH_LOGS",
    ),
    (
        r"undefined symbol",
        "two libraries do not fit together: one was built for another version of torch or CUDA",
        "unset LD_LIBRARY_PATH and LD_PRELOAD; if it stays, reinstall torch in a fresh environment",
    ),
)

_SIGNAL_CAUSES = {
    "SIGSEGV": (
        "a compiled library that torch loads crashes: it was replaced, or fits to another version or machine",
        "unset LD_LIBRARY_PATH and LD_PRELOAD; if it stays, reinstall torch in a fresh environment",
    ),
    "SIGILL": (
        "this CPU, or what a virtual machine shows of it, lacks instructions that this build of torch uses",
        "give the virtual machine the host's CPU model (host-passthrough), or build torch from source here",
    ),
    "SIGBUS": (
        "a library file is truncated, or the disk under it fails",
        "free disk space and reinstall torch: pip install --force-reinstall --no-cache-dir torch",
    ),
    "SIGKILL": (
        "something killed it, most likely the kernel for want of memory",
        "give the container or job more memory, and look into the kernel log: dmesg | grep -i kill",
    ),
}


@check("torch.version", "torch is new enough to train here", needs=("torch.import",))
def version(context: Context) -> Iterator[Finding]:
    text = context.facts["torch"]["version"]
    number = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    oldest = ".".join(map(str, OLDEST_TO_TRAIN))
    if number < OLDEST_TO_TRAIN:
        yield warning(
            f"torch {text}",
            f"llmbench trains with torch {oldest} or newer; doctor judges any",
            install(context, "torch", "--upgrade"),
        )
    elif context.facts["torch"]["debug"]:
        yield warning(f"torch {text} is a debug build", "it is many times slower", install(context, "torch"))
    else:
        yield passed(f"{text} (at least {oldest} is needed)")


@check("torch.numpy", "torch and numpy work together", needs=("torch.import",))
def numpy(context: Context) -> Iterator[Finding]:
    found = context.facts["torch"].get("numpy", {})
    version = found.get("version")
    if not found:
        yield failure(
            "the process that imported torch died before numpy was tried",
            "torch imports, but breaks when it is first used",
            reinstall(context),
        )
    elif "error" not in found:
        yield failure(
            f"numpy {version} crashes when a tensor is made an array",
            "this numpy does not fit to this torch or this machine",
            install(context, "numpy", "--force-reinstall"),
        )
    elif version is None:
        yield skipped("numpy is not installed: Tensor.numpy() is not available; llmbench does not need it")
    elif found["error"]:
        yield failure(
            f"numpy {version} is installed, but torch cannot use it: {found['error']}",
            "this numpy does not fit to this torch: their binary interfaces (ABI) are of different generations",
            install(context, "'numpy<2'") + "  (for torch older than 2.3), or upgrade torch",
        )
    else:
        yield passed(f"numpy {version}: tensor to array and back")
