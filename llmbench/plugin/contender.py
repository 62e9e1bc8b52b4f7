"""One side of a marked test: a fresh pytest that runs this test alone, in turns with another."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmbench.launch.pair import SHORTEST_TURN
from llmbench.launch.sessions import Draw
from llmbench.launch.target import patience, signal_name
from llmbench.paths import PACKAGE
from llmbench.plugin.rules import Rules
from llmbench.plugin.trees import Tree
from llmbench.pytest_plugin import SESSION, SIDE, chosen
from llmbench.results.ab import AbSide, SideName, Trained
from llmbench.results.schema import Error, Memory

STACK_SECONDS = 0.5  # for a side that hangs to write its stacks before it is killed
LOOK_SECONDS = 0.5
# Variables of the user's pytest that would change what a side is, or slow its steps down.
_OF_THE_PARENT = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_", "COV_CORE_", "COVERAGE_PROCESS_")
_INNERMOST = re.compile(r'Current thread .*\n  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)$', re.M)


@dataclass(frozen=True)
class Test:
    """What a side's pytest is to run.

    Attributes:
        file: the test's, relative to the checkout.
        selection: ``::Class::test[parameters]``.
        working: folder in which the user started pytest, relative to its rootdir.
    """

    file: Path
    selection: str
    working: Path
    config: pytest.Config


def test_of(item: pytest.Item, cand: Tree) -> Test:
    """What has to be run elsewhere to run this test."""
    config = item.config
    here = config.invocation_params.dir
    return Test(
        file=item.path.relative_to(cand.files[0]),
        selection=item.nodeid[item.nodeid.index("::") :],
        working=here.relative_to(config.rootpath) if here.is_relative_to(config.rootpath) else Path(),
        config=config,
    )


class PytestSide:
    """A side of a session; see ``launch/pair.py``.

    Args:
        drawn: what was drawn for the session.
        other: the folder of the other side's files, of which nothing must be imported.
        log: file to which all that its pytest says is appended.
        describe: whether to ask for the environment, which takes time.

    Attributes:
        machine: what it told of the environment.
        skipped: why the test was skipped there.
    """

    ranks = 1

    def __init__(
        self,
        name: SideName,
        side: AbSide,
        tree: Tree,
        other: Path | None,
        test: Test,
        rules: Rules,
        drawn: Draw,
        cpus: list[int] | None,
        folder: Path,
        log: str,
        *,
        describe: bool,
    ) -> None:
        self._name, self._side, self._tree, self._other, self._test = name, side, tree, other, test
        self._rules, self._drawn, self._cpus = rules, drawn, cpus
        self._folder, self._log, self._describe = folder, log, describe
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.machine: dict[str, Any] = {}
        self.skipped: str | None = None

    def __enter__(self) -> PytestSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ready(self) -> None:
        """It starts with its training: its interpreter was probed when the side was made."""

    def kill(self) -> None:
        """Ends its pytest and all that this started; one that has not been started yet never is."""
        with self._lock:
            self._ended = True
            self._kill_group()

    def train(self, socket: str, waited: Callable[[], float]) -> Trained:
        log = self._folder / self._log
        begin = log.stat().st_size if log.exists() else 0
        with tempfile.TemporaryDirectory(prefix="llmbench-side-") as folder:
            result = Path(folder, "result.json")
            code, hung = self._run(socket, result, log, waited)
            found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        if code is None:
            return Trained(status="aborted", log=self._log)
        self.machine = found.get("machine", {})
        self.skipped = found.get("skipped")
        said = log.read_bytes()[begin:].decode("utf-8", errors="replace")
        error = self._hung(said) if hung else self._error(code, found, said)
        if error is not None:
            return Trained(status="timeout" if hung else "failed", error=error, log=self._log)
        return Trained(
            memory=Memory.model_validate(found["memory"]),
            loss=[value if value is not None and math.isfinite(value) else None for value in found["losses"]],
            facts=found["facts"],
            preempted=found["preempted"],
            log=self._log,
        )

    def _run(self, socket: str, result: Path, log: Path, waited: Callable[[], float]) -> tuple[int | None, bool]:
        """Exit code of its pytest, negative for a signal, None if it was ended by ``kill``; and whether it hung."""
        job = result.with_name("job.json")
        job.write_text(json.dumps(self._job(socket, result)), encoding="utf-8")
        start = str(PACKAGE / "worker" / "start.py")
        arguments = self._arguments(result.parent)
        hung = False
        with open(log, "ab") as output:
            with self._lock:
                if self._ended:
                    return None, False
                self._process = subprocess.Popen(
                    [self._side.python, start, "--pytest", str(job), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self._working_folder(),
                    env=self._environ(),
                    start_new_session=True,
                )
            begin = time.monotonic()
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(LOOK_SECONDS)
                    break
                if not hung and time.monotonic() - begin - waited() > self._rules.deadline:
                    hung = True
                    self._process.send_signal(signal.SIGUSR1)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(STACK_SECONDS)
                    self._kill_group()
        self._kill_group()  # what it left behind, such as workers of a data loader
        return (None if self._ended else code), hung

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _job(self, socket: str, result: Path) -> dict[str, Any]:
        return {
            "socket": socket,
            "side": self._name,
            "result": str(result),
            "parent": os.getpid(),
            "warmup": self._rules.warmup,
            "losses": self._rules.warmup + SHORTEST_TURN * self._rules.rounds,
            "cpus": self._cpus,
            "describe": self._describe,
            "own": [str(folder.resolve()) for folder in self._tree.files],
            "other": str(self._other.resolve()) if self._other else None,
        }

    def _arguments(self, folder: Path) -> list[str]:
        """For its pytest; a revision that has the configuration file is read with its own.

        Args:
            folder: for what it keeps. In the usual place for temporary files it would clean up, at its end, after
                those that ran before it; a side that is waited for has no time for that.
        """
        config, root = self._test.config, self._tree.root
        found = ["-s", "-o", f"cache_dir={folder / 'cache'}", f"--basetemp={folder / 'tmp'}"]
        found += ["-o", "faulthandler_timeout=0", "--rootdir", str(root)]
        if config.inipath is not None and config.inipath.is_relative_to(config.rootpath):
            file = root / config.inipath.relative_to(config.rootpath)
            found += ["-c", str(file)] if file.exists() else []
        found += shlex.split(chosen(config, "args", {}) or "")
        return [*found, f"{self._tree.files[0] / self._test.file}{self._test.selection}"]

    def _working_folder(self) -> Path:
        folder = self._tree.root / self._test.working
        return folder if folder.is_dir() else self._tree.root

    def _environ(self) -> Mapping[str, str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_PARENT)}
        environ |= patience(environ) | {SIDE: self._name, SESSION: str(self._drawn.number)}
        environ |= self._drawn.variables
        if self._tree.paths:
            environ["PYTHONPATH"] = os.pathsep.join([*self._tree.paths, *filter(None, [environ.get("PYTHONPATH")])])
        return environ

    def _hung(self, said: str) -> Error:
        at = _INNERMOST.search(said)
        where = f", in {at['name']} ({Path(at['file']).name}:{at['line']})" if at else ""
        message = f"no end after {self._rules.deadline:g} s{where}"
        return Error(type="Timeout", message=message, hint="its log holds its stacks; deadline= gives it more time")

    def _error(self, code: int, found: Mapping[str, Any], said: str) -> Error | None:
        """Why there is no result; None if there is one."""
        hint = "its log holds its last words"
        if code < 0:
            return Error(type=signal_name(-code), message=f"killed by {signal_name(-code)}", hint=hint)
        if error := found.get("error"):
            return Error(type=error["type"], message=error["message"], hint=hint)
        if self.skipped is not None:
            return Error(type="Skipped", message=f"skipped: {self.skipped}", hint=hint)
        if code or not found.get("passed"):
            return Error(type="Exit", message=f"exit code {code}: {_last_words(said)}", hint=hint)
        return None


def _last_words(said: str) -> str:
    """The line that says most: pytest's own error, else that of a traceback, else the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for beginning in ("E  ", "ERROR"):
        if told := [line for line in lines if line.startswith(beginning)]:
            return told[-1].removeprefix(beginning).lstrip(": ")
    return lines[-1] if lines else "it said nothing"
