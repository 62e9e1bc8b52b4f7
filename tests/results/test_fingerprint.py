from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmbench.results.fingerprint import fingerprint, git_state

MACHINE: dict[str, Any] = {
    "device": "cpu",
    "python": {"version": "3.12.8", "implementation": "CPython", "executable": "/usr/bin/python3"},
    "torch": {"version": "2.13.0+cpu", "cuda": None, "threads": 4},
    "devices": [{"kind": "cpu", "name": "AMD EPYC", "memory_bytes": 2**34}],
    "packages": {"torch": "2.13.0"},
}


def test_it_holds_host_interpreter_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # without compiled modules more memory is resident
    monkeypatch.setenv("SOMETHING_ELSE", "private")
    found = fingerprint(MACHINE, os.environ)
    assert {part: found[part] for part in ("python", "torch", "devices", "packages")} == {
        part: MACHINE[part] for part in ("python", "torch", "devices", "packages")
    }
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert found["variables"]["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "SOMETHING_ELSE" not in found["variables"]
    host = found["host"]
    assert all(isinstance(host[name], str) and host[name] for name in ("name", "os", "kernel", "machine", "cpu"))
    assert host["cpus_usable"] >= 1
    assert host["cores"] >= 1
    assert host["memory_bytes"] > 2**20
    assert json.loads(json.dumps(found)) == found


def test_no_secret_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_aBcDeFgHiJkLmNoPqRsT")
    monkeypatch.setenv("TORCH_HOME", "https://me:hunter22@example.org/x")
    text = json.dumps(fingerprint(MACHINE, os.environ))
    assert "hf_aBcDeFgHiJkLmNoPqRsT" not in text
    assert "hunter22" not in text


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))  # the folder of tests may lie in a checkout
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "gone") is None
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "untracked").write_text("")
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        state = git_state(folder)
        assert state is not None
        assert (state.commit, state.dirty) == (commit, False)
    (tmp_path / "a").write_text("2")
    state = git_state(tmp_path)
    assert state is not None
    assert (state.commit, state.dirty) == (commit, True)


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) is None
