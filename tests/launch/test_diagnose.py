from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmbench.launch.causes import LONGEST_MESSAGE
from llmbench.launch.diagnose import diagnose
from llmbench.launch.target import Outcome, RankState, log_of
from llmbench.results.schema import Error
from llmbench.suite.cases import Case, resolve
from llmbench.suite.load import find

CASE = next(case for case in resolve(find("smoke")) if case.id == "gpt-tiny/eager/ws1")
PARALLEL = next(case for case in resolve(find("modes")) if case.id == "gpt-tiny/ddp/ws2")
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
    smallest = Case(CASE.workload, CASE.mode, 1, CASE.config | {"global_batch_size": 1})
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
    assert error.message == "no end after 300 s, in phase compile after 0 steps; last seen at loop.py:67 in step"
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


# Several processes

TORCH = "/site-packages/torch"
ABORTED = """llmbench: timed
terminate called after throwing an instance of 'gloo::EnforceNotMet'
  what():  [enforce fail at pair.cc:456] 164 vs 4. Is there a distributed collective mismatch in your code?
Fatal Python error: Aborted

"""


def stack(*frames: str) -> str:
    """What faulthandler writes of one thread; a frame is ``FILE:LINE FUNCTION``."""
    lines = []
    for frame in frames:
        place, function = frame.split(" ")
        file, line = place.rsplit(":", 1)
        lines.append(f'  File "{file}", line {line} in {function}')
    return "\n".join(["Current thread 0x00007f0d (most recent call first):", *lines, ""])


COLLECTIVE = stack(
    f"{TORCH}/distributed/distributed_c10d.py:3252 all_reduce",
    f"{TORCH}/distributed/c10d_logger.py:83 wrapper",
    "/mine/model.py:9 forward",
    f"{TORCH}/nn/modules/module.py:1789 _call_impl",
    "/llmbench/worker/loop.py:67 step",
)
FUNCTIONAL = stack(
    f"{TORCH}/_ops.py:1209 __call__",
    f"{TORCH}/distributed/_functional_collectives.py:152 wait_tensor",
    "/llmbench/worker/loop.py:67 step",
)
BACKWARD = stack(f"{TORCH}/autograd/graph.py:979 _engine_run_backward", f"{TORCH}/autograd/__init__.py:395 backward")
HOOK = stack("/mine/hooks.py:3 nap", f"{TORCH}/autograd/graph.py:979 _engine_run_backward")
FORWARD = stack("/mine/model.py:12 forward", f"{TORCH}/nn/modules/module.py:1789 _call_impl")
KERNEL = stack(f"{TORCH}/nn/functional.py:2437 linear", "/mine/model.py:12 forward")
ENDED = stack(
    "/lib/python3.11/multiprocessing/synchronize.py:356 wait", f"{TORCH}/distributed/elastic/api.py:707 _wrap"
)
NONE = ""


def ranks(
    folder: Path, *logs: str, phase: str = "timed", steps: tuple[int, ...] = (4, 4, 4, 4, 4, 4), **ended: Any
) -> Outcome:
    """An outcome of as many ranks as there are logs."""
    log = folder / "log"
    states = {}
    for rank, text in enumerate(logs):
        log_of(log, rank).write_text("of an earlier attempt\n" + text)
        states[rank] = RankState(100 + rank, "node7", phase, steps[rank], len("of an earlier attempt\n"))
    return Outcome(phase=phase, log=log, ranks=states, **ended)


@pytest.mark.parametrize("waiting", [COLLECTIVE, FUNCTIONAL, BACKWARD, ENDED])
@pytest.mark.parametrize("cause", [FORWARD, HOOK, KERNEL, NONE])
def test_who_waits_for_others_is_no_cause_of_a_hang(waiting: str, cause: str, tmp_path: Path) -> None:
    for rank, logs in ((1, (waiting, cause)), (0, (cause, waiting))):
        status, error = found(ranks(tmp_path, *logs, code=-9, timed_out=True), PARALLEL)
        assert (status, error.type) == ("timeout", "Timeout")
        assert (error.rank, error.host) == (rank, "node7")
        assert f"no end after 300 s: rank {rank} of 2 on node7 in phase timed after 4 steps" in error.message


def test_where_all_wait_the_cause_is_who_came_least_far(tmp_path: Path) -> None:
    outcome = ranks(tmp_path, COLLECTIVE, COLLECTIVE, code=-9, timed_out=True, steps=(7, 6))
    assert found(outcome, PARALLEL)[1].rank == 1
    outcome.ranks[0].phase, outcome.ranks[1].phase = "compile", "warmup"
    assert found(outcome, PARALLEL)[1].rank == 0


def test_a_hang_tells_where_each_rank_was(tmp_path: Path) -> None:
    _, error = found(ranks(tmp_path, BACKWARD, NONE, FORWARD, code=-9, timed_out=True), PARALLEL)
    assert error.message == (
        "no end after 300 s: rank 1 of 2 on node7 in phase timed after 4 steps, it left no stack; "
        "rank 0 in phase timed after 4 steps, last seen at graph.py:979 in _engine_run_backward; "
        "rank 2 in phase timed after 4 steps, last seen at model.py:12 in forward"
    )


