"""Interpreters: where one is, and what it says of itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from llmbench.errors import UserError

ASK_SECONDS = 60.0  # from a cold network disk
_SHIMS = "shims"  # of pyenv, asdf and mise: which Python they start depends on the working folder
_GENERIC = {"venv", ".venv", "env", ".env", "virtualenv"}

_QUESTION = """
import importlib.util, json, os, site, sys, sysconfig
folders = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
folders = [folder for folder in folders if os.path.isdir(folder)]
print()
print(json.dumps({
    "executable": sys.executable,
    "version": sys.version,
    "platform": sysconfig.get_platform(),
    "prefix": sys.prefix,
    "base_prefix": os.path.realpath(sys.base_prefix),
    "folders": folders,
    "pip": importlib.util.find_spec("pip") is not None,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter that was started once.

    Attributes:
        path: how to start it.
        prefix: folder of its environment.
        folders: where its packages are, in the order of import.
        pip: whether it has pip.
    """

    path: str
    version: str
    platform: str
    prefix: str
    base_prefix: str
    folders: tuple[str, ...]
    pip: bool


def find(text: str) -> str | None:
    """The absolute path of an interpreter named by its path, its environment's folder, or as a program on PATH."""
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        inside = (os.path.join(path, "bin", name) for name in ("python", "python3"))
        if found := next(filter(os.path.isfile, inside), None):
            return os.path.abspath(found)
    elif os.path.isfile(path) and os.access(path, os.X_OK):
        return os.path.abspath(path)
    on_path = shutil.which(text) if os.sep not in path else None
    return os.path.abspath(on_path) if on_path else None


def interpreter(text: str) -> Interpreter:
    """The interpreter that ``--python`` names.

    Raises:
        UserError: there is none.
    """
    found = find(text)
    if found is None:
        raise UserError(f"--python {text}: no such program", "name a Python interpreter, such as VENV/bin/python")
    return probe(found, f"--python {text}")


def probe(path: str, asked: str) -> Interpreter:
    """Starts an interpreter to ask what it is.

    Raises:
        UserError: it does not start, or is no Python.
    """
    # Elsewhere than here, where a json.py of the user's may lie; without writing compiled modules beside its own.
    try:
        done = subprocess.run(
            [path, "-B", "-c", _QUESTION],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
            cwd="/",
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise UserError(
            f"{asked}: {path}: {error.strerror}", "name a Python interpreter, such as VENV/bin/python"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{asked}: {path} gave no answer for {ASK_SECONDS:.0f} s") from None
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        executable, version = answer["executable"], answer["version"]
    except (ValueError, IndexError, KeyError, TypeError):
        said = last_line(done.stderr) or last_line(done.stdout) or "it said nothing"
        raise UserError(
            f"{asked}: {path} does not answer as Python does: exit code {done.returncode}; {said}",
            "name a Python interpreter, such as VENV/bin/python",
        ) from None
    return Interpreter(
        path=executable if os.path.basename(os.path.dirname(path)) == _SHIMS else path,
        version=version,
        platform=answer["platform"],
        prefix=answer["prefix"],
        base_prefix=answer["base_prefix"],
        folders=tuple(answer["folders"]),
        pip=answer["pip"],
    )


def label(python: Interpreter) -> str:
    """A short name: of the environment's folder if it is one, else the program's with its version."""
    if os.path.realpath(python.prefix) == python.base_prefix and not os.path.isdir(f"{python.prefix}/conda-meta"):
        return f"python{python.version.split()[0]}"
    parent, name = os.path.split(os.path.abspath(python.prefix))
    return f"{os.path.basename(parent)}/{name}" if name in _GENERIC else name


def pythons_on_path() -> list[str]:
    """The names of all Pythons on PATH."""
    names: set[str] = set()
    for folder in os.get_exec_path():
        if os.path.isdir(folder):
            names |= {name for name in os.listdir(folder) if re.fullmatch(r"(python|pypy)\d*(\.\d+)*t?", name)}
    return sorted(names)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
