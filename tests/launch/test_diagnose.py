from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmbench.launch.diagnose import LONGEST_MESSAGE, diagnose
from llmbench.launch.target import Outcome
from llmbench.results.schema import Error
from llmbench.suite.cases import Case, resolve
from llmbench.suite.load import find

CASE = next(case for case in resolve(find("smoke")) if case.id == "gpt-tiny/eager/ws1")
DEADLINE = 300.0

# As faulthandler writes them: of a signal that was asked for, and of a crash.
HANG = """llmbench: compile
Thread 0x00007f0c (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 331 in wait

Current thread 0x00007f0d (most recent call first):
  File "/somewhere/llmbench/worker/loop.py", line 67 in step
  File "/somewhere/llmbench/worker/case.py", line 60 in run_case
"""


def found(outcome: Outcome, case: Case = CASE) -> tuple[str, Error]:
    verdict = diagnose(case, outcome, DEADLINE)
    assert verdict is not None
    status, error = verdict
    assert error.message
    assert error.hint
    return status, error


def raised(kind: str, message: str, *, where: str | None = None, out_of_memory: bool = False) -> Outcome:
    error = {"type": kind, "message": message, "where": where, "out_of_memory": out_of_memory}
    return Outcome(result={"error": error}, code=1, phase="compile")


def test_a_case_that_ended_well_has_no_error() -> None:
    assert diagnose(CASE, Outcome(result={"losses": []}, code=0, phase="evaluate"), DEADLINE) is None


def test_what_the_machine_lacks_is_skipped_with_the_cure() -> None:
    outcome = Outcome(result={"unavailable": "no C++ compiler on PATH: apt-get install g++, or: set CXX"}, code=0)
    status, error = found(outcome)
    assert status == "skipped"
    assert (error.message, error.hint) == ("no C++ compiler on PATH", "apt-get install g++, or: set CXX")


def test_an_exception() -> None:
    status, error = found(raised("ValueError", "the shape is wrong\nlonger story", where="gpt.py:88 in forward"))
    assert status == "failed"
    assert error.type == "ValueError"
    assert error.message == "the shape is wrong (gpt.py:88 in forward)"
    assert "log" in str(error.hint)


@pytest.mark.parametrize(
    ("kind", "message", "advised"),
    [
        ("InvalidCxxCompiler", "no working C++ compiler", "$CXX"),
        ("InductorError", "CppCompileError: C++ compile error", "$CXX"),
        ("OSError", "[Errno 28] No space left on device: '/tmp/x'", "free the disk"),
        ("PermissionError", "[Errno 13] Permission denied: '/tmp/x'", "TORCHINDUCTOR_CACHE_DIR"),
        ("OSError", "[Errno 30] Read-only file system: '/tmp/x'", "TORCHINDUCTOR_CACHE_DIR"),
        ("RuntimeError", "The NVIDIA driver: CUDA driver version is insufficient for", "llmbench doctor"),
        ("RuntimeError", "CUDA error: no kernel image is available", "llmbench doctor"),
        ("RuntimeError", "CUDA was asked for, but torch.cuda.is_available() is False", "--device cpu"),
    ],
)
def test_a_known_exception_gets_its_own_advice(kind: str, message: str, advised: str) -> None:
    status, error = found(raised(kind, message))
    assert status == "failed"
    assert advised in str(error.hint)


def test_out_of_memory_by_torch() -> None:
    status, error = found(raised("OutOfMemoryError", "CUDA out of memory. Tried to allocate", out_of_memory=True))
    assert (status, error.type) == ("oom", "OutOfMemoryError")
    assert error.hint == "--set micro_batch_size=4, a smaller size, or more memory"


