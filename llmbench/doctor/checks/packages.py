"""The packages of the interpreter under test: what is installed, what torch requires, and where it comes from."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.requirements import Requirement, canonical, parse
from llmbench.doctor.runner import Context

COMPANIONS = (
    "torchvision", "torchaudio", "triton", "transformers", "accelerate", "peft", "datasets", "tokenizers",
    "safetensors", "huggingface_hub", "bitsandbytes", "deepspeed", "flash_attn", "xformers", "apex", "lightning",
    "pytorch_lightning", "torchmetrics", "torchao", "torchdata", "torchtext", "timm", "diffusers",
    "sentence_transformers", "trl", "vllm", "pandas", "scipy", "sklearn", "tensorboard", "wandb",
)  # fmt: skip
"""Modules that trainings import beside torch."""
_NEEDED_MODULES = ("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions")
TORCH_NEEDS = tuple(module.replace("_", "-") for module in _NEEDED_MODULES)
"""What torch requires, and that again."""
_OTHERS_TELL = ("nvidia-", "cuda-", "triton", "pytorch-triton", "intel-", "torch")
"""Requirements of torch that have checks of their own."""

_INSTALL = "<python> -m pip install"

# --- python.packages

UNREADABLE = fault(
    "python.packages.unreadable",
    "fail",
    "The installed packages cannot be listed",
    cause="a folder on the import path cannot be read, or holds something that Python cannot deal with",
    fix="look into the folders that this prints: <python> -m site; or make the environment anew",
)
LEFTOVERS = fault(
    "python.packages.leftovers",
    "warn",
    "pip left a half-removed package behind",
    cause="an install or uninstall was interrupted: pip renames a package to ~ame while it removes it. "
    "The package may be half there, and pip warns of an invalid distribution at each call",
    fix="look at it, then remove it: rm -r <path>; and install that package again",
    link="https://github.com/pypa/pip/issues/9906",
)
TWICE = fault(
    "python.packages.twice",
    "warn",
    "A package is recorded in two versions",
    cause="an upgrade was interrupted, or two installers (conda and pip, sudo pip) wrote over each "
    "other: what asks for "
    "the version gets one, what imports gets the files of the other",
    fix="<python> -m pip uninstall -y <package>, until it is not installed; then <python> -m pip install <package>",
)
INCOMPLETE = fault(
    "python.packages.metadata",
    "warn",
    "A package has no metadata",
    cause="an install was interrupted: asking for the version of <package> gives None, at which transformers, "
    "accelerate and pip fail",
    fix=f"{_INSTALL} --force-reinstall --no-deps <package>",
)
DAMAGED = fault(
    "python.packages.damaged",
    "warn",
    "Files of a package are missing or changed",
    cause="an install was interrupted, or another package wrote over it: it fails when it is imported",
    fix=f"{_INSTALL} --force-reinstall --no-deps <package>==<version>",
)
EDITABLE = fault(
    "python.packages.editable",
    "warn",
    "The sources of an editable install are gone",
    cause="<package> was installed with pip install -e from a folder that was moved or deleted: "
    "pip lists it, but importing it fails",
    fix="<python> -m pip uninstall -y <package>; or put its sources back",
    link="https://pip.pypa.io/en/stable/topics/local-project-installs/",
)
CONDA = fault(
    "python.packages.conda",
    "warn",
    "pip wrote over a package of conda",
    cause="conda still counts on the version that it installed, and the next conda install can break or revert it",
    fix="make a fresh conda environment, and install torch and its companions with pip alone in it",
    link="https://docs.conda.io/projects/conda/en/latest/user-guide/tasks/manage-environments.html",
)
_CONDA_NAMES = {"pytorch": "torch", "numpy-base": "numpy"}
_SOUND = 0.5
"""People edit a file here and there; below this share of files as recorded, it is no longer that package."""


@check("python.packages", "The installed packages are whole", deadline=30, needs=("python.starts", "python.shadow"))
def packages(context: Context) -> Iterator[Finding]:
    """Keeps what is installed as fact ``packages``."""
    watch = [*_NEEDED_MODULES, "torch", "numpy", *COMPANIONS]
    outcome = context.probe("packages", {"watch": watch})
    if "distributions" not in outcome.answer:
        yield UNREADABLE.found(f"listing the packages {outcome.ending}")
        return
    found = outcome.answer
    installed = _installed(found["distributions"])
    context.facts["packages"] = {
        "versions": {name: d["version"] for name, d in sorted(installed.items())},
        "requirements": {name: d["requires"] for name, d in installed.items() if _is_watched(name)},
        "folders": found["folders"],
        "user_folder": found["user_folder"],
        "modules": sorted(found["copies"]),
        "by_folder": _by_folder(found["distributions"]),
        "copies": {module: paths for module, paths in found["copies"].items() if len(paths) > 1},
        "numpy_1": [canonical(name) for name in found.get("numpy_1", [])],
        "extensions": {canonical(name): files for name, files in found.get("extensions", {}).items()},
        "bitsandbytes": found.get("bitsandbytes", []),
        "stale_bytecode": found.get("stale_bytecode"),
    }
    faults = [
        *(
            LEFTOVERS.found(f"{path} lies in the folder of packages", path=shlex.quote(path))
            for path in found["leftovers"]
        ),
        *_twice(found["distributions"]),
        *_damaged(installed),
        *_conda(context, installed),
    ]
    yield from faults
    if not faults:
        yield passed(f"{len(installed)} packages in {', '.join(found['folders'])}")


def _is_watched(name: str) -> bool:
    module = name.replace("-", "_")
    return (
        module in COMPANIONS or module in _NEEDED_MODULES or name in ("torch", "numpy", "numba", "tensorflow", "keras")
    )


def _installed(distributions: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is imported, by canonical name: the first on the path, and there the one whose files lie there."""
    chosen: dict[str, dict[str, Any]] = {}
    for distribution in distributions:
        name = canonical(distribution["name"])
        other = chosen.setdefault(name, distribution)
        if other["folder"] == distribution["folder"] and (distribution["intact"] or 0) > (other["intact"] or 0):
            chosen[name] = distribution
    return chosen


