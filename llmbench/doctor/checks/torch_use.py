"""The use of torch after its import: its version, numpy beside it, the first computation, and its end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from llmbench.doctor.checks.installing import install, reinstall
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.runner import Context

OLDEST_TO_TRAIN = (2, 6)
_NIGHTLY_DAYS = 120

OLD = fault(
    "torch.version.old",
    "warn",
    "torch is older than llmbench trains with",
    cause="llmbench trains with torch <oldest> or newer; doctor judges any",
    fix="<install>",
)
DEBUG = fault(
    "torch.version.debug",
    "warn",
    "torch is a debug build",
    cause="it is many times slower",
    fix="<install>",
)
NIGHTLY = fault(
    "torch.version.nightly",
    "warn",
    "torch is an old nightly build",
    cause="it is a snapshot of a day of development: bugs that were found since are in it, and it can no longer be "
    "installed elsewhere, since nightly builds are deleted after a while",
    fix="<install>",
)


@check("torch.version", "torch is new enough to train here", needs=("torch.import",))
def version(context: Context) -> Iterator[Finding]:
    text = context.facts["torch"]["version"]
    number = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    oldest = ".".join(map(str, OLDEST_TO_TRAIN))
    newer = install(context, "torch", "--upgrade")
    age = _nightly_days(text)
    if number < OLDEST_TO_TRAIN:
        yield OLD.found(f"torch {text}", oldest=oldest, install=newer)
    elif context.facts["torch"]["debug"]:
        yield DEBUG.found(f"torch {text} is a debug build", install=install(context, "torch", "--force-reinstall"))
    elif age > _NIGHTLY_DAYS:
        yield NIGHTLY.found(f"torch {text} is a nightly build of {age} days ago", install=newer)
    else:
        yield passed(f"{text} (at least {oldest} is needed)")


def _nightly_days(text: str) -> int:
    """How many days ago a nightly build (``2.9.0.dev20250801``) was made; 0 for others."""
    day = re.search(r"\.dev(\d{8})", text)
    try:
        return (datetime.now(UTC) - datetime.strptime(day.group(1) + "+0000", "%Y%m%d%z")).days if day else 0
    except ValueError:
        return 0


NO_NUMPY = fault(
    "torch.numpy.missing",
    "warn",
    "numpy is not installed",
    cause="Tensor.numpy() and torch.from_numpy() raise 'Numpy is not available', and so do a DataLoader whose "
    "samples are arrays, and most libraries beside torch; llmbench itself does not need it",
    fix="<install>",
    script="<python> -m pip install numpy",
)
NUMPY_IMPORT = fault(
    "torch.numpy.import",
    "fail",
    "numpy does not import",
    cause="numpy is installed, but broken, or for another Python or machine: what uses it beside torch fails",
    fix="<install>",
)
NUMPY_ABI = fault(
    "torch.numpy.abi",
    "fail",
    "torch and numpy do not fit together",
    cause="this numpy does not fit to this torch: their binary interfaces (ABI) are of different generations, so that "
    "Tensor.numpy() and torch.from_numpy() raise",
    fix="<install>  (for torch older than 2.3), or upgrade torch",
    link="https://github.com/pytorch/pytorch/issues/135013",
)
NUMPY_CRASH = fault(
    "torch.numpy.crash",
    "fail",
    "numpy crashes or hangs",
    cause="this numpy does not fit to this torch or this machine",
    fix="<install>",
)
NUMPY_WRONG = fault(
    "torch.numpy.wrong",
    "fail",
    "numpy gives other values than torch",
    cause="an array made of a tensor does not hold the tensor's values: this numpy does not fit to this torch",
    fix="<install>",
)
NUMPY_MIXED = fault(
    "torch.numpy.mixed",
    "warn",
    "numpy is of another version than is installed",
    cause="files of two versions are mixed, or another copy comes first on the import path",
    fix="<install>",
)


@check("torch.numpy", "torch and numpy work together", needs=("torch.import",))
def numpy(context: Context) -> Iterator[Finding]:
    """Makes an array of a tensor and a tensor of that, in a process of its own: a crash stays there."""
    outcome = context.torch_probe("torch_numpy")
    found = outcome.answer
    recorded, version = found.get("version"), found.get("imported")
    again = install(context, "numpy", "--force-reinstall", "--no-cache-dir")
    name = f"numpy {version or recorded or 'of an unknown version'}"
    if found.get("nothing"):
        note = f", although {recorded} is recorded as installed" if recorded else ""
        yield NO_NUMPY.found(f"numpy is not installed in {context.python}{note}", install=install(context, "numpy"))
    elif "import_error" in found:
        reason = found["import_error"].strip().splitlines()
        said = " ".join(dict.fromkeys([reason[0], *[line for line in reason if ".so" in line or "Error" in line]]))
        where = f" ({found['where']})" if found["where"] else ""
        yield NUMPY_IMPORT.found(f"{name} is installed, but does not import: {said[:400]}{where}", install=again)
    elif "error" not in found:
        doing = "makes an array of a tensor" if version else "is imported"
        yield NUMPY_CRASH.found(
            f"when {name} {doing}, the process {outcome.ending}{f' ({outcome.last_words})' if outcome.signal else ''}",
            install=again,
        )
    elif found["error"] and found["error"].startswith("numpy gave"):
        yield NUMPY_WRONG.found(f"{name}: {found['error']}", install=again)
    elif found["error"]:
        said = next((line for text in found.get("warned", []) for line in text.splitlines() if "NumPy" in line), "")
        yield NUMPY_ABI.found(
            f"{name} is installed, but torch {context.facts['torch']['version']} cannot use it: {found['error']}"
            + (f" ({said})" if said else ""),
            install=install(context, "'numpy<2'"),
        )
    elif recorded and version and recorded != version:
        yield NUMPY_MIXED.found(
            f"{found['file']} is numpy {version}, but numpy {recorded} is recorded as installed", install=again
        )
    else:
        yield passed(f"{name}: tensor to array and back")


MKL_KERNELS = fault(
    "torch.basics.mkl",
    "fail",
    "Intel MKL fails when torch computes",
    cause="Intel MKL loads its kernels when it is first used, and does not find them, or finds those of another "
    "version: every matrix product ends the program",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; in a conda environment: conda install --force-reinstall mkl",
    link="https://github.com/pytorch/pytorch/issues/29711",
)
BASICS_CRASH = fault(
    "torch.basics.crash",
    "fail",
    "torch imports, but its first computation crashes",
    cause="a library that torch computes with was replaced, or fits to another CPU or version",
    fix="unset LD_LIBRARY_PATH LD_PRELOAD; if it stays: <reinstall>",
)
NO_AUTOGRAD = fault(
    "torch.basics.autograd",
    "fail",
    "torch computes no gradients",
    cause="autograd does not work in this torch, or something replaced a part of it: nothing can be trained",
    fix="<reinstall>",
)
NO_OPENMP = fault(
    "torch.basics.openmp",
    "warn",
    "torch is built without OpenMP",
    cause="it computes with one thread on the CPU",
    fix="<reinstall>",
)
NO_DISTRIBUTED = fault(
    "torch.basics.distributed",
    "warn",
    "torch is built without torch.distributed",
    cause="training on more than one device (DDP, FSDP) is not possible, and many libraries fail that expect it",
    fix="<reinstall>",
)
NO_GLOO = fault(
    "torch.basics.gloo",
    "warn",
    "torch is built without gloo",
    cause="processes on CPUs cannot exchange tensors, and launchers that use gloo for control fail",
    fix="<reinstall>",
)
NO_LAPACK = fault(
    "torch.basics.lapack",
    "warn",
    "torch is built without LAPACK",
    cause="torch.linalg raises: initialisations such as orthogonal_, and some optimizers, need it",
    fix="<reinstall>",
)
CUDNN = fault(
    "torch.basics.cudnn",
    "fail",
    "Another cuDNN is loaded than torch was built for",
    cause="convolutions, and attention by cuDNN, raise or fail: another cuDNN comes first, by LD_LIBRARY_PATH or by an "
    "upgrade of its package",
    fix="unset LD_LIBRARY_PATH; if it stays, install torch again with its dependencies",
    link="https://github.com/pytorch/pytorch/issues/80637",
)
_LACKS = {
    "openmp": NO_OPENMP,
    "distributed": NO_DISTRIBUTED,
    "gloo": NO_GLOO,
    "lapack": NO_LAPACK,
}


@check(
    "torch.basics",
    "torch computes, and lacks nothing",
    needs=("torch.import",),
    follows=("torch.libraries", "torch.wheels", "torch.files"),
)
def basics(context: Context) -> Iterator[Finding]:
    """A matrix product and a gradient on the CPU, and what this build of torch was made without."""
    outcome = context.torch_probe("torch_basics")
    found = outcome.answer
    values: dict[str, Any] = {"reinstall": reinstall(context)}
    name = f"torch {context.facts['torch']['version']}"
    findings = []
    for part, lack in _LACKS.items():
        if found.get(part) is False and not (part == "gloo" and not found.get("distributed")):
            findings.append(lack.found(f"{name} is built without {part}", **values))
    if found.get("cudnn_error"):
        path = context.environ.get("LD_LIBRARY_PATH")
        findings.append(CUDNN.found(found["cudnn_error"] + (f" (LD_LIBRARY_PATH={path})" if path else "")))
    mkl = re.search(r".*MKL FATAL ERROR.*", outcome.noise)
    if mkl:
        findings.append(MKL_KERNELS.found(f"{found.get('trying')} ended the process: {mkl.group(0)}"))
    elif found.get("gradient_error") or found.get("gradient", [2.0, 2.0]) != [2.0, 2.0]:
        gave = found.get("gradient_error") or f"the gradient of the sum of squares at [1, 1] is {found['gradient']}"
        findings.append(NO_AUTOGRAD.found(gave, **values))
    elif not outcome.ok:
        said = f" ({outcome.last_words})" if outcome.last_words and not outcome.error else ""
        findings.append(BASICS_CRASH.found(f"{found.get('trying') or 'asking'} {outcome.ending}{said}", **values))
    yield from findings
    if not findings:
        kinds = [kind for kind in ("openmp", "mkl", "mkldnn", "lapack", "distributed", "gloo") if found.get(kind)]
        yield passed(f"a matrix product and a gradient; with {', '.join(kinds)}")


AT_EXIT = fault(
    "torch.exit.crash",
    "warn",
    "A process that imported torch crashes when it ends",
    cause="a library fails while it is unloaded: what was computed is there, but the exit code says failure, and "
    "launchers restart or abort the job",
    fix="<python> -X faulthandler -c 'import torch' shows where; <reinstall>",
)


@check("torch.exit", "A process with torch ends cleanly", deadline=40, needs=("torch.import",), deep=True)
def exit_(context: Context) -> Iterator[Finding]:
    """Imports torch once more, and lets Python end in its own way."""
    outcome = context.probe("torch_import")
    if not outcome.ok:
        yield AT_EXIT.found(f"a second import of torch {outcome.ending}", reinstall=reinstall(context))
    elif outcome.returncode or outcome.timed_out:
        end = "did not end" if outcome.timed_out else outcome.ending
        yield AT_EXIT.found(f"after import torch, the process {end} at its exit", reinstall=reinstall(context))
    else:
        yield passed("exit code 0 after import torch")
