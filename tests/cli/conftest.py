from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmbench.results.ab import Ab, AbSession
from llmbench.results.ab_folder import AbFolder
from tests.conftest import Command, wait_for

QUICK_TORCH = Path(__file__).parents[1] / "launch" / "quick_torch"
ARGUMENTS = ("ab", "smoke", "-w", "regression-linear", "-m", "eager", "--device", "cpu", "--rounds", "4")


class QuickAb:
    """``llmbench ab`` with a torch that is there at once (``tests/launch/quick_torch``): real processes, no training.

    Attributes:
        out: of the comparison.
        told: the folder through which its processes tell where they are.
    """

    def __init__(self, folder: Path, environment: dict[str, str], run: Command, start: Callable[..., Any]) -> None:
        self.out, self.told = folder / "ab", folder / "told"
        self.told.mkdir()
        self._path = os.pathsep.join([str(QUICK_TORCH), environment["PYTHONPATH"]])
        self._run, self._start = run, start

    def variables(self, plan: dict[str, Any], at_import: str | None = None) -> dict[str, str]:
        """Of the command, by which its processes know what to do."""
        found = {"PYTHONPATH": self._path, "QUICK_TORCH": json.dumps({"folder": str(self.told)} | plan)}
        if at_import:
            does = {"folder": str(self.told), "side": "import", "at": "import", "does": at_import}
            found["QUICK_IMPORT"] = json.dumps(does)
        return found

    def __call__(self, *arguments: object, **plan: Any) -> subprocess.CompletedProcess[str]:
        """A whole command; a comparison of a side with itself, if it is not told what else."""
        return self._run(*(arguments or (*ARGUMENTS, "--self", "--out", self.out)), **self.variables(plan))

    def started(
        self, *arguments: object, at_import: str | None = None, budget: float = 60, **plan: Any
    ) -> subprocess.Popen[str]:
        """The same, and not waited for."""
        command = arguments or (*ARGUMENTS, "--self", "--out", self.out, "--budget", budget)
        process: subprocess.Popen[str] = self._start(*command, **self.variables(plan, at_import))
        return process

    def reached(self, who: str) -> int:
        """Waits until a process is where it is to wait; its number."""
        file = self.told / f"{who}.reached"
        return int(wait_for(lambda: file.exists() and file.read_text()))

    def forget(self, who: str) -> None:
        (self.told / f"{who}.reached").unlink()

    def ab(self) -> Ab:
        return AbFolder(self.out).read()

    def sessions(self) -> list[AbSession]:
        return AbFolder(self.out).sessions()

    def processes(self) -> list[psutil.Process]:
        """All that live and were started for this test, orphans included: they inherit the name of its folder."""
        return [process for process in psutil.process_iter() if str(self.told) in _plan_of(process)]


def _plan_of(process: psutil.Process) -> str:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process.environ().get("QUICK_TORCH", "") if alive else ""
    except psutil.Error:
        return ""


@pytest.fixture
def quick_ab(
    tmp_path: Path, environment: dict[str, str], llmbench: Command, started: Callable[..., subprocess.Popen[str]]
) -> Iterator[QuickAb]:
    """``llmbench ab`` by processes that start at once; none may outlive the test."""
    made = QuickAb(tmp_path, environment, llmbench, started)
    yield made
    wait_for(lambda: not made.processes(), 20)
