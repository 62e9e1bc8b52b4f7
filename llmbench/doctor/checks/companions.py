"""Packages beside torch that must fit to it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmbench.doctor.checks.packages import COMPANIONS, TORCH_NEEDS, required
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.requirements import Requirement, local, version
from llmbench.doctor.runner import Context

_INSTALL = "<python> -m pip install"

# --- companions.versions

FOR_TORCH = fault(
    "companions.versions.torch",
    "fail",
    "A package was made for another torch",
    cause="the compiled part of <package> was built against another torch: it does not load, and its operators do not "
    "exist ('operator torchvision::nms does not exist', 'undefined symbol')",
    fix=f"{_INSTALL} --upgrade <package> 'torch==<torch>'<index>",
    link="https://github.com/pytorch/vision/issues/8985",
)
REQUIRES = fault(
    "companions.versions.requires",
    "warn",
    "A package beside torch has an unsuitable version of what it requires",
    cause="<package> was not tested with it, and may fail when it is imported or later",
    fix=f"{_INSTALL} --upgrade <package>, or {_INSTALL} '<requirement>'",
)
MISSING = fault(
    "companions.versions.missing",
    "warn",
    "A package beside torch lacks a package that it requires",
    cause="<package> was installed with --no-deps, or <name> was removed: what needs it fails",
    fix=f"{_INSTALL} '<requirement>'",
)
UNSEEN = fault(
    "companions.versions.unseen",
    "fail",
    "A package takes this torch for none",
    cause="<package> works with this torch as if it were not installed: its models cannot be made, with an error that "
    "says that PyTorch is not there",
    fix=f"{_INSTALL} '<requirement>', or an older <package>",
    link="https://huggingface.co/docs/transformers/installation",
)
BUILD = fault(
    "companions.versions.build",
    "fail",
    "A package was built for another CUDA than torch",
    cause="both load a CUDA runtime of their own, or one has none: <package> refuses to be imported, "
    "or its operators do "
    "not run on the GPU",
    fix=f"{_INSTALL} --force-reinstall --no-deps <package><index>",
    link="https://pytorch.org/get-started/locally/",
)
SHARED = fault(
    "companions.versions.shared",
    "warn",
    "Two packages put their files into the same folder",
    cause="<first> and <second> both install the module <module>, so each has overwritten files of the other: what is "
    "imported is a mixture",
    fix="<python> -m pip uninstall -y <first> <second>; then <python> -m pip install <wanted>",
)
WRONG = fault(
    "companions.versions.wrong",
    "warn",
    "A package is another one of the same name",
    cause="<what>",
    fix="<python> -m pip uninstall -y <package>; then <instead>",
    link="https://github.com/NVIDIA/apex#installation",
)

_MATCHED = ("torchvision", "torchaudio", "torchtext", "xformers", "fbgemm-gpu", "torchrec", "torch-tensorrt")
"""Released together with torch, each for one version and one CUDA."""
_CHECKED_AT_IMPORT = {
    "transformers": ("tokenizers", "huggingface-hub", "safetensors", "numpy", "packaging", "filelock")
}
_EXTRAS = {"transformers": "torch"}
"""The extra in whose requirements a package that can do without torch says which torch it takes."""
_SAME_FOLDER = (
    (
        "triton",
        ("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-rocm"),
    ),
    ("cv2", ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")),
    ("pynvml", ("nvidia-ml-py", "pynvml", "nvidia-ml-py3")),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    ("faiss", ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12")),
    ("tensorflow", ("tensorflow", "tensorflow-cpu", "tf-nightly", "intel-tensorflow")),
    ("cupy", ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")),
)


@check("companions.versions", "Packages beside torch fit to it", needs=("python.packages",), follows=("python.path",))
def versions(context: Context) -> Iterator[Finding]:
    """What their metadata requires, and for which torch and CUDA their versions say that they were built."""
    installed = context.facts["packages"]["versions"]
    names = [name for name in installed if name.replace("-", "_") in COMPANIONS]
    faults = [*made_for_another_torch(context).values()]
    for name in names:
        faults += _unmet(context, name)
    faults += [*_wrong_build(context, names), *_shared(installed), *_wrong_package(installed)]
    yield from faults
    if not faults:
        yield passed(", ".join(f"{name} {installed[name]}" for name in names) or "none is installed")


def made_for_another_torch(context: Context) -> dict[str, Finding]:
    """By package: what requires one single version of torch, and not the one that is here."""
    installed = context.facts["packages"]["versions"]
    torch = installed.get("torch")
    found = {}
    for name in context.facts["packages"]["requirements"]:
        for requirement in required(context, name):
            if requirement.name == "torch" and requirement.exact and torch and not requirement.allows(torch):
                found[name] = FOR_TORCH.found(
                    f"{name} {installed[name]} requires {requirement.text}, but torch {torch} is "
                    f"installed: incompatible",
                    package=name,
                    torch=torch.partition("+")[0],
                    index=_index(torch),
                )
    return found


def _index(torch: str) -> str:
    """The option that makes pip look where this build of torch came from; none for that of the default index."""
    tag = local(torch)
    return (
        f" --index-url https://download.pytorch.org/whl/{tag}" if re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", tag) else ""
    )


def _unmet(context: Context, name: str) -> Iterator[Finding]:
    installed = context.facts["packages"]["versions"]
    for requirement in required(context, name):
        yield from _judge(context, name, requirement)
    for requirement in required(context, name, _EXTRAS[name]) if name in _EXTRAS else ():
        here = installed.get("torch")
        if requirement.name == "torch" and here and not requirement.allows(here):
            evidence = f"{name} {installed[name]} needs {requirement.text}, but torch {here} is installed"
            yield UNSEEN.found(evidence, package=name, requirement=requirement.text)


def _judge(context: Context, name: str, requirement: Requirement) -> Iterator[Finding]:
    found = context.facts["packages"]
    here = found["versions"].get(requirement.name)
    of = f"{name} {found['versions'][name]} requires {requirement.text}"
    values: dict[str, Any] = {"package": name, "name": requirement.name, "requirement": requirement.text}
    if (requirement.name == "torch" and (requirement.exact or here is None)) or requirement.name in TORCH_NEEDS:
        return  # told by another finding
    if here is None:
        if requirement.name.replace("-", "_") not in found["modules"]:
            yield MISSING.found(f"{of}, which is not installed", **values)
    elif not requirement.allows(here):
        strict = requirement.name in _CHECKED_AT_IMPORT.get(name, ())
        cause = f"{name} looks at this version when it is imported, and raises ImportError" if strict else None
        evidence = f"{of}, but {requirement.name} {here} is installed"
        yield REQUIRES.found(evidence, verdict="fail" if strict else None, cause=cause, **values)


def _wrong_build(context: Context, names: list[str]) -> Iterator[Finding]:
    """A version says behind its + for which CUDA, and at times for which torch, the package was built."""
    installed, loaded = context.facts["packages"]["versions"], context.facts["packages"]["extensions"]
    torch = installed.get("torch", "")
    for name in names:
        tag = local(installed[name])
        theirs, ours = _accelerator(tag), _accelerator(local(torch))
        if name in _MATCHED and theirs and ours and theirs != ours:
            evidence = f"{name} {installed[name]} was built for {theirs}, torch {torch} for {ours}"
            yield BUILD.found(evidence, package=name, index=_index(torch))
        elif torch and name not in loaded and _other_torch(tag, torch):
            evidence = f"{name} {installed[name]} was built for torch {_other_torch(tag, torch)}, not for {torch}"
            yield FOR_TORCH.found(evidence, package=name, torch=torch.partition("+")[0], index=_index(torch))


def _accelerator(tag: str) -> str | None:
    """What the end of a version tells: ``cu124`` is CUDA 12, and ``cpu`` the CPU."""
    cuda, rocm = re.match(r"cu(\d+)\d(?!\d)", tag), re.match(r"rocm(\d+)", tag)
    if cuda:
        return f"CUDA {cuda[1]}"
    return f"ROCm {rocm[1]}" if rocm else "the CPU" if tag == "cpu" else None


def _other_torch(tag: str, torch: str) -> str | None:
    """The torch that a version's end names (``cu123torch2.4cxx11abiFALSE``, ``pt24cu124``), if it is another."""
    named = re.search(r"(?:torch|pt)(\d)\.?(\d+)", tag)
    here = version(torch)[0]
    if named is None or (int(named[1]), int(named[2])) == (*here, 0, 0)[:2]:
        return None
    return f"{named[1]}.{named[2]}"


