"""Faults of the machine around torch, provoked for real; none of these needs a torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


# --- storage


def test_temporary_folder_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    found = ask("storage.temporary")
    assert [finding.verdict for finding in found] == ["warn", "pass"]
    assert "TMPDIR=/no/such/folder does not exist" in found[0].evidence


def test_cache_folder_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file" / "cache"))
    finding = one("storage.caches")
    assert finding.verdict == "warn"
    assert "HF_HOME" in finding.evidence
    assert "export HF_HOME" in str(finding.fix)


def test_cache_folders_are_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "new" / "cache"))
    assert one("storage.caches").verdict == "pass"
    assert not (tmp_path / "new").exists()


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert one("storage.caches").verdict in ("pass", "warn")


@needs_root
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=8m", ["fail", "/dev/shm has 8 MiB free of 8 MiB, which is too small"]),
        ("size=64m", ["warn", "/dev/shm has only 64 MiB"]),
        ("ro", ["fail", "/dev/shm cannot be written: Read-only file system"]),
    ],
)
def test_shared_memory(options: str, expected: list[str]) -> None:
    text = in_namespace(f"mount -t tmpfs -o {options} tmpfs /dev/shm", "storage.shm")
    assert all(part in text for part in expected)


@needs_root
def test_read_only_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    text = in_namespace(f"mount -t tmpfs -o ro tmpfs {tmp_path}", "storage.caches")
    assert "warn" in text
    assert "Read-only file system" in text


@needs_root
def test_full_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    setup = f"mount -t tmpfs -o size=64k tmpfs {folder}; head -c 64k /dev/zero > {folder}/x"
    text = in_namespace(setup, "storage.temporary")
    assert f"fail TMPDIR={folder} cannot be used" in text


# --- network


@needs_root
def test_loopback_is_down() -> None:
    assert "fail 127.0.0.1 cannot be reached" in in_namespace("true", "network.loopback")


def test_loopback_works() -> None:
    assert one("network.loopback").verdict == "pass"


def test_master_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node0.cluster.invalid")
    finding = one("network.master")
    assert finding.verdict == "fail"
    assert "MASTER_ADDR=node0.cluster.invalid does not resolve" in finding.evidence
