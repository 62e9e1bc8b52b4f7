"""Broken environments, made for real: a stub torch on PYTHONPATH, an interpreter without torch, tight deadlines."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor import runner
from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Diagnosis, Finding
from llmbench.doctor.runner import diagnose


def _may_mount() -> bool:
    """Root in a container may lack the right, and a small image the command."""
    command = ["unshare", "--mount", "--net", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


needs_root = pytest.mark.skipif(
    not _may_mount(), reason="needs the right to mount file systems in a namespace of its own"
)


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, and none of the variables that doctor warns of."""
    from llmbench.doctor.checks.environment import LEFTOVERS

    names = [leftover.name for leftover in LEFTOVERS]
    for name in (*names, "RANK", "WORLD_SIZE", "MASTER_ADDR", "LD_PRELOAD", "TMPDIR", "CXX", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def stub_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts a package torch with this source in front of any other."""

    def write(source: str) -> None:
        package = tmp_path / "stub" / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return write


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with neither torch nor pip."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Gives every check at most so many seconds."""

    def limit(seconds: float) -> None:
        checks = [dataclasses.replace(c, deadline=min(c.deadline, seconds)) for c in all_checks()]
        monkeypatch.setattr(runner, "all_checks", lambda: checks)

    return limit


def findings(diagnosis: Diagnosis, check: str) -> tuple[Finding, ...]:
    return next(answer.findings for answer in diagnosis.answers if answer.check.id == check)


def verdicts(diagnosis: Diagnosis) -> dict[str, str]:
    return {answer.check.id: answer.verdict for answer in diagnosis.answers}


def ask(check: str, **options: Any) -> tuple[Finding, ...]:
    """The findings of one check; it and what it needs are all that is asked."""
    return findings(diagnose(only=[check], **options), check)


def one(check: str, **options: Any) -> Finding:
    """The only finding of one check."""
    (finding,) = ask(check, **options)
    return finding


def inside(setup: str, *options: str) -> dict[str, list[dict[str, Any]]]:
    """What ``llmbench doctor`` finds in namespaces (mount, pid, network, host name) of its own, by check.

    Args:
        setup: shell commands run first, as root of these namespaces; may export variables.
        options: of ``llmbench doctor``, e.g. ``--only``.
    """
    script = f'set -e\n{setup}\nexec "$@"'
    program = [sys.executable, "-m", "llmbench", "doctor", "--json", *options]
    namespaces = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*namespaces, "--propagation", "private", "bash", "-c", script, "bash", *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    return {check["id"]: check["findings"] for check in json.loads(done.stdout)["checks"]}
