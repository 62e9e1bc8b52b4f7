"""Whatever happens to a side of a comparison: it is named with its cause, the other is not, and no process is left.

The processes are real, and so are their ends; only torch is not (``quick_torch``), so that they are there at once.
``compare`` looks after each test whether a process of it lives on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from llmbench.errors import UserError
from llmbench.launch import pair, target
from llmbench.results.ab import SIDES, AbSession, SideName
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.ab import BASE_FAILED
from tests.conftest import wait_for

from .conftest import QUICK, Compare

OTHER: dict[SideName, SideName] = {"base": "cand", "cand": "base"}
EXIT = {"base": BASE_FAILED, "cand": 1}
MIDDLE = 13  # a step within the turns: the warm-up has ten
DEADLINE = 3
SOON = QUICK.replace("deadline_seconds = 100", f"deadline_seconds = {DEADLINE}")

slow = pytest.mark.slow
both_sides = pytest.mark.parametrize("side", SIDES)
sides = pytest.mark.parametrize("side", [pytest.param("base", marks=slow), "cand"])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "STACK_SECONDS", 0.3)


def blamed(compare: Compare, side: SideName, session: AbSession) -> str:
    """What is said of the side; the other is not blamed, and the verdict says the same."""
    assert session.of(OTHER[side]).error is None
    assert session.of(OTHER[side]).status == "aborted"
    error = session.of(side).error
    assert error is not None
    assert error.hint
    found = compare.found()
    assert found.exit_code == EXIT[side]
    (row,) = found.rows
    assert row.outcome == {"base": "no base", "cand": "broken"}[side]
    assert row.reason == f"{side.upper()} {session.of(side).status} in 1 of 1 sessions: {error.message}"
    assert found.ab.status == "done"
    return error.message


def interfered(compare: Compare, who: str, number: signal.Signals, whom: str | None = None) -> AbSession:
    """A session in which a process gets a signal when ``who`` is where it waits."""
    runner = compare.start()
    with compare.running(runner.execute) as running:
        waits = compare.reached(who)
        os.kill(waits if whom is None else compare.pid(whom), number)
        if whom is not None:
            psutil.Process(waits)  # it lives, and has the token: now it may pass it on
            compare.go(who)
        running.result(timeout=60)
    (session,) = compare.sessions()
    return session


@both_sides
@pytest.mark.parametrize(
    ("at", "phase"),
    [
        pytest.param("build", "build", marks=slow),
        pytest.param(3, "warmup", marks=slow),
        (MIDDLE, "timed"),
        ("losses", "timed"),
    ],
)
def test_kill_9(compare: Compare, side: SideName, at: str | int, phase: str) -> None:
    compare.plan(**{side: {"at": at, "does": "kill"}})
    session = compare.one_session()
    if at == "losses":  # after its last turn: the other had all of its own, too
        assert session.of(OTHER[side]).status == "ok"
        assert compare.found().exit_code == EXIT[side]
        assert session.of(side).error.message.startswith("killed by SIGKILL in phase timed")
        return
    assert blamed(compare, side, session).startswith(f"killed by SIGKILL in phase {phase}, not by llmbench")


@both_sides
def test_kill_9_while_it_waits_for_the_token(compare: Compare, side: SideName) -> None:
    compare.plan(**{OTHER[side]: {"at": MIDDLE, "does": "wait"}})
    session = interfered(compare, OTHER[side], signal.SIGKILL, whom=side)
    assert blamed(compare, side, session).startswith("killed by SIGKILL in phase timed")


@sides
def test_kill_9_while_the_other_warms_up(compare: Compare, side: SideName) -> None:
    compare.plan(**{OTHER[side]: {"at": 9, "does": "wait"}})
    runner = compare.start()
    with compare.running(runner.execute) as running:
        compare.reached(OTHER[side])
        log = compare.out / "logs" / f"regression-linear__eager__ws1.{side}.log"
        wait_for(lambda: log.exists() and "timed" in log.read_text())  # it is warm, and waits
        os.kill(compare.pid(side), signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(compare.pid(side)))
        compare.go(OTHER[side])
        running.result(timeout=60)
    (session,) = compare.sessions()
    assert blamed(compare, side, session).startswith("killed by SIGKILL in phase timed")


@sides
def test_kill_9_of_its_server(compare: Compare, side: SideName) -> None:
    """The process that forks the one that trains."""
    compare.plan(**{side: {"at": MIDDLE, "does": "wait"}})
    runner = compare.start()
    with compare.running(runner.execute) as running:
        os.kill(psutil.Process(compare.reached(side)).ppid(), signal.SIGKILL)
        running.result(timeout=60)
    (session,) = compare.sessions()
    assert "the server process that forks the cases died in phase timed" in blamed(compare, side, session)


def test_kill_9_of_a_server_while_torch_is_imported(compare: Compare) -> None:
    """It could be imported when the comparison began: a new server is given the chance to show that it still can."""
    runner = compare.start(budget_seconds=0.001)
    compare.at_import("wait")
    with compare.running(runner.execute) as running:
        os.kill(compare.reached("import"), signal.SIGKILL)
        (compare.folder / "import.go").touch()
        running.result(timeout=60)
    (session,) = compare.sessions()
    assert session.whole


def test_a_torch_that_can_no_longer_be_imported(compare: Compare) -> None:
    """As when somebody upgrades it meanwhile: a failure of this session, and other cases may go on."""
    runner = compare.start(budget_seconds=0.001)
    torch = compare.folder / "torch.py"
    torch.write_text("raise ImportError('undefined symbol')")
    sides = {"cand": compare.side("cand").model_copy(update={"paths": [str(compare.folder)]})}
    runner.ab = runner.ab.model_copy(update=sides)
    runner.execute()
    (session,) = compare.sessions()
    assert "cannot import torch: ImportError: undefined symbol" in blamed(compare, "cand", session)


def test_each_session_has_processes_of_its_own(compare: Compare) -> None:
    pids = {side: [] for side in SIDES}
    runner = compare.start()
    append = runner.folder.append

    def appended(session: AbSession) -> None:
        append(session)
        for side in SIDES:
            pids[side].append(compare.pid(side))
            assert not psutil.pid_exists(pids[side][-1])

    runner.folder.append = appended
    runner.execute()
    assert [len(set(pids[side])) for side in SIDES] == [3, 3]


@both_sides
def test_a_stopped_side_is_ended_by_its_deadline(compare: Compare, side: SideName) -> None:
    """The other has waited all that time, and is not blamed for it."""
    compare.suite = SOON
    compare.plan(**{side: {"at": MIDDLE, "does": "wait"}})
    session = interfered(compare, side, signal.SIGSTOP)
    assert session.of(side).status == "timeout"
    message = blamed(compare, side, session)
    assert message.startswith(f"no end after {DEADLINE} s, in phase timed after {MIDDLE} steps")
    assert session.seconds < DEADLINE + 15


@slow
@sides
def test_a_side_stopped_while_it_waits(compare: Compare, side: SideName) -> None:
    compare.suite = SOON
    compare.plan(**{OTHER[side]: {"at": MIDDLE, "does": "wait"}})
    session = interfered(compare, OTHER[side], signal.SIGSTOP, whom=side)
    assert session.of(side).status == "timeout"
    assert blamed(compare, side, session).startswith(f"no end after {DEADLINE} s, in phase timed")


@sides
@pytest.mark.parametrize(
    "at", [pytest.param("build", marks=slow), pytest.param(4, marks=slow), MIDDLE, pytest.param("losses", marks=slow)]
)
def test_a_side_that_hangs_says_where(compare: Compare, side: SideName, at: str | int) -> None:
    compare.suite = SOON
    compare.plan(**{side: {"at": at, "does": "hang"}})
    session = compare.one_session()
    assert session.of(side).status == "timeout"
    assert session.seconds < DEADLINE + 15
    if at == "losses":
        assert session.of(OTHER[side]).status == "ok"
        message = session.of(side).error.message
    else:
        message = blamed(compare, side, session)
    assert message.startswith(f"no end after {DEADLINE} s, in phase ")
    assert "last seen at torch.py:" in message
    assert "in hang" in message
    log = (compare.out / session.of(side).log).read_text()
    assert "most recent call first" in log


def test_a_stopped_server_is_ended_too(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells that its child has ended; and the next case needs one that does."""
    monkeypatch.setattr(target, "KILLED_SECONDS", 0.3)
    compare.suite = SOON.replace('"regression-linear"', '"regression-linear", "regression-mlp"')
    compare.plan(base={"at": MIDDLE, "does": "wait"})
    runner = compare.start(budget_seconds=0.001)
    append = runner.folder.append

    def appended(session: AbSession) -> None:
        append(session)
        compare.go("base")

    runner.folder.append = appended
    with compare.running(runner.execute) as running:
        os.kill(psutil.Process(compare.reached("base")).ppid(), signal.SIGSTOP)
        running.result(timeout=60)
    hung, later = compare.sessions()
    assert (hung.base.status, hung.cand.status) == ("timeout", "aborted")
    assert "no end after" in hung.base.error.message
    assert later.whole