def _shared(installed: Mapping[str, str]) -> Iterator[Finding]:
    for module, names in _SAME_FOLDER:
        both = [name for name in names if name in installed]
        # The wrapper that was called pynvml before 11.5 is a folder of its own since, and requires the other.
        if len(both) < 2 or (module == "pynvml" and version(installed[both[1]]) >= version("12")):
            continue
        evidence = " and ".join(f"{name} {installed[name]}" for name in both[:2]) + f" both install the module {module}"
        yield SHARED.found(evidence, first=both[0], second=both[1], module=module, wanted=both[0])


def _wrong_package(installed: Mapping[str, str]) -> Iterator[Finding]:
    if version(installed.get("apex", "0")) >= version("0.9"):  # NVIDIA's calls itself 0.1
        yield WRONG.found(
            f"apex {installed['apex']} is not NVIDIA's",
            package="apex",
            what="the package index has another apex, a toolkit for web sites; NVIDIA's is installed from its sources",
            instead="follow https://github.com/NVIDIA/apex#installation, or use torch.amp, which replaced it",
        )


# --- companions.numpy

NUMPY_ABI = fault(
    "companions.numpy.abi",
    "warn",
    "A package was built for NumPy 1",
    cause="compiled modules made with NumPy 1.x cannot be used with NumPy 2: importing <package> "
    "fails with 'numpy.dtype "
    "size changed' or 'A module that was compiled using NumPy 1.x cannot be run in NumPy 2'",
    fix=f"{_INSTALL} --upgrade <package>, or {_INSTALL} 'numpy<2'",
    link="https://numpy.org/doc/2.0/dev/depending_on_numpy.html#numpy-2-abi-handling",
)