def test_a_hang_of_many_ranks_names_some(tmp_path: Path) -> None:
    _, error = found(ranks(tmp_path, *[COLLECTIVE] * 5, FORWARD, code=-9, timed_out=True), PARALLEL)
    assert error.rank == 5
    assert error.message.endswith("; and 2 more")
    assert "rank 2 in phase" in error.message
    assert "rank 3 in phase" not in error.message


def test_a_place_inside_torch_is_told_with_who_called(tmp_path: Path) -> None:
    _, error = found(ranks(tmp_path, COLLECTIVE, COLLECTIVE, code=-9, timed_out=True), PARALLEL)
    assert "last seen at distributed_c10d.py:3252 in all_reduce, called at model.py:9 in forward" in error.message


def test_the_death_of_one_rank(tmp_path: Path) -> None:
    result = {"error": {"signal": 11, "rank": 1, "host": "node7"}}
    status, error = found(ranks(tmp_path, NONE, FORWARD, result=result, code=1), PARALLEL)
    assert (status, error.type, error.rank, error.host) == ("failed", "SIGSEGV", 1, "node7")
    assert error.message.startswith("rank 1 of 2 on node7: killed by SIGSEGV in phase timed")
    assert "last seen at model.py:12 in forward" in error.message


def test_a_kill_of_one_rank_by_the_kernel_for_memory(tmp_path: Path) -> None:
    result = {"error": {"signal": 9, "rank": 1, "host": "node7"}}
    status, error = found(ranks(tmp_path, NONE, NONE, result=result, code=1, oom_killed=True), PARALLEL)
    assert (status, error.type, error.rank) == ("oom", "OutOfMemoryKill", 1)
    assert "micro_batch_size=4" in str(error.hint)


def test_a_batch_that_every_rank_has_is_halved_for_each(tmp_path: Path) -> None:
    weak = Case(PARALLEL.workload, PARALLEL.mode, 2, PARALLEL.config | {"scaling": "weak", "global_batch_size": 16})
    result = {"error": {"signal": 9, "rank": 1, "host": "node7"}}
    _, error = found(ranks(tmp_path, NONE, NONE, result=result, code=1, oom_killed=True), weak)
    assert "micro_batch_size=4," in str(error.hint)


def test_what_a_native_library_said_before_it_gave_up(tmp_path: Path) -> None:
    result = {"error": {"signal": 6, "rank": 0, "host": "node7"}}
    _, error = found(ranks(tmp_path, ABORTED + COLLECTIVE, NONE, result=result, code=1), PARALLEL)
    assert error.type == "SIGABRT"
    assert "killed by SIGABRT in phase timed: [enforce fail at pair.cc:456] 164 vs 4." in error.message
    assert "called at model.py:9 in forward" in error.message
    assert "same collectives" in str(error.hint)


def test_an_exit_of_one_rank(tmp_path: Path) -> None:
    result = {"error": {"exit": 3, "rank": 1, "host": "node7"}}
    status, error = found(ranks(tmp_path, NONE, NONE, result=result, code=1), PARALLEL)
    assert (status, error.type, error.rank) == ("failed", "Exit", 1)
    assert error.message == "rank 1 of 2 on node7: left with exit code 3 in phase timed, without a result"


def test_an_exception_of_one_rank(tmp_path: Path) -> None:
    raised_there = raised("ValueError", "torn", where="data.py:3 in read").result
    assert raised_there is not None
    result = {"error": raised_there["error"] | {"rank": 1, "host": "node7", "at": 7.0}}
    status, error = found(ranks(tmp_path, NONE, NONE, result=result, code=1), PARALLEL)
    assert (status, error.type, error.rank, error.host) == ("failed", "ValueError", 1, "node7")
    assert error.message == "rank 1 of 2 on node7: torn (data.py:3 in read)"


def test_the_death_of_the_launcher_is_no_death_of_a_rank(tmp_path: Path) -> None:
    status, error = found(ranks(tmp_path, NONE, NONE, code=-9), PARALLEL)
    assert (status, error.type, error.rank) == ("failed", "SIGKILL", None)
    assert error.message.startswith("the launcher of the 2 ranks was killed by SIGKILL in phase timed")


def test_a_parallel_mode_in_one_process_names_no_rank(tmp_path: Path) -> None:
    alone = Case(PARALLEL.workload, PARALLEL.mode, 1, PARALLEL.config)
    result = {"error": {"signal": 11, "rank": 0, "host": "node7"}}
    _, error = found(ranks(tmp_path, FORWARD, result=result, code=1), alone)
    assert error.message.startswith("killed by SIGSEGV in phase timed")
    assert error.rank is None
    _, error = found(ranks(tmp_path, FORWARD, code=-9, timed_out=True), alone)
    assert error.message == "no end after 300 s, in phase timed after 0 steps; last seen at model.py:12 in forward"
