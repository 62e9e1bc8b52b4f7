"""The marked tests of one run of pytest: none of them runs in its process, each is held against its base."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmbench.errors import UserError
from llmbench.paths import locked
from llmbench.plugin.rules import Rules, alpha_of, rules_of
from llmbench.pytest_plugin import PROPERTY, chosen

if TYPE_CHECKING:
    from llmbench.plugin.gated import GatedTest
    from llmbench.results.ab import AbSide
    from llmbench.results.ab_folder import AbFolder
    from llmbench.stats.ab import AbComparison, CaseVerdict

LOG_LINES = 40  # of a side that failed


class InconclusiveWarning(UserWarning):
    """Whether a marked test got worse could not be told."""


class Gates:
    """The plugin that runs marked tests; there is one if any were collected.

    Args:
        marked: those that are going to run.
    """

    def __init__(self, config: pytest.Config, marked: Sequence[pytest.Item]) -> None:
        self._config = config
        self._rules: dict[str, Rules | UserError] = {}
        self._sides: dict[str, AbSide] = {}
        self._folders: dict[str, AbFolder] = {}
        for item in marked:
            if "lockstep" not in getattr(item, "fixturenames", ()):
                continue
            try:
                rules = rules_of(item)
            except UserError as error:
                self._rules[item.nodeid] = error
            else:
                if rules is None:
                    continue
                self._rules[item.nodeid] = rules
            # The fixtures of a test whose steps are done elsewhere are made there: a model, say, takes memory.
            item.setup = _nothing  # type: ignore[method-assign]

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        rules = self._rules.get(pyfuncitem.nodeid)
        if rules is None:
            return None
        __tracebackhide__ = True
        try:
            if isinstance(rules, UserError):
                raise rules
            with locked(_machine(), lambda: _progress("waiting for another test that compares its steps here")):
                verdict, comparison, gated = self._compared(pyfuncitem, rules)
        except UserError as error:
            hint = f"\n  {error.hint}" if error.hint else ""
            pytest.fail(f"llmbench: {error.message}{hint}", pytrace=False)
        self._told(pyfuncitem, rules, verdict, comparison, gated)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Comparisons of which not every test was run (``-x``, Ctrl-C) are not left as if they went on."""
        for folder in self._folders.values():
            with contextlib.suppress(UserError):  # another worker of xdist goes on with it, or it cannot be written
                folder.claim()
                ab = folder.read()
                if ab.status == "running":
                    folder.write(ab.model_copy(update={"status": "interrupted"}))
            folder.release()

    def _compared(self, item: pytest.Item, rules: Rules) -> tuple[CaseVerdict, AbComparison, GatedTest]:
        """Adds sessions of a test to its comparison, and writes the report anew."""
        from llmbench.launch.record import utc_now
        from llmbench.plugin.gated import GatedTest
        from llmbench.plugin.record import comparison, folder_of, joined
        from llmbench.report.ab import write_ab_report
        from llmbench.stats.ab import compared

        different = list(dict.fromkeys(one for one in self._rules.values() if isinstance(one, Rules)))
        alike = [test for test, one in self._rules.items() if one == rules]
        alpha = alpha_of(self._config) * len(alike) / len(self._rules)
        folder = folder_of(self._config, rules, different)
        ab = comparison(self._config, rules, alike, alpha, self._base(rules.base), different.index(rules))
        ab = joined(folder, ab)
        self._folders[str(folder.path)] = folder
        try:
            gated = GatedTest(item, rules, folder, ab)
            verdict = gated.execute()
            sessions = folder.sessions()
            over = {session.case for session in sessions} == {case.id for case in ab.cases}
            ended = {"status": "done", "finished_at": utc_now()} if over else {}
            ab = gated.ab.model_copy(update=ended)
            folder.write(ab)
            found = compared(ab, sessions, strict=bool(chosen(self._config, "strict", {})))
            write_ab_report(folder, found)
            return verdict, found, gated
        finally:
            folder.release()

    def _base(self, asked: str) -> AbSide:
        from llmbench.launch.sides import make_side

        if asked not in self._sides:
            self._sides[asked] = make_side(
                asked,
                python=sys.executable,
                constraints=None,
                checkout=self._config.rootpath,
                on_progress=_progress,
            )
        return self._sides[asked]

    def _told(
        self, item: pytest.Item, rules: Rules, verdict: CaseVerdict, comparison: AbComparison, gated: GatedTest
    ) -> None:
        """What the verdict is for pytest: passed, failed, skipped or passed with a warning."""
        __tracebackhide__ = True
        from llmbench.cli.ab_text import ab_text, case_line
        from llmbench.report.ab import verdicts
        from llmbench.stats.ab import UNTOLD, AbComparison

        row = verdicts.decisive(verdict)
        folder = self._folder_of(comparison)
        line = case_line(verdict)
        item.user_properties += [
            (f"{PROPERTY}verdict", "skipped" if gated.skipped else verdict.outcome),
            (f"{PROPERTY}change", verdicts.estimate(row) if row else ""),
            (f"{PROPERTY}interval", verdicts.interval(row) if row else ""),
            (f"{PROPERTY}sessions", str(len(verdict.sessions))),
            (f"{PROPERTY}line", line),
            (f"{PROPERTY}report", str(folder.report)),
        ]
        if gated.skipped:
            pytest.skip("; ".join(f"{side.upper()} skipped it: {why}" for side, why in gated.skipped.items()))
        text = ab_text(AbComparison(comparison.ab, [verdict], comparison.strict))
        logs = _logs(folder, verdict)
        if verdict.outcome == "no base" and rules.base_may_fail and not any(one.cand.error for one in verdict.sessions):
            pytest.skip(f"there is nothing to hold it against: {row.reason if row else ''}")
        if verdict.outcome not in UNTOLD and not any(one.worse for one in verdict.rows):
            return
        if verdict.outcome == "inconclusive" and not comparison.strict:
            _warn(f"llmbench could not tell: {line}")
            return
        pytest.fail("\n\n".join([f"llmbench: {line}", text, *logs, f"report: {folder.report}"]), pytrace=False)

    def _folder_of(self, comparison: AbComparison) -> AbFolder:
        return next(folder for folder in self._folders.values() if folder.read().id == comparison.ab.id)


def _nothing() -> None:
    return


def _machine() -> Path:
    """The lock of this machine: two tests that compared their steps at the same time would disturb each other."""
    return Path(tempfile.gettempdir(), f"llmbench-lockstep-{os.getuid()}")


def _progress(message: str) -> None:
    print(f"llmbench: {message}", file=sys.stderr)


def _logs(folder: AbFolder, verdict: CaseVerdict) -> list[str]:
    """The last words of sides that failed, in the last session."""
    if not verdict.sessions:
        return []
    last = verdict.sessions[-1]
    found = []
    for name, side in (("BASE", last.base), ("CAND", last.cand)):
        if side.error:
            head = f"--- {name}: {side.error.message}; the end of {folder.path / (side.log or '')}:"
            found.append("\n".join([head, *folder.log_tail(side, LOG_LINES)]))
    return found


def _warn(message: str) -> None:
    """Warns, and does no more: whether what is open fails is for --llmbench-strict to say, not for -W error."""
    try:
        warnings.warn(InconclusiveWarning(message), stacklevel=1)
    except InconclusiveWarning:
        with warnings.catch_warnings():
            warnings.simplefilter("always", InconclusiveWarning)
            warnings.warn(InconclusiveWarning(message), stacklevel=1)
