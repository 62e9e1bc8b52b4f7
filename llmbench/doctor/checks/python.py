"""The interpreter under test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, failure, passed, skipped, warning
from llmbench.doctor.runner import Context

OLDEST = (3, 10)
"""The oldest Python for which torch and llmbench's worker are made."""


@check("python.starts", "The interpreter starts", deadline=30)
def starts(context: Context) -> Iterator[Finding]:
    """Keeps what the interpreter says of itself as fact ``python``."""
    outcome = context.probe("interpreter")
    if not outcome.ok:
        yield failure(
            f"{context.python} {outcome.ending}" + (f": {outcome.last_words}" if outcome.last_words else ""),
            "this Python cannot run a script that imports only its standard library",
            f"see what it says: {context.python} -c pass; then make the environment anew, "
            "e.g. python3 -m venv .venv, and give it with --python .venv/bin/python",
        )
        return
    found = context.facts["python"] = outcome.answer
    broken = [line for line in outcome.noise.splitlines() if "Error processing line" in line]
    if broken:
        yield warning(
            broken[0].rstrip(":"),
            "a .pth file of a half-removed package fails at every start of Python",
            "remove that .pth file, or install its package again",
        )
    kind = "virtual environment" if found["virtual_environment"] else "no virtual environment"
    yield passed(f"{found['implementation']} {found['version']}, {found['bits']}-bit, {kind}")


@check("python.version", "Python is one that torch supports", needs=("python.starts",))
def version(context: Context) -> Iterator[Finding]:
    python = context.facts["python"]
    number = tuple(int(part) for part in python["version"].split(".")[:2])
    oldest = ".".join(map(str, OLDEST))
    if number < OLDEST:
        yield failure(
            f"Python {python['version']} at {python['executable']}",
            f"current versions of torch, and llmbench's worker, need Python {oldest} or newer",
            "make an environment with a newer Python, and give it with --python",
        )
    elif python["implementation"] != "CPython" or python["bits"] != 64:
        yield failure(
            f"{python['implementation']} {python['version']}, {python['bits']}-bit",
            "torch is built for 64-bit CPython only",
            "use a 64-bit CPython",
        )
    else:
        yield passed(f"{python['version']} (at least {oldest} is needed)")


@check("python.pip", "pip can install packages", needs=("python.starts",))
def pip(context: Context) -> Iterator[Finding]:
    if context.facts["python"]["pip"]:
        yield passed("pip is there")
    else:
        # Many environments are made by other installers and never need it.
        yield skipped(f"no pip in this environment; where a fix needs it: {context.python} -m ensurepip")


@check("python.shadow", "No file in the working folder hides a package", needs=("python.starts",))
def shadow(context: Context) -> Iterator[Finding]:
    folder = context.facts["python"]["working_folder"]
    if folder is None or context.facts["python"]["safe_path"]:
        yield passed("the working folder is not on the import path")
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield skipped(f"{folder} cannot be listed: {error.strerror}")
        return
    hidden = {
        name: module
        for name in names
        for module in [_module(folder, name)]
        if module in ("torch", "numpy") or module in sys.stdlib_module_names
    }
    for name, module in hidden.items():
        path = os.path.join(folder, name)
        verdict = failure if module == "torch" else warning
        yield verdict(
            f"{path} shadows the {'standard library' if module not in ('torch', 'numpy') else 'installed'} {module}",
            f"a script run in this folder imports {name} instead of {module}",
            _unshadow(path),
        )
    if not hidden:
        yield passed(f"nothing in {folder} shadows torch, numpy or the standard library")


def _unshadow(path: str) -> str:
    if os.path.isdir(path):
        return f"work in another folder than {os.path.dirname(path)}, or build that source checkout: pip install -e ."
    return f"rename it: mv {path} {path.removesuffix('.py')}_mine.py, and delete __pycache__ beside it"


def _module(folder: str, name: str) -> str | None:
    """The module that an entry of the folder would be imported as, if it is a source that could hide a package."""
    path = os.path.join(folder, name)
    if name.endswith(".py"):
        return name.removesuffix(".py")
    # A folder without __init__.py hides nothing, and a torch with its compiled part is a build, and works.
    if os.path.isfile(os.path.join(path, "__init__.py")) and not _is_built(path):
        return name
    return None


def _is_built(package: str) -> bool:
    return any(entry.startswith("_C.") and entry.endswith(".so") for entry in os.listdir(package))
