"""Faults of the machine around torch, provoked for real; none of these needs a torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.doctor.checks.environment import LEFTOVERS
from llmbench.doctor.model import Finding
from llmbench.doctor.runner import diagnose

from .conftest import findings, needs_root

ROOT = Path(__file__).resolve().parents[2]


def ask(check: str, python: str | None = None) -> tuple[Finding, ...]:
    found = findings(diagnose(python, only=[check]), check)
    for finding in found:
        if finding.verdict not in ("pass", "skip"):
            assert finding.cause
            assert finding.fix
    return found


def one(check: str) -> Finding:
    (finding,) = ask(check)
    return finding


def in_namespace(setup: str, check: str) -> str:
    """``verdict evidence`` of the check in a mount and network namespace of its own, after these shell commands."""
    source = (
        "import sys; from llmbench.doctor.runner import diagnose\n"
        "d = diagnose(only=[sys.argv[1]])\n"
        "print([f'{f.verdict} {f.evidence}' for a in d.answers if a.check.id == sys.argv[1] for f in a.findings])"
    )
    command = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", f'{setup}; exec "$@"', "sh"]
    process = subprocess.run(
        [*command, sys.executable, "-c", source, check],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


# --- compiler


def test_no_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = one("compile.compiler")
    assert finding.verdict == "warn"
    assert "no C++ compiler" in finding.evidence
    assert "apt-get install -y g++" in str(finding.fix)


def test_compiler_named_by_cxx_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/opt/gcc-9/bin/g++")
    finding = one("compile.compiler")
    assert (finding.verdict, finding.evidence) == ("fail", "CXX=/opt/gcc-9/bin/g++ does not exist")


def test_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    finding = one("compile.compiler")
    assert finding.verdict == "fail"
    assert "CXX=/bin/false" in finding.evidence
    assert "unset CXX" in str(finding.fix)


def test_compiler_that_has_a_version_but_cannot_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo "g++ 12.2.0"; exit; }\necho "fatal error: cc1plus" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    finding = one("compile.compiler")
    assert finding.verdict == "fail"
    assert "fatal error: cc1plus" in finding.evidence


@pytest.mark.compiler
def test_compiler_is_named() -> None:
    path = shutil.which("g++")
    finding = one("compile.compiler")
    assert finding.verdict == "pass"
    assert str(path) in finding.evidence


# --- environment


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCHDYNAMO_DISABLE", "1"),
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("NVIDIA_TF32_OVERRIDE", "0"),
        ("ATEN_CPU_CAPABILITY", "default"),
        ("NCCL_P2P_DISABLE", "1"),
    ],
)
def test_left_over_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    finding = one("environment.leftovers")
    assert finding.verdict == "warn"
    assert finding.evidence == f"{name}={value} is set"
    assert finding.fix == f"unset {name}"


def test_switched_off_variables_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    for leftover in LEFTOVERS:
        off = "1" if leftover.matters("0") else "0"
        monkeypatch.setenv(leftover.name, off)
    assert one("environment.leftovers").verdict == "pass"


def test_variables_of_an_old_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    finding = one("environment.distributed")
    assert finding.verdict == "warn"
    assert "RANK=0 WORLD_SIZE=2" in finding.evidence
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    assert one("environment.distributed").verdict == "pass"


def test_preloaded_library_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/no/such/lib.so")
    assert "/no/such/lib.so" in one("environment.libraries").evidence


def test_deleted_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    diagnosis = diagnose()
    assert [check.id for check, _ in diagnosis.of("fail", "incomplete")] == ["environment.folder"]
    assert [f.evidence for f in findings(diagnosis, "torch.import")] == ["needs environment.folder"]
    assert [f.evidence for f in findings(diagnosis, "storage.disk")] == ["needs environment.folder"]


# --- cpu


@needs_root
def test_little_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 24000000 kB\nMemAvailable: 307200 kB\n")
    text = in_namespace(f"mount --bind {tmp_path}/meminfo /proc/meminfo", "cpu.memory")
    assert "warn only 0.3 GiB of 22.9 GiB memory is available" in text


@needs_root
def test_without_proc(tmp_path: Path) -> None:
    text = in_namespace(f"mount --bind {tmp_path} /proc", "cpu.memory")
    assert "skip /proc/meminfo cannot be read" in text


def test_open_files() -> None:
    source = "from llmbench.doctor.runner import diagnose; print(diagnose(only=['cpu.limits']).answers[-1].findings)"
    process = subprocess.run(
        ["sh", "-c", 'ulimit -n 64; exec "$0" -c "$1"', sys.executable, source],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "ulimit -n) is 64, which is low" in process.stdout
    assert "verdict='fail'" in process.stdout
