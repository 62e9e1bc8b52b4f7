"""The command as a process: exit codes, one JSON document, and any kind of stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def doctor(*arguments: str, shell: str = '"$@"', **variables: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "llmbench", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False, env=environ)


def test_json_is_one_document_and_nothing_else() -> None:
    process = doctor("--only", "environment", "--json")
    document = json.loads(process.stdout)
    assert process.returncode == 0
    assert process.stderr == ""
    assert {check["area"] for check in document["checks"]} == {"environment"}
    assert document["counts"]["pass"] == len(document["checks"])


def test_exit_codes() -> None:
    assert doctor("--only", "environment", CUDA_LAUNCH_BLOCKING="1").returncode == 0
    assert doctor("--only", "environment", "--strict", CUDA_LAUNCH_BLOCKING="1").returncode == 1
    assert doctor("--only", "compile.compiler", CXX="/bin/false").returncode == 1


def test_unknown_area_names_the_nearest() -> None:
    process = doctor("--only", "envronment")
    assert process.returncode == 2
    assert "environment" in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def test_unknown_interpreter() -> None:
    process = doctor("--python", "/no/such/python")
    assert process.returncode == 2
    assert "/no/such/python" in process.stderr
    assert "Traceback" not in process.stderr


def test_bare_interpreter(bare_python: str) -> None:
    process = doctor("--python", bare_python, "--only", "torch")
    assert process.returncode == 1
    assert process.stdout.startswith("This install will not train")
    assert f"{bare_python} -m pip install torch" in " ".join(process.stdout.split())
    assert "Traceback" not in process.stdout + process.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict", "latin-1"])
def test_any_encoding(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "Größe-✓"
    folder.mkdir()
    process = doctor("--only", "environment", shell=f'cd "{folder}" && "$@"', PYTHONIOENCODING=encoding)
    assert process.returncode == 0
    assert "environment.folder" in process.stdout


def test_closed_stdout_keeps_the_exit_code() -> None:
    ok = doctor("--only", "environment", shell='"$@" >&-')
    bad = doctor("--only", "compile.compiler", shell='"$@" >&-', CXX="/bin/false")
    assert (ok.returncode, bad.returncode) == (0, 1)
    assert "Traceback" not in ok.stderr + bad.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_stdout_says_so_in_one_line() -> None:
    process = doctor("--only", "environment", shell='"$@" > /dev/full')
    assert process.returncode == 2
    assert process.stderr.splitlines() == ["llmbench: cannot write to standard output: No space left on device"]


def test_reader_that_goes_away() -> None:
    process = doctor("--only", "environment", shell='"$@" | true')
    assert "Traceback" not in process.stderr
    assert "Exception ignored" not in process.stderr


def test_page(tmp_path: Path) -> None:
    page = tmp_path / "doctor.html"
    process = doctor("--only", "environment", "--html", str(page), CUDA_LAUNCH_BLOCKING="1", HF_TOKEN="planted-secret")
    assert process.returncode == 0
    written = page.read_text(encoding="utf-8")
    assert "CUDA_LAUNCH_BLOCKING=1 is set" in written
    assert "unset CUDA_LAUNCH_BLOCKING" in written
    assert "planted-secret" not in written


def test_page_that_cannot_be_written() -> None:
    process = doctor("--only", "environment", "--html", "/no/such/folder/doctor.html")
    assert process.returncode == 2
    assert "/no/such/folder/doctor.html" in process.stderr


def test_planted_secrets_never_leave(tmp_path: Path) -> None:
    secrets = {
        "HF_TOKEN": "hf_PLANTEDabcdefghijklmnop",
        "AWS_SECRET_ACCESS_KEY": "PLANTEDwJalrXUtnFEMI",
        "NCCL_CONF_SECRET": "topPLANTED",
        "TORCH_MIRROR": "https://bob:PLANTED@host/x",
        "CXX": "/bin/false?token=PLANTED",
        "MASTER_ADDR": "http://me:PLANTED@host.invalid",
        "WORLD_SIZE": "2",
        "RANK": "0",
    }
    page = tmp_path / "page.html"
    arguments = ("--only", "environment", "--only", "compile.compiler", "--only", "network.master", "--html", str(page))
    for output in (doctor(*arguments, **secrets), doctor(*arguments, "--json", **secrets)):
        assert "PLANTED" not in output.stdout + output.stderr + page.read_text()
        assert "***" in output.stdout