def _by_folder(distributions: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Versions by package and folder, of what lies in more than one folder."""
    folders: dict[str, dict[str, str]] = {}
    for d in distributions:
        folders.setdefault(canonical(d["name"]), {})[os.path.realpath(d["folder"])] = d["version"]
    return {name: versions for name, versions in folders.items() if len(versions) > 1}


def _twice(distributions: list[dict[str, Any]]) -> Iterator[Finding]:
    versions: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for distribution in distributions:
        versions.setdefault((distribution["folder"], canonical(distribution["name"])), []).append(distribution)
    for (folder, name), several in versions.items():
        if len({d["version"] for d in several}) > 1 and name != "torch":
            numbers = ", ".join(sorted(d["version"] for d in several))
            real = _installed(several)[name]
            files = f"; the files are those of {real['version']}" if real["intact"] else ""
            yield TWICE.found(f"{folder} records {name} {numbers}{files}", package=name)


def _damaged(installed: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    for name, d in installed.items():
        if name == "torch":
            continue
        path, values = os.path.join(d["folder"], d["entry"]), {"package": name, "version": d["version"]}
        if not d["complete"]:
            yield INCOMPLETE.found(f"{path} has no METADATA with name and version", **values)
        elif d["source"] and not os.path.isdir(d["source"]):
            yield EDITABLE.found(
                f"{name} {d['version']} is imported from {d['source']}, which does not exist", **values
            )
        elif d["intact"] is not None and d["intact"] < _SOUND:
            share = f"{1 - d['intact']:.0%} of the files looked at are missing or of another size"
            yield DAMAGED.found(f"{name} {d['version']}: {share} ({path}/RECORD)", **values)


def _conda(context: Context, installed: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    folder = os.path.join(context.facts["python"]["prefix"], "conda-meta")
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.json"))):
        parts = os.path.basename(path).removesuffix(".json").rsplit("-", 2)
        name = _CONDA_NAMES.get(parts[0], canonical(parts[0]))
        d = installed.get(name)
        if len(parts) == 3 and d and d["installer"] != "conda" and d["version"].partition("+")[0] != parts[1]:
            told = (
                f"conda installed {parts[0]} {parts[1]}, {d['installer'] or 'another installer'} {name} {d['version']}"
            )
            yield CONDA.found(f"{told} over it ({path})")


# --- python.requirements

MISSING = fault(
    "python.requirements.missing",
    "fail",
    "A package that torch requires is missing",
    cause="torch was installed with --no-deps, or <package> was removed: what needs it, such as torch.compile, "
    "optimizers or checkpoints, fails",
    fix=f"{_INSTALL} '<requirement>'",
)
UNSUITABLE = fault(
    "python.requirements.version",
    "fail",
    "A package that torch requires is of an unsuitable version",
    cause="another package, or hand, installed <package> <version>, which this torch cannot use: "
    "torch fails when it is imported or when it first uses it",
    fix=f"{_INSTALL} '<requirement>'",
)
_ONLY_TO_BUILD = ("setuptools",)


@check("python.requirements", "torch has what it requires", needs=("python.packages",))
def requirements(context: Context) -> Iterator[Finding]:
    """Compares what torch's metadata requires, and what that requires, with the versions installed."""
    found = context.facts["packages"]
    if "torch" not in found["versions"]:
        yield skipped("torch is not installed, or has no metadata")
        return
    faults, count = [], 0
    for owner in ("torch", *(name for name in found["requirements"] if name.replace("-", "_") in _NEEDED_MODULES)):
        for requirement in required(context, owner):
            if requirement.name.startswith(_OTHERS_TELL):
                continue
            count += 1
            unmet = _unmet(context, owner, requirement)
            if unmet:
                faults.append(unmet)
    yield from faults
    if not faults:
        yield passed(f"{count} requirements of torch {found['versions']['torch']} are met")


def required(context: Context, owner: str, extra: str = "") -> list[Requirement]:
    """What the metadata of an installed package asks for on this interpreter."""
    python = context.facts["python"]
    environment = {
        "python_version": ".".join(python["version"].split(".")[:2]),
        "python_full_version": python["version"],
        "implementation_name": python["implementation"].lower(),
        "implementation_version": python["version"],
        "platform_python_implementation": python["implementation"],
        "platform_machine": python["machine"],
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    lines = context.facts["packages"]["requirements"].get(owner, [])
    parsed = [requirement for line in lines if (requirement := parse(line))]
    return [requirement for requirement in parsed if requirement.applies(environment, extra)]


def _unmet(context: Context, owner: str, requirement: Requirement) -> Finding | None:
    name, found = requirement.name, context.facts["packages"]
    version = found["versions"].get(name)
    verdict: Literal["warn"] | None = "warn" if name in _ONLY_TO_BUILD else None
    of = f"{owner} {found['versions'][owner]} requires {requirement.text}"
    values: dict[str, Any] = {"package": name, "requirement": requirement.text, "version": version}
    module = name.replace("-", "_")
    hollow = version is not None and module in _NEEDED_MODULES and module not in found["modules"]
    if hollow:
        return MISSING.found(f"{of}; the files of {name} {version} are missing", verdict=verdict, **values)
    if version is None and module in found["modules"]:
        return None  # copied there without metadata: of whatever version
    if version is None:
        return MISSING.found(f"{of}, which is not installed", verdict=verdict, **values)
    if not requirement.allows(version):
        return UNSUITABLE.found(f"{of}, but {name} {version} is installed", verdict=verdict, **values)
    return None


# --- python.path

FOREIGN = fault(
    "python.path.foreign",
    "warn",
    "Another Python's packages are on the import path",
    cause="compiled modules of Python <other> cannot be imported by Python <version>: "
    "'cannot import name ... from partially initialized module', 'No module named ..._multiarray_umath'",
    fix="unset PYTHONPATH, or take that folder out of it (modules and profile scripts set it too)",
    link="https://docs.python.org/3/using/cmdline.html#envvar-PYTHONPATH",
)
USER_SITE = fault(
    "python.path.user",
    "warn",
    "Packages in the home folder hide those of the environment",
    cause="pip install --user once put them into the user site (~/.local), which comes before the environment's own "
    "packages: another version is imported than was installed here",
    fix="export PYTHONNOUSERSITE=1; or remove them: mv <folder> <folder>.off",
    link="https://github.com/conda-forge/python-feedstock/issues/171",
    script="export PYTHONNOUSERSITE=1",
)
OTHER_COPY = fault(
    "python.path.copy",
    "warn",
    "A copy elsewhere hides an installed package",
    cause="the folder comes first on the import path (working folder or PYTHONPATH): "
    "another copy is imported than pip installed, lists and upgrades",
    fix="unset PYTHONPATH, or work in another folder than <folder>; or uninstall the other copy",
)
_DEBIAN = "/usr/lib/python3/dist-packages"
"""What lies there is for the distribution's own programs; it is normal to have newer packages before it."""


@check("python.path", "Each package comes from one place", needs=("python.packages",), follows=("python.shadow",))
def path(context: Context) -> Iterator[Finding]:
    python, found = context.facts["python"], context.facts["packages"]
    current = ".".join(python["version"].split(".")[:2])
    count = 0
    for folder in found["folders"]:
        other = re.search(r"/python(\d+\.\d+)/(?:site|dist)-packages", folder)
        if other and other[1] != current:
            count += 1
            where = "PYTHONPATH" if folder in context.environ.get("PYTHONPATH", "").split(":") else "a .pth file"
            evidence = f"{folder} is on the import path of Python {current} (by {where})"
            yield FOREIGN.found(evidence, other=other[1], version=current)
    homes = [os.path.realpath(folder) for folder in (found["user_folder"], _local(context)) if folder]
    for first, modules in _hidden_modules(found["copies"], python["prefix"], python["working_folder"]).items():
        count += 1
        kind = USER_SITE if first.startswith(tuple(homes)) else OTHER_COPY
        module, hidden = next((pair for pair in modules if pair[0] == "torch"), modules[0])
        versions = found["by_folder"].get(canonical(module), {})
        ours, theirs = (f" {versions[f]}" if f in versions else "" for f in (first, os.path.dirname(hidden)))
        others = [name for name, _ in modules if name != module]
        more = f" (so are {', '.join(others)})" if others else ""
        site = "the user site " if kind is USER_SITE else ""
        evidence = f"{module}{ours} of {site}{first} shadows {module}{theirs} of {os.path.dirname(hidden)}{more}"
        verdict: Literal["fail"] | None = "fail" if module == "torch" and kind is USER_SITE else None
        yield kind.found(evidence, verdict=verdict, folder=shlex.quote(first))
    if not count:
        yield passed(f"no package of {len(found['modules'])} looked at has two copies on the import path")


def _local(context: Context) -> str | None:
    """Where the user site lies by default, even if it is on the path by other means than Python's."""
    home = context.environ.get("HOME")
    return os.path.join(home, ".local", "lib") if home else None


def _hidden_modules(copies: Mapping[str, list[str]], prefix: str, here: str | None) -> dict[str, list[tuple[str, str]]]:
    """By the folder that comes first: modules, and the copies of them that it hides."""
    hidden: dict[str, list[tuple[str, str]]] = {}
    environment = os.path.realpath(prefix) + os.sep
    for module, (first, second, *_) in copies.items():
        folder = os.path.dirname(first)
        # An environment is there to hide what lies below it. A torch.py here has been told of.
        wanted = first.startswith(environment) and folder != os.path.realpath(here or "/nowhere")
        told = module in ("torch", "numpy") and here is not None and folder == os.path.realpath(here)
        if not wanted and not told and os.path.dirname(second) != _DEBIAN:
            hidden.setdefault(folder, []).append((module, second))
    return hidden


# --- python.bytecode

BYTECODE = fault(
    "python.bytecode.missing",
    "warn",
    "torch is compiled to byte code at every start",
    cause="its byte code is missing or stale and cannot be kept (PYTHONDONTWRITEBYTECODE, or a read-only folder): each "
    "process, and each DataLoader worker that is spawned, takes many seconds longer to import torch",
    fix="once, as a user who may write there: <python> -m compileall -q <folder>",
    link="https://docs.python.org/3/library/compileall.html",
)


@check("python.bytecode", "torch's byte code is kept", needs=("python.packages",))
def bytecode(context: Context) -> Iterator[Finding]:
    stale = context.facts["packages"]["stale_bytecode"]
    if stale is None:
        yield passed("torch's byte code is there, or will be written")
        return
    reason = (
        "PYTHONDONTWRITEBYTECODE" if context.environ.get("PYTHONDONTWRITEBYTECODE") else "a folder without write access"
    )
    yield BYTECODE.found(f"{stale} ({reason})", folder=shlex.quote(stale.partition("/torch/")[0] + "/torch"))
