"""Installing llmbench changes nothing of the environment that it shall judge, and the wheel is complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent
# Older than what a fresh install would get.
OLD_NUMPY = "numpy<2" if sys.version_info < (3, 13) else "numpy<2.2"


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, str]]:
    """An environment with an older numpy and a torch of its own kind; packages before and after ``pip install``."""
    folder = tmp_path_factory.mktemp("patient")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    _run(python, "-m", "pip", "install", "-q", OLD_NUMPY)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text("__version__ = '2.7.0+stub'\n")
    info = site / "torch-2.7.0+stub.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.7.0+stub\n")
    (info / "RECORD").write_text("torch/__init__.py,,\n")
    (info / "INSTALLER").write_text("pip\n")
    before = _packages(python)
    _run(python, "-m", "pip", "install", "-q", str(CHECKOUT))
    return python, before, _packages(python)


def _run(*arguments: object, cwd: Path | None = None) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, env=kept, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _packages(python: Path) -> dict[str, str]:
    return {found["name"]: found["version"] for found in json.loads(_run(python, "-m", "pip", "list", "--format=json"))}


def test_nothing_that_was_there_is_changed(patient: tuple[Path, dict[str, str], dict[str, str]]) -> None:
    _, before, after = patient
    assert before["torch"] == "2.7.0+stub"
    assert {name: after[name] for name in before} == before
    assert "llmbench" in after
    assert not {"pandas", "scipy", "triton"} & set(after)


def test_works_from_any_folder(patient: tuple[Path, dict[str, str], dict[str, str]], tmp_path: Path) -> None:
    command = patient[0].parent / "llmbench"
    suites = json.loads(_run(command, "list", "suites", "--json", cwd=tmp_path))
    assert {"smoke", "ci", "reference"} <= {suite["suite"] for suite in suites}
    assert "gpt-tiny/eager/ws1" in _run(command, "run", "smoke", "--plan", cwd=tmp_path)


def test_trains_in_another_environment_and_reports(
    patient: tuple[Path, dict[str, str], dict[str, str]], tmp_path: Path
) -> None:
    """The installed command, in an environment whose own torch is a stub, with the torch of this one."""
    command = patient[0].parent / "llmbench"
    arguments = ("run", "ci", "-w", "regression", "-m", "eager", "--python", sys.executable, "--out", "r")
    _run(command, *arguments, cwd=tmp_path)
    assert "<svg" in (tmp_path / "r" / "report.html").read_text()
