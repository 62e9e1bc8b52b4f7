"""Reads what ``--base`` and ``--cand`` say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from llmbench.errors import UserError, nearest
from llmbench.launch.sides.python import find, pythons_on_path

FORMS = (
    "a side is a Python (VENV/bin/python, a virtual environment's folder, python3.12), "
    "requirements ('torch==2.12.0 numpy<2', dist/thing-1.1-py3-none-any.whl, '-r requirements.txt') "
    "or a revision (git:main, git:HEAD~1@FOLDER, git:. for the working tree)"
)
REVISION = "git:"
WORKING_TREE = (".", "WORKTREE")

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EXTRAS = r"(?:\s*\[[^\[\]]*\])?"
_VERSION = r"(?:~=|===?|!=|<=|>=|<|>)\s*[A-Za-z0-9][A-Za-z0-9.*+!_-]*"
_REQUIREMENT = re.compile(
    rf"(?P<file>-r\s*\S+|--requirement(?:\s+|=)\S+)"
    rf"|(?P<wheel>\S+\.whl(?=\s|,\s|$))"
    rf"|(?P<direct>{_NAME}{_EXTRAS}\s*@\s*\S+)"
    rf"|(?P<named>{_NAME}{_EXTRAS}(?:\s*{_VERSION}(?:\s*,\s*{_VERSION})*)?)"
)
_BETWEEN = re.compile(r"\s*,\s*|\s+|$")
_LONGEST_LABEL = 40


@dataclass(frozen=True)
class AskedPython:
    """Attributes:
    path: absolute; links are kept, since a virtual environment is one.
    """

    path: str


@dataclass(frozen=True)
class Requirement:
    """Attributes:
    text: as pip takes it: a requirement, a reference with ``@``, or the absolute path of a wheel or a file.
    """

    kind: Literal["named", "direct", "wheel", "file"]
    text: str


@dataclass(frozen=True)
class AskedRequirements:
    """Attributes:
    label: short, for people.
    """

    requirements: tuple[Requirement, ...]
    label: str


@dataclass(frozen=True)
class AskedRevision:
    """Attributes:
    text: what stands behind ``git:``: ``REVISION`` or ``REVISION@FOLDER``.
    """

    text: str


def understand(asked: str) -> AskedPython | AskedRequirements | AskedRevision:
    """What a side is. What exists as a file or folder is that, whatever else it may look like.

    Raises:
        UserError: it is none, or a file that it names does not exist.
    """
    text = asked.strip()
    if not text:
        raise UserError("a side is empty", FORMS)
    if text.startswith(REVISION):
        if not text.removeprefix(REVISION).strip():
            raise UserError(
                f"{text}: which revision?", "for example git:main, git:HEAD~1, or git:. for the working tree"
            )
        return AskedRevision(text.removeprefix(REVISION).strip())
    if text.endswith(".whl") and os.path.isfile(os.path.expanduser(text)):
        return _requirements([Requirement("wheel", _absolute(text))])  # its path may have spaces
    if found := find(text):
        return AskedPython(found)
    _exists_but_is_none(text)
    return _requirements(_read(text))


def _exists_but_is_none(text: str) -> None:
    """Refuses what exists and yet is no side, with a hint at what may be meant."""
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        gone = os.path.join(path, "bin", "python")
        if os.path.islink(gone):
            raise UserError(
                f"{text}: its Python is gone: {gone} points to {os.path.realpath(gone)}", "make the environment anew"
            )
        raise UserError(
            f"{text} is a folder, and no virtual environment: it has no bin/python",
            f"of a source folder with a git repository: git:.@{text}; else build a wheel and name that",
        )
    if os.path.isfile(path):
        if path.endswith((".txt", ".in")):
            raise UserError(f"{text} is a file that cannot be run", f"as requirements: '-r {text}'")
        raise UserError(f"{text} is a file that cannot be run", FORMS)


def _read(text: str) -> list[Requirement]:
    requirements: list[Requirement] = []
    position = 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        between = _BETWEEN.match(text, match.end()) if match else None
        if match is None or between is None:
            raise _not_understood(text, text[position:])
        requirements.append(_requirement(match))
        position = between.end()
    if len(requirements) == 1 and requirements[0].kind == "named" and re.fullmatch(_NAME, text):
        raise _bare_name(text)
    return requirements


def _requirement(match: re.Match[str]) -> Requirement:
    text = match.group()
    if match["file"]:
        file = re.sub(r"^(-r|--requirement)[\s=]*", "", text)
        return Requirement("file", _existing(file, "-r names a requirements file"))
    if match["wheel"]:
        if re.match(r"\w+://", text):
            raise UserError(f"{text}: which package is it?", f"'NAME @ {text}'")
        return Requirement("wheel", _existing(text, "build it first, for example with `python -m build --wheel`"))
    return Requirement("direct" if match["direct"] else "named", text)


def _existing(file: str, hint: str) -> str:
    path = _absolute(file)
    if not os.path.isfile(path):
        folder = os.path.dirname(path)
        kind = os.path.splitext(path)[1]
        if not os.path.isdir(folder):
            raise UserError(f"{file}: there is no folder {folder}", hint)
        alike = [name for name in sorted(os.listdir(folder)) if name.endswith(kind)]
        raise UserError(f"{file}: no such file", nearest(os.path.basename(path), alike) if alike else hint)
    return path


def _absolute(file: str) -> str:
    return os.path.abspath(os.path.expanduser(file))


def _not_understood(text: str, rest: str) -> UserError:
    if rest.startswith(("-c", "--constraint")):
        return UserError(f"{text}: constraints are of both sides", "llmbench ab --constraints FILE")
    if rest.startswith("-"):
        return UserError(
            f"{text}: {rest.split()[0]} is no requirement",
            "pip takes its options from a requirements file ('-r FILE') and from PIP_… variables",
        )
    if os.sep in text.split()[0]:
        return UserError(f"{text}: no such file or folder", FORMS)
    if re.match(r"\s*=[^=]", rest) or re.search(r"[\w\]]=[\w.]", text):
        return UserError(f"{text}: cannot be read at {rest.split()[0]!r}", "a version is written NAME==VERSION")
    if re.search(r";", rest):
        return UserError(f"{text}: markers (after ;) have no place here", FORMS)
    return UserError(f"{text}: cannot be read at {rest!r}", FORMS)


def _bare_name(name: str) -> UserError:
    """A name alone says too little: most often it is a Python that is not there, or a slip of the pen."""
    hint = nearest(name, pythons_on_path())
    if hint.startswith("did you mean"):
        return UserError(f"{name}: no such program, file or folder", f"{hint} {FORMS}")
    return UserError(
        f"{name}: no such program, file or folder",
        f"a package is named with its version ({name}==VERSION), a revision with git: (git:{name}); {FORMS}",
    )


def _requirements(requirements: list[Requirement]) -> AskedRequirements:
    label = " ".join(_short(requirement) for requirement in requirements)
    if len(label) > _LONGEST_LABEL:
        label = f"{label[: _LONGEST_LABEL - 1]}…"
    return AskedRequirements(tuple(requirements), label)


def _short(requirement: Requirement) -> str:
    if requirement.kind == "wheel":
        return "-".join(os.path.basename(requirement.text).removesuffix(".whl").split("-")[:2])
    if requirement.kind == "file":
        return os.path.basename(requirement.text)
    if requirement.kind == "direct":
        return requirement.text.split("@")[0].strip()
    return re.sub(r"\s+", "", requirement.text)
