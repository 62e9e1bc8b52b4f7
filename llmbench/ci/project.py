"""What a project is like, as far as its CI has to know: its root, who runs its CI, how it is installed."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from llmbench.errors import UserError
from llmbench.paths import PACKAGE

Service = Literal["github", "gitlab"]
SERVICES: tuple[Service, Service] = ("github", "gitlab")

_MARKS = (".git", ".github", ".gitlab-ci.yml", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
_INSTALLED_BY = {
    "requirements.txt": "python -m pip install -r requirements.txt",
    "pyproject.toml": "python -m pip install .",
    "setup.py": "python -m pip install .",
    "setup.cfg": "python -m pip install .",
}
_BARE = "python -m pip install torch numpy"
_GIT_SECONDS = 10
_GITHUB = re.compile(r"^(?:[a-z+]+://)?(?:[^@/]+@)?github\.com[:/]+([\w.-]+/[\w.-]+?)(?:\.git)?/*$")


@dataclass(frozen=True)
class Project:
    """A folder that may have CI.

    Attributes:
        root: of the repository; without one, the folder itself.
        services: who seems to run its CI; none if nothing tells.
        install: the command that installs it with what it needs.
    """

    root: Path
    services: tuple[Service, ...]
    install: str


def find_project(folder: Path) -> Project:
    """The project that a folder lies in.

    Raises:
        UserError: the folder does not exist, or nothing in it says that it is a project.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", "name the folder of your project")
    root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)
    if not any((root / mark).exists() for mark in _MARKS):
        raise UserError(
            f"{folder} is no project: neither a git checkout, nor a pyproject.toml or requirements.txt",
            "go to the root of your repository, or begin one with `git init`",
        )
    install = next((command for name, command in _INSTALLED_BY.items() if (root / name).is_file()), _BARE)
    return Project(root, _services(root), install)


def _services(root: Path) -> tuple[Service, ...]:
    """By what lies there; where nothing does, by where it is pushed to."""
    found: dict[Service, bool] = {
        "github": (root / ".github").is_dir(),
        "gitlab": (root / ".gitlab-ci.yml").is_file() or (root / ".gitlab").is_dir(),
    }
    if not any(found.values()):
        hosts = " ".join(re.findall(r"[\w.-]+\.\w+(?=[:/])", _git(root, "remote", "--verbose")))
        found = {service: service in hosts for service in SERVICES}
    return tuple(service for service in SERVICES if found[service])


def own_source() -> tuple[str, str] | None:
    """Where this llmbench came from, as a URL of git and a commit; None if that is not known.

    By what pip noted when it installed it (PEP 610), else by the checkout that it runs from.
    """
    try:
        noted = json.loads(metadata.distribution("llmbench").read_text("direct_url.json") or "{}")
        url, commit = str(noted["url"]), str(noted["vcs_info"]["commit_id"])
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        checkout = PACKAGE.parent
        if not (checkout / ".git").exists():
            return None
        url = _git(checkout, "config", "--get", "remote.origin.url").strip()
        commit = _git(checkout, "rev-parse", "HEAD").strip()
    # A folder of this machine is nothing that CI could reach.
    return (url, commit) if commit and re.match(r"[a-z+]+://(?!/)|[^/:]+@[^/:]+:", url) else None


def on_github(url: str) -> str | None:
    """``OWNER/NAME`` of a repository on GitHub."""
    found = _GITHUB.match(url)
    return found[1] if found else None


def for_pip(url: str, commit: str) -> str:
    """A URL of git as pip takes it; ``git@host:owner/name`` becomes ``ssh://git@host/owner/name``."""
    if "://" not in url:
        url = "ssh://" + url.replace(":", "/", 1)
    return f"git+{url.removeprefix('git+')}@{commit}"


def _git(folder: Path, *arguments: str) -> str:
    """What git says; nothing if it cannot."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
