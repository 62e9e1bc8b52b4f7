"""One marked test: sessions of two fresh pytests in lock-step, until its verdict is in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmbench.launch.sessions import Draw, draw, hold, idlest, until_verdict
from llmbench.plugin import trees
from llmbench.plugin.contender import PytestSide, test_of
from llmbench.plugin.record import described
from llmbench.plugin.rules import Rules
from llmbench.results.ab import SIDES, Ab, AbSession, SideName
from llmbench.results.ab_folder import AbFolder
from llmbench.results.fingerprint import fingerprint
from llmbench.stats.ab import CaseVerdict


class GatedTest:
    """Adds sessions to the comparison that a marked test belongs to.

    Attributes:
        ab: the comparison; what the sides told of their environments is added.
        skipped: why a side skipped the test, by side.
    """

    def __init__(self, item: pytest.Item, rules: Rules, folder: AbFolder, ab: Ab) -> None:
        self.ab = ab
        self.skipped: dict[SideName, str] = {}
        self._item, self._rules, self._folder = item, rules, folder
        self._case = next(case for case in ab.cases if case.id == item.nodeid)

    def execute(self) -> CaseVerdict:
        """Sessions until the verdict is in, or until there is no time for another one.

        Raises:
            UserError: the test has no place among the base's files, or the folder cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix="llmbench-base-", ignore_cleanup_errors=True) as folder:
            cand = trees.candidate(self._item.config.rootpath)
            base = trees.base(self.ab.base, cand, self._item.path, Path(folder))
            self._trees = {"base": base, "cand": cand}
            return until_verdict(self.ab, self._case, self._folder, self._next)

    def _next(self, sessions: Sequence[AbSession]) -> AbSession | None:
        if self.skipped:
            return None
        drawn = draw(self.ab, self._case, len(sessions))
        cpus = idlest(self._rules.cpus) if self._rules.cpus else None
        contenders = {side: self._contender(side, drawn, cpus) for side in SIDES}
        session = hold(drawn, [contenders], self.ab.rounds, "lockstep", cpus)
        self.skipped = {side: one.skipped for side, one in contenders.items() if one.skipped is not None}
        if all(one.machine for one in contenders.values()):
            self._describe({side: one.machine for side, one in contenders.items()})
        return session

    def _contender(self, side: SideName, drawn: Draw, cpus: list[int] | None) -> PytestSide:
        cand = self._trees["cand"]
        apart = self._trees["base"] is not cand
        return PytestSide(
            side,
            self.ab.of(side),
            self._trees[side],
            cand.files[0] if apart and side == "base" else None,
            test_of(self._item, cand),
            self._rules,
            drawn,
            cpus,
            self._folder.path,
            self._folder.log_path(self._case.id, side),
            describe=not self.ab.base.environment,
        )

    def _describe(self, machines: dict[SideName, dict[str, object]]) -> None:
        found = {side: fingerprint(machine, os.environ) for side, machine in machines.items()}
        self.ab = described(self.ab, machines["cand"].get("device"), found["base"], found["cand"])
        self._folder.write(self.ab)
