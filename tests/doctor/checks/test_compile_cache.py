"""Cache folders of torch.compile in which nothing can be made, locked or loaded."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.doctor.conftest import inside, needs_root

from .toolchain import asked, only


def cache(environ: dict[str, str]) -> list[tuple[str, str | None]]:
    environ = {"TORCH_EXTENSIONS_DIR": "/nonexistent"} | environ
    return [(finding.verdict, finding.fault) for finding in asked("compile.cache", environ)]


def test_a_fresh_folder_is_right_and_stays_away(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    environ = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "new"), "TRITON_CACHE_DIR": str(folder / "triton")}
    assert cache(environ) == [("pass", None)]
    assert list(folder.iterdir()) == []


def test_default_folder_is_in_the_temporary_one(tmp_path: Path) -> None:
    finding = only("compile.cache", {"TMPDIR": str(tmp_path), "TORCH_EXTENSIONS_DIR": "/nonexistent"})
    assert f"{tmp_path}/torchinductor_" in finding.evidence


@pytest.mark.parametrize("variable", ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"])
def test_folder_that_cannot_be(variable: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = only("compile.cache", {variable: str(tmp_path / "file" / "x"), "TORCH_EXTENSIONS_DIR": "/nonexistent"})
    assert (finding.verdict, finding.fault) == ("fail", "compile.cache.denied")
    assert f"{variable}={tmp_path}/file/x" in finding.evidence
    assert f"export {variable}=" in str(finding.fix)


@needs_root
@pytest.mark.parametrize(
    ("setup", "fault", "words"),
    [
        ("mount -t tmpfs -o noexec none {0}", "compile.cache.noexec", "cannot be mapped as code (noexec)"),
        ("mount -t tmpfs -o ro none {0}", "compile.cache.denied", "Read-only file system"),
        ("mkdir {0}/ab; mount -t tmpfs -o ro none {0}/ab", "compile.cache.foreign", "{0}/ab cannot be written"),
    ],
)
def test_file_systems(setup: str, fault: str, words: str, tmp_path: Path) -> None:
    setup = f"{setup.format(tmp_path)}; export TORCHINDUCTOR_CACHE_DIR={tmp_path}"
    (found,) = inside(setup, "--only", "compile.cache")["compile.cache"]
    assert (found["verdict"], found["fault"]) == ("fail", fault)
    assert words.format(tmp_path) in found["evidence"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"path": "/cache", "looked_at": "/cache", "variable": None, "lock": "No locks available"},
            "No locks available",
        ),
        (None, "gave no answer within"),
    ],
)
def test_file_systems_of_others(
    answer: dict[str, str] | None, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file system that does not lock, and one that does not answer: the probe's part is played."""
    from llmbench.doctor.runner import PROBES

    lines = f"yield {{'inductor': {answer!r}}}" if answer else "import time; time.sleep(60); yield {}"
    (tmp_path / "compile_cache.py").write_text(f"def probe(arguments):\n    {lines}\n", encoding="utf-8")
    (tmp_path / "run.py").write_text((PROBES / "run.py").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr("llmbench.doctor.runner.PROBES", tmp_path)
    (finding,) = asked("compile.cache", deadline=1)
    assert (finding.verdict, finding.fault) == ("fail", "compile.cache.locks")
    assert words in finding.evidence


def test_lock_held_by_a_stopped_process(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    lock = tmp_path / "locks" / "kernel.lock"
    source = (
        f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            environ = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
            assert cache(environ) == [("pass", None)]  # somebody compiles: no fault
            holder.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
            (finding,) = asked("compile.cache", environ | {"TORCH_EXTENSIONS_DIR": "/nonexistent"})
        finally:
            holder.kill()
    assert (finding.verdict, finding.fault) == ("warn", "compile.cache.held")
    assert f"process {holder.pid}, which is stopped" in finding.evidence
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock_left_behind_by_a_build(tmp_path: Path) -> None:
    folder = tmp_path / "py311_cpu" / "fused_adam"
    folder.mkdir(parents=True)
    lock = folder / "lock"
    lock.write_text("")
    environ = {"TORCH_EXTENSIONS_DIR": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "new")}
    assert cache(environ) == [("pass", None)]  # it may still be building
    os.utime(lock, (time.time() - 7300, time.time() - 7300))
    (finding,) = asked("compile.cache", environ)
    assert (finding.verdict, finding.fault) == ("warn", "compile.cache.baton")
    assert f"{lock}: nothing has changed beside it for 2 h" in finding.evidence
    assert f"rm -f {lock}" in str(finding.fix)
