"""A checkout of a project with two commits, full and shallow."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


def git(folder: Path, *words: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always"]
    return subprocess.run(
        ["git", *options, "-C", str(folder), *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@dataclass(frozen=True)
class Checkout:
    """A project; ``base`` is the first commit and ``head`` the second, which is checked out."""

    folder: Path
    base: str
    head: str

    def has(self, commit: str) -> bool:
        command = ["git", "-C", str(self.folder), "cat-file", "-e", f"{commit}^{{commit}}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def origin(tmp_path: Path) -> Checkout:
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for text in ("one", "two"):
        (folder / "train.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", text)
    git(folder, "branch", "old", "HEAD~1")
    return Checkout(folder, git(folder, "rev-parse", "HEAD~1"), git(folder, "rev-parse", "HEAD"))


@pytest.fixture
def shallow(origin: Checkout, tmp_path: Path) -> Checkout:
    """As actions/checkout leaves it: the newest commit alone."""
    folder = tmp_path / "a project"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{origin.folder}", str(folder))
    return Checkout(folder, origin.base, origin.head)


def seen(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