@slow
def test_waiting_for_the_other_is_not_held_against_the_deadline(compare: Compare) -> None:
    """Both together take longer than one may alone."""
    compare.suite = QUICK.replace("deadline_seconds = 100", "deadline_seconds = 3")
    compare.plan(base={"at": MIDDLE, "does": "wait"}, cand={"at": "losses", "does": "wait"})
    runner = compare.start(budget_seconds=0.001)
    with compare.running(runner.execute) as running:
        for side in SIDES:
            compare.reached(side)
            time.sleep(2)
            compare.go(side)
        running.result(timeout=60)
    (session,) = compare.sessions()
    assert session.whole
    assert session.seconds > 4


@sides
@pytest.mark.parametrize("at", [pytest.param("build", marks=slow), 0, 40, pytest.param("losses", marks=slow)])
def test_a_side_that_raises(compare: Compare, side: SideName, at: str | int) -> None:
    compare.plan(**{side: {"at": at, "does": "raise"}})
    session = compare.one_session()
    error = session.of(side).error
    assert (session.of(side).status, error.type) == ("failed", "ValueError")
    assert error.message.startswith("the sample is torn (torch.py:")
    assert "Traceback" in (compare.out / session.of(side).log).read_text()
    if at != "losses":
        blamed(compare, side, session)