@check("companions.numpy", "Packages are built for this NumPy", needs=("python.packages",))
def numpy(context: Context) -> Iterator[Finding]:
    """A module made with the headers of NumPy 2 looks for NumPy 2 by its name; one made with older headers does not."""
    found = context.facts["packages"]
    here = found["versions"].get("numpy")
    if here is None or version(here) < version("2"):
        yield passed(f"numpy {here}: what was built for NumPy 1 or 2 works" if here else "numpy is not installed")
        return
    for name in found["numpy_1"]:
        what = f"{name} {found['versions'].get(name, '')}".strip()
        evidence = f"{what} was built for NumPy 1.x, but NumPy {here} is installed (its modules only know numpy.core)"
        yield NUMPY_ABI.found(evidence, package=name)
    if not found["numpy_1"]:
        yield passed(f"no package built for NumPy 1 beside numpy {here}")


# --- companions.bitsandbytes

QUANTISATION = fault(
    "companions.bitsandbytes.cuda",
    "warn",
    "bitsandbytes has no library for torch's CUDA",
    cause="bitsandbytes looks for its library by the CUDA version of torch, and then works on the CPU only or raises: "
    "8-bit optimizers and 4-bit models fail",
    fix=f"{_INSTALL} --upgrade bitsandbytes; or export BNB_CUDA_VERSION=<version>, one that it has",
    link="https://huggingface.co/docs/bitsandbytes/installation",
)


