"""The entry point: where llmbench's own libraries or the import path are broken, doctor still answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def without(library: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.modules['{library}'] = None; from llmbench.start import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("library", ["typer", "pydantic"])  # typer imports pydantic when it parses
def test_doctor_does_without_the_libraries_of_the_command_line(library: str) -> None:
    done = without(library, "doctor", "--json", "--only", "plugins", "--only", "environment.folder")
    assert done.returncode == 0, done.stderr
    found = {check["id"]: check["findings"] for check in json.loads(done.stdout)["checks"]}
    assert [finding["fault"] for finding in found["plugins.own"]] == ["plugins.own.broken"]
    assert library in found["plugins.own"][0]["evidence"]
    assert found["environment.folder"][0]["verdict"] == "pass"


def test_with_them_nothing_is_said() -> None:
    command = [sys.executable, "-m", "llmbench", "doctor", "--json", "--only", "plugins.own"]
    document = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [finding["verdict"] for check in document["checks"] for finding in check["findings"]] == ["pass"]


def test_its_options_are_those_of_the_command() -> None:
    from typer.main import get_command

    from llmbench.cli import app

    listed = without("typer", "doctor", "--help").stdout
    doctor = get_command(app).commands["doctor"]  # type: ignore[attr-defined]
    names = {name for parameter in doctor.params for name in parameter.opts if name.startswith("--")}
    assert {name for name in names if name not in listed} == set()


def test_other_commands_say_what_is_missing() -> None:
    done = without("typer", "run", "smoke")
    assert done.returncode == 2
    assert "typer" in done.stderr
    assert "llmbench doctor" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["PYTHONPATH", "working folder"])
def test_what_hides_the_standard_library_from_scripts_does_not_hide_it_from_llmbench(
    where: str, tmp_path: Path
) -> None:
    (tmp_path / "logging.py").write_text("raise RuntimeError('this is not logging')\n")
    (tmp_path / "typing_extensions.py").write_text("raise RuntimeError('nor is this')\n")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([str(tmp_path), root] if where == "PYTHONPATH" else [root])
    done = subprocess.run(
        [sys.executable, "-m", "llmbench", "doctor", "--json", "--only", "python.shadow,plugins.own"],
        capture_output=True,
        text=True,
        cwd=tmp_path if where == "working folder" else root,
        env={**os.environ, "PYTHONPATH": path},
    )
    document = json.loads(done.stdout)
    found = {finding["fault"]: finding for check in document["checks"] for finding in check["findings"]}
    assert "plugins.own.broken" not in found
    assert any("logging.py" in finding["evidence"] for finding in found.values()), found