def test_a_batch_of_one_cannot_be_halved() -> None:
    smallest = Case(CASE.workload, CASE.mode, 1, CASE.config | {"micro_batch_size": 1})
    _, error = found(raised("OutOfMemoryError", "CUDA out of memory", out_of_memory=True), smallest)
    assert error.hint == "a smaller size, or more memory"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("", "no message"),
        ("\n \n\t", "no message"),
        ("\x1b\x07\n\x00", "no message"),
        ("\n\n  second line  \nthird", "second line"),
        ("\x1b[31mred\x1b[0m\a", "[31mred [0m"),
        ("\u202eevil", "evil"),
        ("x" * 10**6, "x" * LONGEST_MESSAGE + "…"),
        ("x" * LONGEST_MESSAGE, "x" * LONGEST_MESSAGE),
        ("<script>[bold]&", "<script>[bold]&"),
        ("ä 日本", "ä 日本"),
    ],
)
def test_any_message_becomes_a_line_that_can_be_shown(message: str, shown: str) -> None:
    for out_of_memory in (False, True):
        _, error = found(raised("RuntimeError", message, out_of_memory=out_of_memory))
        assert error.message == shown


def test_a_hang_is_told_with_its_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(HANG)
    status, error = found(Outcome(code=-9, timed_out=True, phase="compile", log=log))
    assert (status, error.type) == ("timeout", "Timeout")
    assert error.message == "no end after 300 s, in phase compile; last seen at loop.py:67 in step"
    assert "--set deadline_seconds=600" in str(error.hint)


@pytest.mark.parametrize("text", [None, "", "llmbench: compile\n", "\xff"])
def test_a_hang_without_a_stack(text: str | None, tmp_path: Path) -> None:
    log = tmp_path / "log"
    if text is not None:
        log.write_bytes(text.encode("latin-1"))
    _, error = found(Outcome(code=-9, timed_out=True, phase="compile", log=log))
    assert error.message.endswith("it left no stack")


def test_the_death_of_the_server() -> None:
    status, error = found(Outcome(code=None, phase="timed"))
    assert (status, error.type) == ("failed", "ServerDied")
    assert "phase timed" in error.message
    assert "--resume" in str(error.hint)


def test_a_kill_by_the_kernel_for_memory() -> None:
    status, error = found(Outcome(code=-9, phase="build", oom_killed=True))
    assert (status, error.type) == ("oom", "OutOfMemoryKill")
    assert "phase build" in error.message
    assert "micro_batch_size=4" in str(error.hint)


@pytest.mark.parametrize(
    ("code", "name", "advised"),
    [
        (-9, "SIGKILL", "dmesg"),
        (-11, "SIGSEGV", "llmbench doctor"),
        (-4, "SIGILL", "instructions"),
        (-7, "SIGBUS", "/dev/shm"),
        (-6, "SIGABRT", "log"),
        (-200, "signal 200", "log"),
    ],
)
def test_a_death_by_a_signal(code: int, name: str, advised: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(HANG)
    status, error = found(Outcome(code=code, phase="warmup", log=log))
    assert (status, error.type) == ("failed", name)
    assert f"killed by {name} in phase warmup" in error.message
    assert "loop.py:67 in step" in error.message
    assert advised in str(error.hint)


def test_a_crash_that_also_took_memory_is_no_kill_for_memory() -> None:
    assert found(Outcome(code=-11, oom_killed=True))[0] == "failed"


def test_an_exit_without_a_result() -> None:
    for code in (0, 3):
        status, error = found(Outcome(code=code, phase="timed"))
        assert (status, error.type) == ("failed", "Exit")
        assert f"exit code {code} in phase timed" in error.message


def test_what_the_job_itself_said_comes_before_how_it_ended() -> None:
    outcome = raised("RuntimeError", "boom")
    outcome.timed_out, outcome.code = True, -9
    assert found(outcome)[1].type == "RuntimeError"


def test_a_result_is_worth_nothing_if_the_process_crashed_after_it() -> None:
    result: dict[str, Any] = {"losses": [1.0]}
    assert found(Outcome(result=result, code=-11, phase="evaluate"))[1].type == "SIGSEGV"
    assert found(Outcome(result=result, code=-9, timed_out=True, phase="evaluate"))[0] == "timeout"