@sides
def test_a_side_that_leaves_without_a_word(compare: Compare, side: SideName) -> None:
    compare.plan(**{side: {"at": MIDDLE, "does": "leave"}})
    message = blamed(compare, side, compare.one_session())
    assert message == "left with exit code 3 in phase timed, without a result"


@pytest.mark.parametrize("does", ["raise", pytest.param("kill", marks=slow), pytest.param("leave", marks=slow)])
@pytest.mark.parametrize("at", ["build", pytest.param(4, marks=slow), MIDDLE])
def test_both_broken_alike_is_no_regression(compare: Compare, at: str | int, does: str) -> None:
    """Whichever was first: with a base that cannot be run nobody can tell what the candidate broke."""
    compare.plan(base={"at": at, "does": does}, cand={"at": at, "does": does})
    session = compare.one_session()
    assert session.base.error is not None
    assert session.base.error == session.cand.error
    found = compare.found()
    assert [row.outcome for row in found.rows] == ["no base"]
    assert found.exit_code == BASE_FAILED


@slow
def test_both_hang_alike(compare: Compare) -> None:
    compare.suite = SOON
    compare.plan(base={"at": MIDDLE, "does": "hang"}, cand={"at": MIDDLE, "does": "hang"})
    session = compare.one_session()
    assert session.base.status == session.cand.status == "timeout"
    assert compare.found().exit_code == BASE_FAILED
    assert session.seconds < 2 * DEADLINE + 15