@check("companions.bitsandbytes", "bitsandbytes fits to torch's CUDA", needs=("torch.import", "python.packages"))
def bitsandbytes(context: Context) -> Iterator[Finding]:
    has = re.findall(r"libbitsandbytes_cuda(\d+)", " ".join(context.facts["packages"]["bitsandbytes"]))
    cuda = context.facts["torch"]["cuda"]
    wanted = context.environ.get("BNB_CUDA_VERSION") or (cuda or "").replace(".", "")
    if not has or not cuda:
        yield skipped("bitsandbytes is not installed, or has no CUDA" if not has else "torch has no CUDA")
    elif wanted in has:
        yield passed(f"libbitsandbytes_cuda{wanted}.so is there")
    else:
        evidence = f"bitsandbytes has libraries for CUDA {', '.join(sorted(has))}, torch has CUDA {cuda}"
        yield QUANTISATION.found(evidence, version=max(has, key=int))


# --- companions.load

SYMBOL = fault(
    "companions.load.symbol",
    "fail",
    "A compiled package was built against another torch",
    cause="<package> was built against a torch with another binary interface (version, CUDA or C++ "
    "ABI): importing it fails",
    fix="install the wheel for this torch, CUDA and ABI, or build it here: "
    f"{_INSTALL} --no-build-isolation --no-cache-dir --no-deps --force-reinstall <package>",
    link="https://github.com/Dao-AILab/flash-attention/issues/940",
)
LIBRARY = fault(
    "companions.load.library",
    "fail",
    "A compiled package needs a library that is not here",
    cause="<package> was built for a torch with another CUDA (or one with CUDA beside a torch "
    "without): <library> is not here",
    fix=f"{_INSTALL} --force-reinstall --no-deps <package><index>; or build it here",
    link="https://pytorch.org/get-started/locally/",
)
SYSTEM = fault(
    "companions.load.system",
    "fail",
    "A compiled package needs a newer system than this",
    cause="<package> was built with a newer compiler or C library than the one that is found here; "
    "an old libstdc++.so.6 on "
    "LD_LIBRARY_PATH or of conda does it too",
    fix="unset LD_LIBRARY_PATH; if it stays, build it here: "
    f"{_INSTALL} --no-build-isolation --no-binary <package> --no-deps --force-reinstall <package>",
)
CRASH = fault(
    "companions.load.crash",
    "fail",
    "A compiled package crashes when it is loaded",
    cause="<package> does not fit to this torch, or two of its libraries register the same",
    fix=f"{_INSTALL} --force-reinstall --no-deps <package>; if it stays, see where: "
    "<python> -X faulthandler -c 'import torch, <module>'",
)
OPENMP = fault(
    "companions.load.openmp",
    "fail",
    "Two OpenMP runtimes in one process",
    cause="torch and <package> bring an Intel OpenMP runtime each, and the second ends the process (OMP: Error #15)",
    fix="install both from one source (all with pip, or all with conda), so that they share one runtime",
    link="https://github.com/Lightning-AI/pytorch-lightning/issues/4365",
)
HANGS = fault(
    "companions.load.hangs",
    "fail",
    "A compiled package hangs when it is loaded",
    cause="a library of <package> waits for a device, a lock or a file system",
    fix="see where: timeout 30 <python> -X faulthandler -c "
    "'import faulthandler; faulthandler.dump_traceback_later(20); import torch, <module>'",
)

_AT_MOST = 12
_OF_CUDA = re.compile(r"lib(?:torch|c10|cu|nv|nccl|amdhip|hip|roc)[\w-]*\.so[\w.]*")


