"""Whoever ends ``llmbench ab`` loses no session that is done, and leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

from llmbench.cli.interrupts import exit_code, interruptible, terminable
from tests.conftest import wait_for

from .conftest import QuickAb

both = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
MIDDLE = 13  # a step within the turns: the warm-up has ten


def raise_in_main_thread(number: signal.Signals) -> None:
    signal.pthread_kill(threading.main_thread().ident, number)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> object:
    """What a shell starts in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@both
def test_work_that_is_interrupted_ends_and_its_code_is_told(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    done = []
    with interruptible() as ending:
        done.append("before")
        raise_in_main_thread(number)
        done.append("after")
    assert (ending.code, done) == (code, ["before"])
    assert signal.getsignal(signal.SIGTERM) is before


@both
def test_what_is_not_to_go_on_is_interrupted_alike(number: signal.Signals, code: int) -> None:
    with pytest.raises(KeyboardInterrupt) as reason, terminable():
        raise_in_main_thread(number)
    assert exit_code(reason.value) == code


def test_work_that_nobody_interrupts() -> None:
    with interruptible() as ending:
        pass
    assert ending.code == 0


def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """What it said after the signal."""
    os.kill(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    return stdout, stderr


@both
def test_while_torch_is_imported_nothing_is_left(quick_ab: QuickAb, number: signal.Signals, code: int) -> None:
    process = quick_ab.started(at_import="wait")
    quick_ab.reached("import")
    stdout, stderr = ended(process, number)
    assert process.returncode == code
    assert (stdout, stderr.splitlines()[-1]) == ("", "llmbench: interrupted")
    assert not quick_ab.out.exists()
    wait_for(lambda: not quick_ab.processes())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_in_a_session_what_is_done_is_kept_and_gone_on_with(
    quick_ab: QuickAb, number: signal.Signals, code: int
) -> None:
    """The session in flight leaves no line."""
    assert quick_ab("ab", "-w", "regression-linear", "-m", "eager", "--device", "cpu", "--rounds", "4", "--self",
                    "--out", quick_ab.out, "--budget", "1").returncode == 0  # fmt: skip
    done = len(quick_ab.sessions())
    before = (quick_ab.out / "sessions.jsonl").read_bytes()
    process = quick_ab.started("ab", "--resume", quick_ab.out, "--budget", "60", cand={"at": MIDDLE, "does": "wait"})
    quick_ab.reached("cand")
    stdout, _ = ended(process, number)
    assert process.returncode == code
    assert quick_ab.ab().status == "interrupted"
    assert (quick_ab.out / "sessions.jsonl").read_bytes() == before
    assert f"report: {quick_ab.out / 'report.html'}" in stdout
    wait_for(lambda: not quick_ab.processes())

    finished = quick_ab("ab", "--resume", quick_ab.out, "--budget", "60")
    assert finished.returncode == 0, finished.stderr
    sessions = [session.session for session in quick_ab.sessions()]
    assert sessions == list(range(len(sessions)))
    assert len(sessions) > done
    assert quick_ab.ab().status == "done"
    assert quick_ab.ab().resumed == 2


@both
def test_a_second_interrupt_does_not_undo_the_first(quick_ab: QuickAb, number: signal.Signals, code: int) -> None:
    """Who is impatient sends two; whichever comes in time, no process is left."""
    process = quick_ab.started(cand={"at": MIDDLE, "does": "wait"})
    quick_ab.reached("cand")
    os.kill(process.pid, number)
    _, stderr = ended(process, number)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert quick_ab.sessions() == []


@pytest.mark.parametrize("at", ["import", pytest.param("build", marks=pytest.mark.slow), MIDDLE])
def test_kill_9_leaves_no_process(quick_ab: QuickAb, at: str | int) -> None:
    """One of its processes is stopped, so that it can do nothing about it."""
    told = {} if at == "import" else {"cand": {"at": at, "does": "wait"}}
    process = quick_ab.started(at_import="wait" if at == "import" else None, **told)
    waiting = psutil.Process(quick_ab.reached("import" if at == "import" else "cand"))
    family = psutil.Process(process.pid).children(recursive=True)
    assert waiting in family
    sockets = sockets_of(process.pid)
    waiting.suspend()
    process.kill()
    process.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []
    wait_for(lambda: not quick_ab.processes())
    if at == MIDDLE:  # the socket is gone as soon as both sides have come
        assert sockets
        assert not any(Path(path).parent.exists() for path in sockets)
    if at == "import":
        return
    assert quick_ab.sessions() == []
    assert quick_ab.ab().status == "running"
    finished = quick_ab("ab", "--resume", quick_ab.out, "--budget", "1")  # nothing of it keeps others away
    assert finished.returncode == 0, finished.stderr
    assert quick_ab.ab().status == "done"


def sockets_of(process: int) -> list[str]:
    """The paths of the Unix sockets that a process listens on."""
    folder = tempfile.gettempdir()
    return [one.laddr for one in psutil.Process(process).net_connections("unix") if str(one.laddr).startswith(folder)]
