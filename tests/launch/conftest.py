from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from llmbench.cli.progress import Quiet
from llmbench.launch import pair, sessions
from llmbench.launch.ab import AbRunner
from llmbench.launch.ab import Request as AbRequest
from llmbench.launch.ab import resume as resume_ab
from llmbench.launch.ab import start as start_ab
from llmbench.launch.session import DISTRIBUTED, Request, start
from llmbench.launch.target import Target
from llmbench.results.ab import SIDES, AbCase, AbGate, AbSession, AbSide, SideName
from llmbench.results.ab_folder import AbFolder
from llmbench.results.schema import Record
from llmbench.stats.ab import AbComparison, CaseVerdict, compared
from llmbench.suite.cases import resolve
from llmbench.suite.load import SuiteFile
from llmbench.suite.workloads import WORKLOADS, Size, Workload, foreign
from tests.conftest import wait_for

T = TypeVar("T")
Train = Callable[[str], dict[str, Record]]


def own(name: str) -> Workload:
    """A workload of ``tests/launch`` as ``llmbench run`` finds it, without seconds to ask the interpreter for it."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    about = {
        "family": "own",
        "source": f"tests.launch.{name}",
        "title": "",
        "unit": "samples/s",
        "tokenizer": None,
        "objective": "own",
        "parameters": None,
    }
    return foreign(name, Size({}, {"micro_batch_size": 32, "learning_rate": 0.02}), about)


@pytest.fixture(scope="module")
def train(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Train]:
    """Runs a suite as ``llmbench run`` does, and returns its records.

    One server serves all suites of a test module, and imports once what the module names in ``PRELOAD``.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with Target(sys.executable, [*DISTRIBUTED, *getattr(request.module, "PRELOAD", ())]) as target:

            def run(suite: str) -> dict[str, Record]:
                folder = tmp_path_factory.mktemp("run")
                file = folder / "suite.toml"
                file.write_text(suite, encoding="utf-8")
                asked = Request(
                    suite="suite",
                    suite_file=str(file),
                    description="",
                    cases=resolve(SuiteFile(file, own), lookup=own),
                    ladder=[],
                    python=sys.executable,
                    device="cpu",
                    data=None,
                    out=folder / "out",
                    command=[],
                )
                with start(asked, target, Quiet()) as session:
                    return {record.case: record for record in session.execute()}

            yield run


QUICK_TORCH = Path(__file__).parent / "quick_torch"
QUICK = 'workloads = ["regression-linear"]\nsettings = {steps = 12, threads = 1, deadline_seconds = 100}'
ROUNDS = 6


class Silent:
    """Progress of a comparison, for nobody; ``said`` keeps it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def preparing(self, message: str) -> None:
        self.said.append(message)

    def started(self, number: int, total: int, case: str) -> None:
        self.said.append(f"started {case}")

    def session(self, verdict: CaseVerdict) -> None:
        self.said.append(f"session {verdict.outcome}")

    def finished(self, number: int, total: int, verdict: CaseVerdict) -> None:
        self.said.append(f"finished {verdict.outcome}")


class Compare:
    """Comparisons with the torch of ``quick_torch``: real processes that are there at once, and do what they are told.

    Attributes:
        folder: through which the processes and the test tell each other what happens.
        out: of the comparison.
    """

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.out, self.suite = tmp_path / "told", tmp_path / "ab", QUICK
        self.folder.mkdir()
        self.progress = Silent()
        self.python: dict[str, str] = {}
        self.paths: dict[str, list[str]] = {side: [str(QUICK_TORCH)] for side in SIDES}
        self._patch = patch
        self.plan()

    def plan(self, **sides: dict[str, Any]) -> None:
        """What each side does, see ``quick_torch/torch.py``."""
        self._patch.setenv("QUICK_TORCH", json.dumps({"folder": str(self.folder)} | sides))

    def at_import(self, does: str | None) -> None:
        """What whoever imports torch from now on does first."""
        plan = {"folder": str(self.folder), "side": "import", "at": "import", "does": does}
        self._patch.setenv("QUICK_IMPORT", json.dumps(plan) if does else "")

    def request(self, **changes: Any) -> AbRequest:
        file = self.folder / "suite.toml"
        file.write_text(self.suite, encoding="utf-8")
        cases = resolve(SuiteFile(file, own), lookup=own)
        values: dict[str, Any] = {
            "suite": "suite",
            "description": "",
            "cases": [AbCase(id=case.id, base=case.planned(), cand=case.planned()) for case in cases],
            "gate": AbGate(tolerance=0.01, limit=0.05, alpha=0.01, beta=0.05, looks=[3]),
            "seed": 7,
            "rounds": ROUNDS,
            "budget_seconds": 60.0,
            "self_check": False,
            "device": "cpu",
            "data": None,
            "out": self.out,
            "command": ["llmbench", "ab"],
        }
        return AbRequest(**(values | {side: self.side(side) for side in SIDES} | changes))

    def side(self, side: SideName) -> AbSide:
        python = self.python.get(side, sys.executable)
        return AbSide(asked=python, label=side, kind="python", python=python, paths=self.paths[side])

    def start(self, *, always_apart: bool = False, **changes: Any) -> AbRunner:
        return start_ab(self.request(**changes), self.progress, always_apart=always_apart)

    def resume(self, budget: float | None = None) -> AbRunner:
        return resume_ab(AbFolder(self.out), budget, self.progress, always_apart=False)

    def __call__(self, **changes: Any) -> AbComparison:
        """A whole comparison."""
        self.start(**changes).execute()
        return self.found()

    def found(self) -> AbComparison:
        return compared(AbFolder(self.out).read(), self.sessions())

    def sessions(self) -> list[AbSession]:
        return AbFolder(self.out).sessions()

    def one_session(self, **changes: Any) -> AbSession:
        self(**({"budget_seconds": 0.0} | changes))  # one is held however short it is
        (session,) = self.sessions()
        return session

    def reached(self, who: str) -> int:
        """Waits until a process is where it is to wait; its number."""
        file = self.folder / f"{who}.reached"
        return int(wait_for(lambda: file.exists() and file.read_text()))

    def pid(self, side: str) -> int:
        return int((self.folder / f"{side}.pid").read_text())

    def go(self, side: str) -> None:
        (self.folder / f"{side}.go").touch()

    @contextmanager
    def running(self, work: Callable[[], T]) -> Iterator[Future[T]]:
        """Does something in a thread, so that the test can interfere."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(work)

    def processes(self) -> list[psutil.Process]:
        """All that were started for this test and live, orphans included: they inherit its folder's name."""
        return [process for process in psutil.process_iter() if str(self.folder) in _plan_of(process)]


def _plan_of(process: psutil.Process) -> str:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
        return process.environ().get("QUICK_TORCH", "") if alive else ""
    except psutil.Error:
        return ""


@pytest.fixture
def compare(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Compare]:
    """Comparisons by processes that start at once. Whatever the test did to them, none may outlive it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pair, "TURN_SECONDS", 0.002)
    monkeypatch.setattr(
        sessions, "PAIRS", 1
    )  # a session of one pair is as good as one of two, and what it did is plain
    made = Compare(tmp_path, monkeypatch)
    yield made
    wait_for(lambda: not made.processes(), 20)