def test_a_failure_ends_its_case_only(compare: Compare) -> None:
    """Nor is it tried again until it passes."""
    compare.suite = QUICK.replace('"regression-linear"', '"regression-linear", "regression-mlp"')
    compare.plan(cand={"at": MIDDLE, "does": "raise"})
    found = compare()
    assert [len(case.sessions) for case in found.cases] == [1, 1]
    runner = compare.resume()
    runner.execute()
    assert [case.outcome for case in compare.found().cases] == ["broken", "broken"]
    assert len(compare.sessions()) == 2


def test_out_of_memory_beside_each_other_means_one_after_the_other(compare: Compare) -> None:
    does = {"at": "build", "does": "out of memory beside another"}
    compare.plan(base=does, cand=does)
    found = compare()
    first, *later = compare.sessions()
    assert first.design == "lockstep"
    assert [first.of(side).status for side in SIDES].count("oom") == 1
    assert "allocation of 7 GB failed" in next(filter(None, (first.of(side).error for side in SIDES))).message
    assert {session.design for session in later} == {"apart"}
    assert len(later) == 3
    assert all(session.whole for session in later)
    assert found.cases[0].design == "apart"
    assert found.exit_code == 0
    assert {row.sessions for row in found.rows} == {len(later)}  # the first is of another design
    for session in later:
        (one,) = session.rounds
        assert len(one.base.steps) == len(one.cand.steps)


@slow
def test_what_was_begun_apart_is_resumed_apart(compare: Compare) -> None:
    runner = compare.start(always_apart=True, budget_seconds=0.001)
    runner.execute()
    compare.resume(budget=60.0).execute()
    assert {session.design for session in compare.sessions()} == {"apart"}
    assert len(compare.sessions()) == 3


@sides
def test_out_of_memory_apart_is_the_verdict(compare: Compare, side: SideName) -> None:
    compare.plan(**{side: {"at": 4, "does": "out of memory"}})
    found = compare()
    lockstep, alone = compare.sessions()
    assert (lockstep.design, alone.design) == ("lockstep", "apart")
    assert alone.of(side).status == "oom"
    assert found.exit_code == EXIT[side]
    assert "allocation of 7 GB failed" in found.rows[0].reason


def test_out_of_memory_in_the_last_session_that_there_was_time_for(compare: Compare) -> None:
    compare.plan(cand={"at": 4, "does": "out of memory"})
    compare.one_session()
    found = compare.found()
    assert found.exit_code == 0  # it may only not fit beside the base: nothing is known of it
    assert {row.outcome for row in found.rows} == {"inconclusive"}


def bare(folder: Path, body: str) -> str:
    """The path of a folder with such a torch."""
    folder.mkdir()
    (folder / "torch.py").write_text(body)
    return str(folder)


@sides
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "ImportError: libgomp.so.1"),
        ("__version__ = '2.3.1+cpu'", "has torch 2.3.1+cpu; training needs 2.6 or newer"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import sys; print('no such driver', file=sys.stderr); sys.exit(4)", "SystemExit: 4"),
    ],
)
def test_an_environment_whose_torch_is_not_fit(
    compare: Compare, side: SideName, body: str, why: str, tmp_path: Path
) -> None:
    compare.paths[side] = [bare(tmp_path / "broken", body)]
    with pytest.raises(UserError) as error:
        compare.start()
    assert error.value.message.startswith(f"{side}: {sys.executable}")
    assert why in error.value.message
    assert not compare.out.exists()


@sides
def test_a_python_that_is_not_there(compare: Compare, side: SideName, tmp_path: Path) -> None:
    compare.python[side] = str(tmp_path / "venv" / "bin" / "python")
    with pytest.raises(UserError) as error:
        compare.start()
    assert error.value.message.startswith(f"{side}: ")
    assert compare.python[side] in error.value.message
    assert not compare.out.exists()


