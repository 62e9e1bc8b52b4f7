"""Order, needs, roots, selection and endings of the checks, with checks made for the purpose."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbench.doctor import runner
from llmbench.doctor.checks import AREAS, all_checks, registry
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.process import Outcome
from llmbench.doctor.runner import Context, diagnose
from llmbench.errors import UserError

from .conftest import findings, verdicts
from .made import failed, made, warned


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *given: monkeypatch.setattr(runner, "all_checks", lambda: list(given))


def evidences(diagnosis: Any) -> dict[str, str]:
    return {answer.check.id: answer.findings[0].evidence for answer in diagnosis.answers}


# --- Needs and roots


def test_what_needs_a_failure_is_skipped_and_blames_its_root(checks: Any) -> None:
    asked = []

    def ask(context: Context) -> Iterator[Finding]:
        asked.append("leaf")
        yield passed("")

    checks(
        made("a.root", failed("broken")),
        made("a.middle", passed(""), needs=("a.root",)),
        made("a.leaf", needs=("a.middle",), run=ask),
    )
    diagnosis = diagnose()
    assert verdicts(diagnosis) == {"a.root": "fail", "a.middle": "skip", "a.leaf": "skip"}
    assert [answer.findings[0].evidence for answer in diagnosis.answers[1:]] == ["needs a.root"] * 2
    assert [answer.findings[0].root for answer in diagnosis.answers[1:]] == ["a.root"] * 2
    assert not asked


@pytest.mark.parametrize("found", [passed(""), warned(), skipped("not here")])
def test_what_needs_a_check_that_did_not_fail_is_asked(checks: Any, found: Finding) -> None:
    checks(made("a.root", found), made("a.leaf", passed(""), needs=("a.root",)))
    assert verdicts(diagnose())["a.leaf"] == "pass"


@pytest.mark.parametrize(
    ("root", "leaf", "told"),
    [
        (failed("gone"), failed("breaks"), "skip"),
        (failed("gone"), warned("slow"), "skip"),
        (warned("odd"), warned("slow"), "skip"),
        (warned("odd"), failed("breaks"), "fail"),
        (passed(""), failed("breaks"), "fail"),
        (skipped("not here"), failed("breaks"), "fail"),
        (failed("gone"), passed("fine"), "pass"),
        (failed("gone"), skipped("not here"), "skip"),
    ],
)
def test_a_fault_is_told_at_its_root_if_that_is_as_grave(checks: Any, root: Finding, leaf: Finding, told: str) -> None:
    checks(made("a.root", root), made("a.leaf", leaf, follows=("a.root",)))
    diagnosis = diagnose()
    (finding,) = findings(diagnosis, "a.leaf")
    assert finding.verdict == told
    if told != leaf.verdict:
        assert finding.root == "a.root"
        assert finding.evidence == f"follows from a.root: {leaf.evidence}"
    else:
        assert finding == leaf


def test_the_root_is_the_one_farthest_up(checks: Any) -> None:
    checks(
        made("a.root", failed("gone")),
        made("a.middle", failed("broken"), follows=("a.root",)),
        made("a.leaf", failed("dead"), follows=("a.middle",)),
    )
    diagnosis = diagnose()
    assert {
        id: finding.root for answer in diagnosis.answers for id, finding in [(answer.check.id, answer.findings[0])]
    } == {
        "a.root": None,
        "a.middle": "a.root",
        "a.leaf": "a.root",
    }
    assert diagnosis.counts["fail"] == 1


def test_a_root_that_was_not_asked_explains_nothing(checks: Any) -> None:
    checks(made("a.root", failed("gone")), made("b.leaf", failed("dead"), follows=("a.root",)))
    assert verdicts(diagnose(only=["b"])) == {"b.leaf": "fail"}


def test_the_interpreter_is_filled_in_and_quoted(checks: Any, tmp_path: Path) -> None:
    python = tmp_path / "a folder" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    checks(made("a.one", failed("", "<python> is odd", "<python> -m pip", script="<python> -m pip")))
    (finding,) = findings(diagnose(str(python)), "a.one")
    assert (finding.cause, finding.fix, finding.script) == (
        f"{python} is odd",
        f"'{python}' -m pip",
        f"'{python}' -m pip",
    )


# --- Checks that misbehave


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), MemoryError(), RecursionError()])
def test_a_fault_of_a_check_is_seen_and_hides_nothing(checks: Any, error: BaseException) -> None:
    def broken(context: Context) -> Iterator[Finding]:
        raise error
        yield

    checks(made("a.broken", run=broken), made("a.fine", passed("")))
    diagnosis = diagnose()
    assert verdicts(diagnosis) == {"a.broken": "incomplete", "a.fine": "pass"}
    assert type(error).__name__ in diagnosis.of("incomplete")[0][1].evidence
    assert diagnosis.exit_code() == 1


HANGS = """
import time, sys
from llmbench.doctor import runner
from tests.doctor.made import made
runner._GRACE = 0.2
runner.all_checks = lambda: [made("a.hangs", run=lambda c: time.sleep(600), deadline=0.1), made("a.fine")]
diagnosis = runner.diagnose()
print({a.check.id: a.verdict for a in diagnosis.answers}, diagnosis.answers[0].findings[0].evidence)
"""


def test_a_check_that_does_not_come_back_is_given_up_and_holds_nobody() -> None:
    """Such as one that looks at a dead network file system: no process can be killed then, and doctor still ends."""
    root = str(Path(__file__).resolve().parents[2])
    environ = os.environ | {"PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", HANGS], env=environ, capture_output=True, text=True, timeout=60)
    assert "{'a.hangs': 'incomplete', 'a.fine': 'pass'} a.hangs did not come back within" in done.stdout, done.stderr


def test_where_no_thread_can_be_started_checks_are_asked_one_by_one(
    checks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    checks(made("a.one", passed("")), made("a.two", warned()))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert verdicts(diagnose()) == {"a.one": "pass", "a.two": "warn"}


def test_checks_run_side_by_side(checks: Any) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(context: Context) -> Iterator[Finding]:
        meeting.wait()
        yield passed("met")

    checks(made("a.one", run=meet), made("a.two", run=meet))
    assert set(verdicts(diagnose()).values()) == {"pass"}


def test_one_that_measures_runs_alone(checks: Any) -> None:
    running: list[str] = []
    seen: dict[str, int] = {}

    def watch(name: str) -> Callable[[Context], Iterator[Finding]]:
        def run(context: Context) -> Iterator[Finding]:
            running.append(name)
            time.sleep(0.05)
            seen[name] = len(running)
            running.remove(name)
            yield passed("")

        return run

    checks(*(made(f"a.{name}", run=watch(name), alone=name in "bd") for name in "abcde"))
    diagnose()
    assert (seen["b"], seen["d"]) == (1, 1)


def test_interrupt_kills_what_runs(checks: Any) -> None:
    ended = []

    def sleep(context: Context) -> Iterator[Finding]:
        outcome = context.command(["sleep", "60"], deadline=60)
        ended.append(outcome.signal)
        yield passed("")

    def interrupt(event: object) -> None:
        time.sleep(0.3)
        raise KeyboardInterrupt

    checks(made("a.slow", run=sleep))
    with pytest.raises(KeyboardInterrupt):
        diagnose(on_event=interrupt)
    for _ in range(500):
        if ended:
            break
        time.sleep(0.02)
    assert ended == ["SIGKILL"]


# --- Deadlines


@pytest.mark.parametrize(("patience", "timed_out"), [(1.0, True), (100.0, False)])
def test_patience_is_a_factor_of_all_deadlines(checks: Any, patience: float, timed_out: bool) -> None:
    outcomes: list[Outcome] = []

    def ask(context: Context) -> Iterator[Finding]:
        outcomes.append(context.command(["sleep", "1"]))
        outcomes.append(context.command(["sleep", "1"], deadline=0.2))
        yield passed("")

    checks(made("a.one", run=ask, deadline=0.2))
    diagnose(patience=patience)
    assert [outcome.timed_out for outcome in outcomes] == [timed_out, timed_out]


# --- Selection


def test_only_selects_areas_ids_and_what_they_need(checks: Any) -> None:
    checks(
        made("a.root", passed("")),
        made("a.other", passed("")),
        made("b.leaf", passed(""), needs=("a.root",)),
        made("c.x"),
    )
    assert list(verdicts(diagnose(only=["b"]))) == ["a.root", "b.leaf"]
    assert list(verdicts(diagnose(only=["a.other"]))) == ["a.other"]


@pytest.mark.parametrize(
    ("only", "skip", "asked"),
    [
        ([], ["a"], ["c.x"]),
        ([], ["a.root"], ["a.other", "c.x"]),
        ([], ["b"], ["a.root", "a.other", "c.x"]),
        (["b", "c"], ["a.root"], ["c.x"]),
        (["a"], ["a.root"], ["a.other"]),
        (["a"], ["a", "b"], []),
    ],
)
def test_skip_leaves_out_areas_ids_and_what_needs_them(
    checks: Any, only: list[str], skip: list[str], asked: list[str]
) -> None:
    checks(
        made("a.root", passed("")),
        made("a.other", passed("")),
        made("b.leaf", passed(""), needs=("a.root",)),
        made("c.x", passed("")),
    )
    assert list(verdicts(diagnose(only=only, skip=skip))) == asked


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ["a.quick"]),
        ({"deep": True}, ["a.quick", "a.slow"]),
        ({"only": ["a"]}, ["a.quick"]),
        ({"only": ["a.slow"]}, ["a.slow"]),
        ({"only": ["a"], "deep": True}, ["a.quick", "a.slow"]),
        ({"deep": True, "skip": ["a.slow"]}, ["a.quick"]),
    ],
)
def test_slow_checks_are_asked_when_it_is_wished(checks: Any, options: dict[str, Any], asked: list[str]) -> None:
    checks(made("a.quick", passed("")), made("a.slow", passed(""), deep=True))
    assert list(verdicts(diagnose(**options))) == asked


@pytest.mark.parametrize("option", ["only", "skip"])
@pytest.mark.parametrize(("name", "suggestion"), [("storge", "storage"), ("torch.improt", "torch.import")])
def test_unknown_area(option: str, name: str, suggestion: str) -> None:
    with pytest.raises(UserError, match=f"--{option} {name}") as error:
        diagnose(**{option: [name]})
    assert suggestion in str(error.value.hint)


def test_unknown_interpreter() -> None:
    with pytest.raises(UserError, match="no such program"):
        diagnose("/no/such/python")


def test_events(checks: Any) -> None:
    checks(made("a.one", passed("")))
    events: list[object] = []
    diagnose(on_event=events.append)
    assert [type(event).__name__ for event in events] == ["Started", "Finished"]


def test_the_registry_is_sound() -> None:
    checks = all_checks()
    ids = [c.id for c in checks]
    assert len(ids) == len(set(ids))
    assert {c.area for c in checks} <= set(AREAS)
    for c in checks:
        assert c.id.startswith(f"{c.area}.")
        assert {*c.needs, *c.follows} <= set(ids), c.id
    assert registry.unsound() is None
    with pytest.raises(ValueError, match="two checks"):
        registry.check(ids[0], "again")(checks[0].run)
    with pytest.raises(ValueError, match="two faults"):
        registry.fault("baseline.same.worse", "warn", "again", cause="c", fix="f")


# --- Forks of the one process that has imported torch


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub_torch: Callable[[str], None]) -> Callable[..., None]:
    """Puts probes in place of ours; ``torch_import`` is there, and answers."""
    folder = tmp_path / "probes"
    folder.mkdir()
    (folder / "run.py").write_text((runner.PROBES / "run.py").read_text())
    monkeypatch.setattr(runner, "PROBES", folder)

    def write(**sources: str) -> None:
        for name, body in ({"torch_import": "yield {'imported': True}"} | sources).items():
            (folder / f"{name}.py").write_text(f"import os, sys, time\ndef probe(arguments):\n    {body}\n")

    return write


def forked(
    checks: Any, *names: str, deadline: float = 20.0, before: Callable[[Context], None] | None = None
) -> dict[str, Outcome]:
    """What ``torch_probe`` gives for each of these probes, one after the other, in one check."""
    outcomes: dict[str, Outcome] = {}

    def ask(context: Context) -> Iterator[Finding]:
        assert context.import_torch().answer == {"imported": True}
        if before:
            before(context)
        for name in names:
            outcomes[name] = context.torch_probe(name, {"n": 1}, {"ADDED": "1", "HOME": None}, deadline)
        yield passed("")

    checks(made("a.one", run=ask))
    diagnosis = diagnose()
    assert diagnosis.verdict == "pass", diagnosis.answers
    return outcomes


def test_a_fork_has_its_arguments_variables_and_the_servers_imports(checks: Any, probes: Callable[..., None]) -> None:
    probes(
        torch_import="import decimal; yield {'imported': True}",
        looks="yield {'n': arguments['n'], 'added': os.environ.get('ADDED'), 'home': 'HOME' in os.environ, "
        "'decimal': 'decimal' in sys.modules, 'parent': os.getppid()}",
        again="yield {'home': 'HOME' in os.environ}",
    )
    outcome = forked(checks, "looks", "again")["looks"]
    assert outcome.ok
    assert {key: outcome.answer[key] for key in ("n", "added", "home", "decimal")} == {
        "n": 1,
        "added": "1",
        "home": False,
        "decimal": True,
    }


@pytest.mark.parametrize(
    ("body", "signal", "noise"),
    [
        ("yield {'a': 1}; print('last words', flush=True); os.kill(os.getpid(), 11)", "SIGSEGV", "last words"),
        ("yield {'a': 1}; os.abort()", "SIGABRT", ""),
        ("yield {'a': 1}; os.kill(os.getpid(), 9)", "SIGKILL", ""),
    ],
)
def test_a_child_that_crashes_is_known_and_hurts_nobody(
    checks: Any, probes: Callable[..., None], body: str, signal: str, noise: str
) -> None:
    probes(crashes=body, fine="yield {'ok': True}")
    outcomes = forked(checks, "crashes", "fine")
    assert (outcomes["crashes"].signal, outcomes["crashes"].answer) == (signal, {"a": 1})
    assert noise in outcomes["crashes"].noise
    assert outcomes["fine"].answer == {"ok": True}


@pytest.mark.parametrize("body", ["yield {'a': 1}; raise KeyError('x')", "yield {'a': 1}; sys.exit(3)"])
def test_a_child_that_raises(checks: Any, probes: Callable[..., None], body: str) -> None:
    probes(raises=body, fine="yield {'ok': True}")
    outcomes = forked(checks, "raises", "fine")
    assert not outcomes["raises"].ok
    assert outcomes["raises"].error is not None
    assert outcomes["fine"].ok


def test_a_child_that_hangs_is_killed_with_its_children_only(checks: Any, probes: Callable[..., None]) -> None:
    probes(
        hangs="pid = os.fork()\n    if pid: yield {'pids': [pid, os.getpid()]}\n    time.sleep(600)",
        fine="yield {'ok': True}",
    )
    outcomes = forked(checks, "hangs", "fine", deadline=0.5)
    assert outcomes["hangs"].timed_out
    for pid in outcomes["hangs"].answer["pids"]:
        assert is_gone(pid)
    assert outcomes["fine"].answer == {"ok": True}


def test_a_child_that_ends_without_a_word(checks: Any, probes: Callable[..., None]) -> None:
    probes(quiet="yield {'a': 1}; os._exit(7)")
    outcome = forked(checks, "quiet")["quiet"]
    assert (outcome.ok, outcome.returncode, outcome.answer) == (False, 7, {"a": 1})


def test_a_guardian_that_is_killed(checks: Any, probes: Callable[..., None]) -> None:
    probes(kills="yield {'a': 1}; os.kill(os.getppid(), 9); time.sleep(600)", fine="yield {'ok': True}")
    outcomes = forked(checks, "kills", "fine", deadline=2.0)
    assert not outcomes["kills"].ok
    assert outcomes["fine"].ok


def test_a_server_that_is_gone_is_told(checks: Any, probes: Callable[..., None]) -> None:
    probes(
        torch_import="import threading\n"
        "    threading.Timer(0.5, lambda: os._exit(0)).start()\n    yield {'imported': True}",
        fine="yield {'ok': True}",
    )
    outcome = forked(checks, "fine", before=lambda context: time.sleep(1.5))["fine"]
    assert not outcome.ok
    assert "the process that imported torch has ended" in outcome.ending


def test_without_a_server_a_process_of_its_own_does_it(checks: Any, probes: Callable[..., None]) -> None:
    probes(fine="yield {'n': arguments['n'], 'added': os.environ['ADDED']}")
    outcomes = []

    def ask(context: Context) -> Iterator[Finding]:
        outcomes.append(context.torch_probe("fine", {"n": 1}, {"ADDED": "1"}))
        yield passed("")

    checks(made("a.one", run=ask))
    diagnose()
    assert outcomes[0].answer == {"n": 1, "added": "1"}


def test_an_import_that_fails_leaves_no_server(checks: Any, probes: Callable[..., None]) -> None:
    probes(torch_import="yield {'a': 1}; raise ImportError('no')")
    outcomes = []

    def ask(context: Context) -> Iterator[Finding]:
        outcomes.append(context.import_torch())
        assert not context._torch
        yield passed("")

    checks(made("a.one", run=ask))
    assert diagnose().verdict == "pass"
    assert (outcomes[0].ok, outcomes[0].answer) == (False, {"a": 1})


def test_the_server_ends_with_doctor(checks: Any, probes: Callable[..., None]) -> None:
    probes(torch_import="yield {'pid': os.getpid()}")
    pids = []

    def ask(context: Context) -> Iterator[Finding]:
        pids.append(context.import_torch().answer["pid"])
        yield passed("")

    checks(made("a.one", run=ask))
    diagnose()
    assert is_gone(pids[0])


def is_gone(pid: int) -> bool:
    """A killed orphan lingers for a moment until somebody collects it."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