@check(
    "companions.load",
    "Compiled packages beside torch load",
    deadline=20,
    needs=("torch.import", "python.packages"),
)
def load(context: Context) -> Iterator[Finding]:
    """Loads each library that uses torch's C++ interface, in forks of the process that has imported torch."""
    known = made_for_another_torch(context)
    extensions = {name: files for name, files in context.facts["packages"]["extensions"].items() if name not in known}
    if not extensions:
        yield passed("no package with a compiled part that uses torch" + (" and fits to it" if known else ""))
        return

    def ask(files: list[str]) -> Outcome:
        return context.torch_probe("companion", {"libraries": files[:_AT_MOST]})

    with ThreadPoolExecutor(4) as pool:
        outcomes = dict(zip(extensions, pool.map(ask, extensions.values()), strict=True))
    for name, outcome in outcomes.items():
        yield _judge_loading(context, name, outcome)


def _judge_loading(context: Context, name: str, outcome: Outcome) -> Finding:
    found = context.facts["packages"]["versions"]
    what = f"{name} {found.get(name, '')}".strip()
    values: dict[str, Any] = {
        "package": name,
        "module": name.replace("-", "_"),
        "index": _index(found.get("torch", "")),
    }
    libraries: dict[str, dict[str, Any]] = outcome.answer.get("libraries", {})
    for path, told in libraries.items():
        finding = _judge_library(f"{what} does not load", path, told, outcome.noise, values)
        if finding:
            return finding
    if not outcome.ok:
        return CRASH.found(f"loading {what} {outcome.ending}", **values)
    return passed(f"{what}: {len(libraries)} libraries loaded")


def _judge_library(
    what: str, path: str, told: Mapping[str, Any], noise: str, values: Mapping[str, Any]
) -> Finding | None:
    error = told.get("error") or ""
    symbol = re.search(r"undefined symbol: (\w+)", error)
    missing = re.search(r"([^\s:]+): cannot open shared object file", error)
    if symbol:
        return SYMBOL.found(f"{what}: undefined symbol {demangle(symbol[1])} ({path}){_built_for(what)}", **values)
    if re.search(r"version `\w+_[\d.]+' not found", error):
        return SYSTEM.found(f"{what}: {error}", **values)
    if missing and _OF_CUDA.fullmatch(missing[1]):
        return LIBRARY.found(f"{what}: {missing[1]} cannot be opened ({path})", library=missing[1], **values)
    if told.get("hung"):
        return HANGS.found(f"{what}: {path} gave no answer", **values)
    if told.get("signal"):
        name = signal.Signals(told["signal"]).name
        words = next((line.strip() for line in noise.splitlines() if "OMP: Error" in line or "what():" in line), "")
        kind = OPENMP if "OMP: Error" in words else CRASH
        return kind.found(f"{what}: {path} was killed by {name}" + (f": {words}" if words else ""), **values)
    return None  # what lacks ffmpeg or sox is optional; it loads, or it is no matter of torch


def _built_for(what: str) -> str:
    named = re.search(r"torch(\d+\.\d+)", what)
    abi = re.search(r"cxx11abi(TRUE|FALSE)", what, re.IGNORECASE)
    said = ([f"torch{named[1]}"] if named else []) + ([f"cxx11abi{abi[1]}"] if abi else [])
    return f"; its version says that it was built for {' '.join(said)}" if said else ""


def demangle(symbol: str) -> str:
    """The nested name in a C++ symbol (Itanium ABI), without its arguments; the symbol itself if there is none."""
    match = re.match(r"_ZN[KVrO]*", symbol)
    if match is None:
        return symbol
    names: list[str] = []
    at = match.end()
    while at < len(symbol) and (length := re.compile(r"\d+").match(symbol, at)):
        end = length.end() + int(length[0])
        names.append(symbol[length.end() : end])
        at = end
    if names and re.compile(r"[CD][0-3]").match(symbol, at):
        names.append(("~" if symbol[at] == "D" else "") + names[-1])
    return f"{'::'.join(names)}() [{symbol}]" if names else symbol