def test_a_working_folder_that_is_not_there(compare: Compare, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with pytest.raises(UserError) as error:
        compare.start(cand=compare.side("cand").model_copy(update={"folder": gone}))
    assert error.value.message == f"cand: {gone}: No such file or directory"


@pytest.mark.parametrize("at", [pytest.param("build", marks=slow), MIDDLE])
def test_an_interrupt_leaves_neither_process_nor_session(compare: Compare, at: str | int) -> None:
    compare.plan(cand={"at": at, "does": "wait"})
    runner = compare.start()
    with in_main_thread(signal.SIGINT, lambda: compare.reached("cand")), pytest.raises(KeyboardInterrupt):
        runner.execute()
    assert compare.sessions() == []
    assert AbFolder(compare.out).read().status == "interrupted"
    compare.plan()
    compare.resume().execute()  # nobody holds it any more
    assert [session.session for session in compare.sessions()] == [0, 1, 2]


@contextmanager
def in_main_thread(number: signal.Signals, when: Callable[[], object]) -> Iterator[None]:
    """Interrupts this thread, as Ctrl-C does, as soon as something is so."""

    def interrupt() -> None:
        when()
        signal.pthread_kill(threading.main_thread().ident, number)

    before = signal.signal(number, signal.default_int_handler)
    watch = threading.Thread(target=interrupt)
    watch.start()
    try:
        yield
    finally:
        watch.join()
        signal.signal(number, before)


def test_a_full_disk_loses_nothing(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of this process on the size of a file makes the kernel refuse as a full disk does."""
    import resource

    runner = compare.start(budget_seconds=0.001)
    runner.execute()
    before = (compare.out / "sessions.jsonl").read_bytes()
    runner = compare.resume(budget=60.0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(UserError) as error:
            runner.execute()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert error.value.message == f"cannot write to {compare.out}: File too large"
    assert "--resume" in error.value.hint
    written = (compare.out / "sessions.jsonl").read_bytes()
    assert written.startswith(before)
    assert len(written) == len(before) + 100  # half a session
    assert [session.session for session in compare.sessions()] == [0]
    compare.resume(budget=60.0).execute()
    assert [session.session for session in compare.sessions()] == [0, 1, 2]
    assert compare.found().exit_code == 0
    assert (compare.out / "sessions.jsonl").read_bytes().startswith(written + b"\n")


def test_a_job_that_its_server_no_longer_takes(compare: Compare) -> None:
    """The pipe to it is closed: it may be about to die."""
    monkey = f"import os; os.close(0); exec(open({str(compare.paths['cand'][0] + '/torch.py')!r}).read())"
    runner = compare.start()
    folder = bare(compare.folder / "deaf", monkey + "\nimport time\ntime.sleep(1)")
    sides = runner.ab.model_copy(update={"cand": compare.side("cand").model_copy(update={"paths": [folder]})})
    runner.ab = sides
    runner.execute()
    (session,) = compare.sessions()
    assert blamed(compare, "cand", session)


def test_left_late(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """A side that has had its last turn, and stays for longer than it needs to tell what it found."""
    monkeypatch.setattr(pair, "LEAVE_SECONDS", 0.5)
    compare.plan(cand={"at": "losses", "does": "hang"})
    session = compare.one_session()
    assert session.base.status == "ok"
    assert session.cand.status == "timeout"
    assert session.cand.error.message == "did not end within 0 s of its last turn"
    assert len(session.rounds) == 6
    assert compare.found().exit_code == 1


def test_the_plan_reaches_the_processes(compare: Compare) -> None:
    """Else no test here would test anything."""
    compare.plan(base={"slowdown": 2.0})
    assert json.loads(os.environ["QUICK_TORCH"])["base"] == {"slowdown": 2.0}
    assert compare.one_session().whole
