"""Asks the checks: side by side where they can be, none whose need is not met, and none that can end doctor."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from llmbench import __version__
from llmbench.doctor.checks import all_checks
from llmbench.doctor.model import Answer, Check, Diagnosis, Finding, fill, fill_script
from llmbench.doctor.process import CHANNEL, MOST_STARVED, REQUESTS, Outcome, Processes, Server
from llmbench.errors import UserError, nearest
from llmbench.results import redact

PROBES = Path(__file__).resolve().parent / "probes"
_AT_ONCE = 6
"""Checks mostly wait: for a process, a disk, a name server."""
_GRACE = 10.0
"""Seconds that a check may take longer than it says before it is given up."""


class Alarm:
    """When a check is given up: what it waits for by itself, without a process, may never answer."""

    def __init__(self) -> None:
        self.rings_at = math.inf

    def put_off(self, seconds: float) -> None:
        """At the start of something that may take so long, and that ends by itself."""
        self.rings_at = time.monotonic() + seconds + _GRACE


@dataclass(frozen=True)
class Context:
    """What a check can use.

    Attributes:
        python: path of the interpreter under test.
        environ: the variables of this process, which the interpreter under test gets too.
        deep: whether slow, thorough work was asked for.
        patience: factor of all deadlines.
        own_fault: why llmbench's own libraries cannot be imported, where that is so.
        facts: what the checks found out, by fact; a check may rely on the facts of those it needs.
        deadline: seconds that the check at hand may take.
        alarm: when it is given up.
    """

    python: str
    environ: Mapping[str, str]
    deep: bool
    processes: Processes
    patience: float = 1.0
    own_fault: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    deadline: float = 60.0
    alarm: Alarm = field(default_factory=lambda: Alarm())
    _torch: list[Server] = field(default_factory=list)

    def probe(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        environ: Mapping[str, str | None] | None = None,
        deadline: float | None = None,
    ) -> Outcome:
        """Runs ``probes/NAME.py`` in a fresh process of the interpreter under test.

        Args:
            name: of the probe.
            arguments: what its function gets; JSON.
            environ: variables set for it, or with None removed.
            deadline: seconds, if not the check's.
        """
        return self.processes.run(
            self._argv(name, arguments),
            deadline=self._patient(deadline),
            environ=self._variables(environ),
            channel=True,
        )

    def import_torch(self) -> Outcome:
        """Runs ``probes/torch_import.py``; its process then stays, and serves ``torch_probe``."""
        deadline = self._patient(None)
        command = [*self._argv("torch_import", {"deadline": deadline}), REQUESTS]
        outcome, server = self.processes.serve(command, deadline=deadline, environ=self.environ)
        if server is not None:
            self._torch.append(server)
        return outcome

    def torch_probe(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        environ: Mapping[str, str | None] | None = None,
        deadline: float | None = None,
    ) -> Outcome:
        """As ``probe``, in a fork of the process that has imported torch: for checks that need ``torch.import``.

        The variables in ``environ`` come too late for what torch reads when it is imported.
        """
        if not self._torch:
            return self.probe(name, arguments, environ, deadline)
        request = {
            "path": str(PROBES / f"{name}.py"),
            "arguments": arguments or {},
            "environ": environ or {},
        }
        return self._torch[0].run(request, self._patient(deadline))

    def _argv(self, name: str, arguments: Mapping[str, Any] | None) -> list[str]:
        runner, probe = str(PROBES / "run.py"), str(PROBES / f"{name}.py")
        return [self.python, runner, probe, CHANNEL, json.dumps(arguments or {})]

    def _variables(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        variables = {**self.environ, **(changes or {})}
        return {name: value for name, value in variables.items() if value is not None}

    def _patient(self, deadline: float | None) -> float:
        seconds = self.patience * (deadline or self.deadline)
        self.alarm.put_off((1 + MOST_STARVED) * seconds + self.patience * self.deadline)
        return seconds

    def command(self, argv: Sequence[str], deadline: float | None = None) -> Outcome:
        """Runs a program of this machine."""
        return self.processes.run(argv, deadline=self._patient(deadline), environ=self.environ)


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
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    deep: bool = False,
    patience: float = 1.0,
    on_event: Callable[[Event], None] | None = None,
    own_fault: str | None = None,
    processes: Processes | None = None,
) -> Diagnosis:
    """Judges the environment of an interpreter. Nothing in that environment can make this fail.

    Args:
        python: path or name of the interpreter; this one if None. llmbench need not be installed there.
        only: areas, or ids of checks; what these need is asked too. All if empty.
        skip: areas, or ids of checks, that are not asked, nor what needs them.
        deep: do slow, thorough work as well.
        patience: factor of all deadlines.
        on_event: called from this thread as checks start and finish.
        own_fault: why llmbench's own libraries cannot be imported, where that is so.
        processes: starts all processes, and ends them with this; given by who may have to end them earlier.

    Raises:
        UserError: there is no such interpreter, area or check.
    """
    interpreter = find_interpreter(python)
    checks = select(all_checks(), only, skip, deep)
    started_at, started = datetime.now(UTC), time.monotonic()
    processes = processes or Processes()
    context = Context(interpreter, dict(os.environ), deep, processes, patience, own_fault)
    try:
        answers = _ask_all(checks, context, on_event or (lambda event: None))
    finally:
        processes.stop()
    return Diagnosis(
        python=interpreter,
        answers=tuple(to_their_roots([answers[check.id] for check in checks], interpreter)),
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


def select(
    checks: Sequence[Check], only: Sequence[str] = (), skip: Sequence[str] = (), deep: bool = False
) -> list[Check]:
    """The checks of these areas or ids and those that they need, in the order of ``checks``.

    Those that are for ``deep`` only are left out otherwise, unless one is named by its id.

    Raises:
        UserError: a name is neither an area nor an id.
    """
    by_id = {check.id: check for check in checks}
    areas = list(dict.fromkeys(check.area for check in checks))
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in by_id and name not in areas:
                hint = nearest(name, [*by_id] if "." in name else areas)
                raise UserError(f"{option} {name}: no such area or check", hint)
    skipped = {check.id for check in checks if check.area in skip or check.id in skip}
    wanted = [
        check.id
        for check in checks
        if check.id in only or ((not only or check.area in only) and (deep or not check.deep))
    ]
    for id in wanted:
        wanted.extend(need for need in by_id[id].needs if need not in wanted)
    kept = {id for id in wanted if not skipped & _all_needs(by_id, id)}
    return [check for check in checks if check.id in kept]


def _all_needs(by_id: Mapping[str, Check], id: str) -> set[str]:
    """The check itself, what it needs, and what that needs."""
    return {id}.union(*(_all_needs(by_id, need) for need in by_id[id].needs))


def _ask_all(checks: Sequence[Check], context: Context, tell: Callable[[Event], None]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    waiting = {check.id: check for check in checks}
    running: dict[str, tuple[Check, Alarm]] = {}
    given: SimpleQueue[Answer] = SimpleQueue()
    try:
        while waiting or running:
            for check in _ready(waiting, answers):
                root = _unmet_need(check, answers)
                if root:
                    answers[check.id] = Answer(check, (Finding("skip", f"needs {root}", root=root),), 0.0)
                    tell(Finished(answers[check.id], len(checks)))
                elif _may_start(check, [other for other, _ in running.values()]):
                    running[check.id] = check, _start(check, context, given)
                    tell(Started(check, len(checks)))
                else:
                    continue
                del waiting[check.id]
            for answer in _given(given, running):
                del running[answer.check.id]
                answers[answer.check.id] = answer
                tell(Finished(answer, len(checks)))
    finally:
        context.processes.stop()
    return answers


def _start(check: Check, context: Context, given: SimpleQueue[Answer]) -> Alarm:
    """Asks a check in a thread of its own, for which nobody waits at the end."""
    alarm = Alarm()
    alarm.put_off(context.patience * check.deadline)
    own = replace(context, deadline=check.deadline, alarm=alarm)
    try:
        threading.Thread(target=lambda: given.put(_ask(check, own)), name=check.id, daemon=True).start()
    except RuntimeError:  # the limits of this machine allow no further thread
        given.put(_ask(check, own))
    return alarm


def _given(given: SimpleQueue[Answer], running: Mapping[str, tuple[Check, Alarm]]) -> Iterator[Answer]:
    """Waits for an answer; without one, gives up the checks whose time is over."""
    if not running:
        return
    first = min(alarm.rings_at for _, alarm in running.values())
    try:
        answer = given.get(timeout=max(0.01, first - time.monotonic()))
    except Empty:
        now = time.monotonic()
        yield from [_given_up(check) for check, alarm in running.values() if alarm.rings_at <= now]
    else:
        if answer.check.id in running:  # else it was given up before
            yield answer


def _given_up(check: Check) -> Answer:
    finding = Finding(
        "incomplete",
        f"{check.id} did not come back within {check.deadline + _GRACE:.0f} s",
        "it waits for something of this machine that does not answer, such as a file system of a server that is gone",
        f"look for it with: cat /proc/mounts  (or leave it out: llmbench doctor --skip {check.id})",
    )
    return Answer(check, (finding,), check.deadline + _GRACE)


def _ready(waiting: Mapping[str, Check], answers: Mapping[str, Answer]) -> list[Check]:
    """Checks whose needs are answered; those that most others wait for come first."""
    ready = [check for check in waiting.values() if all(need in answers for need in check.needs)]
    awaited = Counter(need for check in waiting.values() for need in check.needs)
    return sorted(ready, key=lambda check: (check.alone, -awaited[check.id]))


def _may_start(check: Check, running: Collection[Check]) -> bool:
    if check.alone or any(other.alone for other in running):
        return not running
    return len(running) < _AT_ONCE


def _unmet_need(check: Check, answers: Mapping[str, Answer]) -> str | None:
    """The root of what keeps a check from being asked: the need that failed, even if there are others in between."""
    for need in check.needs:
        if answers[need].verdict in ("fail", "incomplete"):
            return need
        roots = [finding.root for finding in answers[need].findings if finding.root]
        if roots:
            return roots[0]
    return None


_GRAVITY = {"fail": 2, "warn": 1}


def to_their_roots(answers: Sequence[Answer], python: str) -> list[Answer]:
    """The answers, with each fault that only follows from another told as such, and ``<python>`` filled in."""
    by_id = {answer.check.id: answer for answer in answers}

    def explain(answer: Answer, finding: Finding) -> Finding:
        gravity = _GRAVITY.get(finding.verdict)
        root = gravity and _root(answer.check, gravity, by_id)
        if root:
            return replace(finding, verdict="skip", evidence=f"follows from {root}: {finding.evidence}", root=root)
        here = {"python": python}
        return replace(
            finding,
            cause=finding.cause and fill(finding.cause, here),
            fix=finding.fix and fill(finding.fix, {"python": shlex.quote(python)}),
            script=finding.script and fill_script(finding.script, here),
        )

    return [replace(a, findings=tuple(explain(a, finding) for finding in a.findings)) for a in answers]


def _root(check: Check, gravity: int, by_id: Mapping[str, Answer]) -> str | None:
    """The check farthest up whose fault, no less grave, explains this one's."""
    for id in check.follows:
        if id in by_id and _GRAVITY.get(by_id[id].verdict, 0) >= gravity:
            return _root(by_id[id].check, gravity, by_id) or id
    return None


def _ask(check: Check, context: Context) -> Answer:
    started = time.monotonic()
    try:
        findings = tuple(check.run(context))
    except BaseException as error:
        # A fault of doctor's own, or of a plug-in: it must be seen, and must not hide the other checks' findings.
        findings = (
            Finding(
                "incomplete",
                f"{check.id} could not be carried out: {type(error).__name__}: {error}",
                "a fault of llmbench itself, or something on this machine that it does not expect",
                "report it with the output of: llmbench doctor --json",
            ),
        )
    return Answer(check, findings, time.monotonic() - started)
