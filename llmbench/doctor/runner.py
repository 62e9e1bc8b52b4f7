"""Asks the checks: side by side where they can be, none whose need is not met, and none that can end doctor."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmbench import __version__
from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Answer, Check, Diagnosis, Finding, skipped
from llmbench.doctor.process import CHANNEL, Outcome, Processes
from llmbench.errors import UserError, nearest
from llmbench.results import redact

PROBES = Path(__file__).resolve().parent / "probes"


@dataclass(frozen=True)
class Context:
    """What a check can use.

    Attributes:
        python: path of the interpreter under test.
        environ: the variables of this process, which the interpreter under test gets too.
        deep: whether slow, thorough work was asked for.
        facts: what the checks found out, by fact; a check may rely on the facts of those it needs.
        deadline: seconds that the check at hand may take.
    """

    python: str
    environ: Mapping[str, str]
    deep: bool
    processes: Processes
    facts: dict[str, Any] = field(default_factory=dict)
    deadline: float = 60.0

    def probe(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        environ: Mapping[str, str | None] | None = None,
        deadline: float | None = None,
    ) -> Outcome:
        """Runs ``probes/NAME.py`` in the interpreter under test.

        Args:
            name: of the probe.
            arguments: what its function gets; JSON.
            environ: variables set for it, or with None removed.
            deadline: seconds, if not the check's.
        """
        changes = environ or {}
        variables = {name: value for name, value in self.environ.items() if changes.get(name, value) is not None}
        variables |= {name: value for name, value in changes.items() if value is not None}
        return self.processes.run(
            [self.python, str(PROBES / "run.py"), str(PROBES / f"{name}.py"), CHANNEL, json.dumps(arguments or {})],
            deadline=deadline or self.deadline,
            environ=variables,
            channel=True,
        )

    def command(self, argv: Sequence[str], deadline: float | None = None) -> Outcome:
        """Runs a program of this machine."""
        return self.processes.run(argv, deadline=deadline or self.deadline, environ=self.environ)


@dataclass(frozen=True)
class Started:
    """A check is being carried out."""

    check: Check
    total: int


@dataclass(frozen=True)
class Finished:
    """A check has its findings."""

    answer: Answer
    total: int


Event = Started | Finished


def diagnose(
    python: str | None = None,
    only: Sequence[str] | None = None,
    deep: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Diagnosis:
    """Judges the environment of an interpreter. Nothing in that environment can make this fail.

    Args:
        python: path or name of the interpreter; this one if None. llmbench need not be installed there.
        only: areas (or ids of checks); what these need is asked too. All if None or empty.
        deep: do slow, thorough work as well.
        on_event: called from this thread as checks start and finish.

    Raises:
        UserError: there is no such interpreter or area.
    """
    interpreter = find_interpreter(python)
    checks = select(all_checks(), only or ())
    started_at, started = datetime.now(UTC), time.monotonic()
    processes = Processes()
    context = Context(interpreter, dict(os.environ), deep, processes)
    try:
        answers = _ask_all(checks, context, on_event or (lambda event: None))
    finally:
        processes.stop()
    return Diagnosis(
        python=interpreter,
        answers=tuple(answers[check.id] for check in checks),
        facts=context.facts,
        environment=redact.environment(os.environ),
        seconds=time.monotonic() - started,
        started_at=started_at.isoformat(timespec="seconds"),
        deep=deep,
        llmbench=__version__,
    )


def find_interpreter(python: str | None) -> str:
    """Path of the interpreter, which is kept as given: a virtual environment is known by its link.

    Raises:
        UserError: it is no program.
    """
    if python is None:
        return sys.executable
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise UserError(f"--python {python}: no such program", "give the path of an interpreter, e.g. .venv/bin/python")
    # Absolute, since probes find it by this and a relative one changes its meaning with the folder; links stay.
    return found if os.path.isabs(found) else os.path.join(os.getcwd(), found)


def select(checks: Sequence[Check], only: Sequence[str]) -> list[Check]:
    """The checks of these areas or ids, and those that they need, in the order of ``checks``.

    Raises:
        UserError: a name is neither an area nor an id.
    """
    by_id = {check.id: check for check in checks}
    areas = list(dict.fromkeys(check.area for check in checks))
    for name in only:
        if name not in by_id and name not in areas:
            hint = nearest(name, [*by_id] if "." in name else areas)
            raise UserError(f"--only {name}: no such area", hint)
    wanted = [check.id for check in checks if not only or check.area in only or check.id in only]
    for id in wanted:
        wanted.extend(need for need in by_id[id].needs if need not in wanted)
    return [check for check in checks if check.id in wanted]


def _ask_all(checks: Sequence[Check], context: Context, tell: Callable[[Event], None]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    waiting = {check.id: check for check in checks}
    running: dict[Future[Answer], Check] = {}
    workers = max(2, min(4, len(os.sched_getaffinity(0)) // 2))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="doctor")
    try:
        while waiting or running:
            for check in _ready(waiting, answers):
                blocker = _unmet_need(check, answers)
                if blocker:
                    answers[check.id] = Answer(check, (skipped(f"needs {blocker}"),), 0.0)
                    tell(Finished(answers[check.id], len(checks)))
                elif len(running) < workers:
                    running[pool.submit(_ask, check, context)] = check
                    tell(Started(check, len(checks)))
                else:
                    continue
                del waiting[check.id]
            if running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    answers[running.pop(future).id] = future.result()
                    tell(Finished(future.result(), len(checks)))
    finally:
        context.processes.stop()
        pool.shutdown(wait=False, cancel_futures=True)
    return answers


def _ready(waiting: Mapping[str, Check], answers: Mapping[str, Answer]) -> list[Check]:
    """Checks whose needs are answered, the longest first, so that the last to end is not the last to start."""
    ready = [check for check in waiting.values() if all(need in answers for need in check.needs)]
    return sorted(ready, key=lambda check: -check.deadline)


def _unmet_need(check: Check, answers: Mapping[str, Answer]) -> str | None:
    """The root of what keeps a check from being asked: the need that failed, even if there are others in between."""
    for need in check.needs:
        answer = answers[need]
        if answer.verdict in ("fail", "incomplete"):
            return need
        reasons = [finding.evidence for finding in answer.findings if finding.verdict == "skip"]
        if reasons and reasons[0].startswith("needs "):
            return reasons[0].removeprefix("needs ")
    return None


def _ask(check: Check, context: Context) -> Answer:
    started = time.monotonic()
    try:
        findings = tuple(check.run(replace(context, deadline=check.deadline)))
    except Exception as error:
        # A fault of doctor's own: it must be seen, and must not hide the other checks' findings.
        findings = (
            Finding(
                "incomplete",
                f"{check.id} could not be carried out: {type(error).__name__}: {error}",
                "a fault of llmbench itself, or something on this machine that it does not expect",
                "report it with the output of: llmbench doctor --json",
            ),
        )
    return Answer(check, findings, time.monotonic() - started)
