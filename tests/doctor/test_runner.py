"""Order, needs, selection and endings of the checks, with checks made for the purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmbench.doctor import runner
from llmbench.doctor.checks import AREAS, all_checks
from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Check, Finding, failure, passed, skipped, warning
from llmbench.doctor.runner import Context, diagnose
from llmbench.errors import UserError

from .conftest import verdicts

Run = Callable[[Context], Iterator[Finding]]


def made(id: str, *found: Finding, needs: tuple[str, ...] = (), run: Run | None = None) -> Check:
    def give(context: Context) -> Iterator[Finding]:
        yield from found

    return Check(id, id.partition(".")[0], id, 5.0, needs, run or give)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *given: monkeypatch.setattr(runner, "all_checks", lambda: list(given))


def test_what_needs_a_failure_is_skipped_and_blames_its_root(checks: Any) -> None:
    asked = []

    def ask(context: Context) -> Iterator[Finding]:
        asked.append("leaf")
        yield passed("")

    checks(
        made("a.root", failure("broken", "cause", "fix")),
        made("a.middle", passed(""), needs=("a.root",)),
        made("a.leaf", needs=("a.middle",), run=ask),
    )
    diagnosis = diagnose()
    assert verdicts(diagnosis) == {"a.root": "fail", "a.middle": "skip", "a.leaf": "skip"}
    assert [answer.findings[0].evidence for answer in diagnosis.answers[1:]] == ["needs a.root"] * 2
    assert not asked


@pytest.mark.parametrize("found", [passed(""), warning("", "", ""), skipped("not here")])
def test_what_needs_a_check_that_did_not_fail_is_asked(checks: Any, found: Finding) -> None:
    checks(made("a.root", found), made("a.leaf", passed(""), needs=("a.root",)))
    assert verdicts(diagnose())["a.leaf"] == "pass"


def test_a_fault_of_a_check_is_seen_and_hides_nothing(checks: Any) -> None:
    def broken(context: Context) -> Iterator[Finding]:
        raise KeyError("x")
        yield

    checks(made("a.broken", run=broken), made("a.fine", passed("")))
    diagnosis = diagnose()
    assert verdicts(diagnosis) == {"a.broken": "incomplete", "a.fine": "pass"}
    assert "KeyError" in diagnosis.of("incomplete")[0][1].evidence
    assert diagnosis.exit_code() == 1


def test_checks_run_side_by_side(checks: Any) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(context: Context) -> Iterator[Finding]:
        meeting.wait()
        yield passed("met")

    checks(made("a.one", run=meet), made("a.two", run=meet))
    assert set(verdicts(diagnose()).values()) == {"pass"}


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


def test_only_selects_areas_ids_and_what_they_need(checks: Any) -> None:
    checks(
        made("a.root", passed("")),
        made("a.other", passed("")),
        made("b.leaf", passed(""), needs=("a.root",)),
        made("c.x"),
    )
    assert list(verdicts(diagnose(only=["b"]))) == ["a.root", "b.leaf"]
    assert list(verdicts(diagnose(only=["a.other"]))) == ["a.other"]


@pytest.mark.parametrize(("name", "suggestion"), [("storge", "storage"), ("torch.improt", "torch.import")])
def test_unknown_area(name: str, suggestion: str) -> None:
    with pytest.raises(UserError) as error:
        diagnose(only=[name])
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
    assert {c.area for c in checks} == set(AREAS)
    for c in checks:
        assert c.id.startswith(f"{c.area}.")
        assert set(c.needs) <= set(ids)
    with pytest.raises(ValueError, match="two checks"):
        check(ids[0], "again")(checks[0].run)
