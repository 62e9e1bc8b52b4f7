"""A case that goes wrong gets its own status, cause and hint, and the suite goes on. Every fault here is a real one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.results.store import RunFolder
from tests.conftest import ENDLESS, Command, records_of, wait_for, worker_of

BAD = "regression-mlp/eager/ws1"
GOOD = "regression-linear/eager/ws1"
# The faulty case first, so that the good one shows that the suite went on.
BAD_FIRST = ENDLESS.replace('"regression-linear", "regression-mlp"', '"regression-mlp", "regression-linear"')


def _provoke(
    started: Callable[..., subprocess.Popen[str]], suite: Path, out: Path, fault: Callable[[int], None]
) -> subprocess.Popen[str]:
    """Runs the suite, and does something to the worker of its first case once that trains."""
    process = started("run", suite, "--out", out)
    log = out / "logs" / "regression-mlp__eager__ws1.log"
    wait_for(lambda: log.exists() and "timed" in log.read_text())
    worker = worker_of(process)
    assert worker is not None
    fault(worker.pid)
    process.wait(timeout=200)
    return process


@pytest.mark.slow
@pytest.mark.compiler
def test_raises(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    path = suite(
        'workloads = ["regression-linear"]\nmodes = ["compile", "eager"]\n'
        "settings = {steps = 20, threads = 1, budget_seconds = 0}"
    )
    # A compiler that fails whatever it is asked: torch.compile really raises.
    done = llmbench("run", path, "--out", tmp_path / "r", CXX="/bin/false", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "i"))
    assert done.returncode == 3
    records = records_of(tmp_path / "r")
    failed = records["regression-linear/compile/ws1"]
    assert failed.status == "failed"
    assert failed.error is not None
    assert "compiler" in (failed.error.hint or "").lower() + failed.error.message.lower()
    assert "Traceback" in (tmp_path / "r" / str(failed.log)).read_text()
    assert "Traceback" not in done.stderr + done.stdout
    assert records[GOOD].status == "ok"


@pytest.mark.slow
def test_out_of_memory_in_python(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    path = suite(BAD_FIRST.replace("micro_batch_size = 1", "micro_batch_size = 1_000_000"))
    assert llmbench("run", path, "--out", tmp_path / "r").returncode == 3
    records = records_of(tmp_path / "r")
    assert records[BAD].status == "oom"
    assert "micro_batch_size=500000" in (records[BAD].error.hint or "")
    assert records[GOOD].status == "ok"
    # What it took, and when, is the first question.
    series = RunFolder(tmp_path / "r").read_series(records[BAD])
    assert series is not None
    assert series.memory is not None
    assert series.loss == []
    assert "build" in series.memory.phases
    assert "Memory of regression-mlp/eager/ws1" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.slow)])
def test_dies_by_signal(
    started: Callable[..., subprocess.Popen[str]], suite: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    process = _provoke(started, suite(BAD_FIRST), tmp_path / "r", lambda pid: os.kill(pid, number))
    assert process.returncode == 3
    records = records_of(tmp_path / "r")
    assert records[BAD].status == "failed"
    assert records[BAD].error.type == number.name
    assert "phase timed" in records[BAD].error.message
    assert records[BAD].error.hint
    assert records[GOOD].status == "ok"


@pytest.mark.slow
def test_hangs_past_its_deadline(
    started: Callable[..., subprocess.Popen[str]], suite: Callable[..., Path], tmp_path: Path
) -> None:
    path = suite(BAD_FIRST.replace("deadline_seconds = 240", "deadline_seconds = 8"))
    process = _provoke(started, path, tmp_path / "r", lambda pid: os.kill(pid, signal.SIGSTOP))
    assert process.returncode == 3
    records = records_of(tmp_path / "r")
    assert records[BAD].status == "timeout"
    assert "8 s" in records[BAD].error.message
    assert records[GOOD].status == "ok"


@pytest.mark.slow
def test_slow_case_tells_where_it_was(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    path = suite(BAD_FIRST.replace("deadline_seconds = 240", "deadline_seconds = 8"))
    assert llmbench("run", path, "--out", tmp_path / "r").returncode == 3
    error = records_of(tmp_path / "r")[BAD].error
    assert error.type == "Timeout"
    assert "last seen at" in error.message  # the innermost frame of the stack that it was asked for


@pytest.mark.slow
def test_server_dies(started: Callable[..., subprocess.Popen[str]], suite: Callable[..., Path], tmp_path: Path) -> None:
    def kill_server(worker: int) -> None:
        os.kill(int(Path(f"/proc/{worker}/stat").read_text().split()[3]), signal.SIGKILL)

    process = _provoke(started, suite(BAD_FIRST), tmp_path / "r", kill_server)
    assert process.returncode == 3
    records = records_of(tmp_path / "r")
    assert records[BAD].error.type == "ServerDied"
    assert records[GOOD].status == "ok"  # by a new server


def test_loss_that_is_not_finite_is_invalid(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    path = suite(
        'workloads = ["regression-linear"]\n'
        "settings = {steps = 20, budget_seconds = 0, learning_rate = 1e30, clip_norm = 0}"
    )
    done = llmbench("run", path, "--out", tmp_path / "r")
    assert done.returncode == 3
    record = records_of(tmp_path / "r")[GOOD]
    assert record.status == "invalid"
    assert record.loss.finite is False
    assert record.throughput is not None  # shown, never dropped
    assert (tmp_path / "r" / "report.html").exists()


@pytest.mark.slow
def test_without_a_compiler_compiled_cases_are_skipped(
    llmbench: Command, suite: Callable[..., Path], tmp_path: Path
) -> None:
    path = suite(
        'workloads = ["regression-linear"]\nmodes = ["eager", "compile"]\n'
        "settings = {steps = 20, threads = 1, budget_seconds = 0}"
    )
    done = llmbench("run", path, "--out", tmp_path / "r", PATH=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stderr
    record = records_of(tmp_path / "r")["regression-linear/compile/ws1"]
    assert record.status == "skipped"
    assert "g++" in (record.error.hint or "")


def _memory_cgroup() -> Path | None:
    """A folder in which this process may make memory cgroups (v1), or None."""
    root = Path("/sys/fs/cgroup/memory")
    return root if os.geteuid() == 0 and os.access(root / "cgroup.procs", os.W_OK) else None


@pytest.mark.slow
@pytest.mark.cgroup
@pytest.mark.skipif(_memory_cgroup() is None, reason="needs root and a memory cgroup of version 1")
def test_killed_by_the_kernel_for_memory(
    environment: dict[str, str], suite: Callable[..., Path], tmp_path: Path
) -> None:
    group = _memory_cgroup() / f"llmbench-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(900 * 2**20))
        # 32 steps of 100 000 × 64 floats: 0.8 GB beside torch.
        text = BAD_FIRST.replace("steps = 500_000, micro_batch_size = 1", "steps = 32, micro_batch_size = 100_000")
        command = [sys.executable, "-m", "llmbench", "run", str(suite(text)), "--out", str(tmp_path / "r")]
        done = subprocess.run(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 3, done.stderr
        records = records_of(tmp_path / "r")
        assert records[BAD].status == "oom"
        assert records[BAD].error.type == "OutOfMemoryKill"
        assert records[GOOD].status == "ok"
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text().strip())
        group.rmdir()


def test_torch_that_cannot_be_imported(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    path = suite('workloads = ["regression-linear"]')
    python = tmp_path / "bare" / "bin" / "python"
    done = llmbench("run", path, "--out", tmp_path / "r", "--python", python, PYTHONPATH=str(Path.cwd()))
    assert done.returncode == 2
    assert "No module named 'torch'" in done.stderr
    assert "doctor" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_trains_with_the_torch_of_another_environment(
    llmbench: Command, suite: Callable[..., Path], tmp_path: Path
) -> None:
    """The other environment has this torch and what it needs, and no llmbench."""
    import torch

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    there = next((tmp_path / "other" / "lib").glob("python*/site-packages"))
    here = Path(torch.__file__).parent.parent
    llmbench_names = ("llmbench", "__editable__")
    for entry in here.iterdir():
        if not entry.name.startswith(llmbench_names) and entry.suffix != ".pth":
            (there / entry.name).symlink_to(entry)
    python = tmp_path / "other" / "bin" / "python"
    probe = subprocess.run([python, "-c", "import llmbench"], capture_output=True, cwd=tmp_path)
    assert probe.returncode != 0, "llmbench must not be there"
    path = suite('workloads = ["regression-linear"]\nsettings = {steps = 20, threads = 1, budget_seconds = 0}')
    done = llmbench("run", path, "--out", tmp_path / "r", "--python", python)
    assert done.returncode == 0, done.stderr
    assert records_of(tmp_path / "r")[GOOD].status == "ok"
    assert str(python) in (tmp_path / "r" / "run.json").read_text()
    assert not shutil.which("llmbench", path=str(python.parent))
