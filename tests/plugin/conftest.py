"""A project of somebody's, with a git repository, a training step and llmbench's plugin as an install leaves it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmbench.results.ab import Ab, AbSession
from llmbench.results.ab_folder import AbFolder

# A step sleeps, so that how long it takes does not hang on what else this machine does.
STEP = """
import time

def step():
    time.sleep(0.002)
    return 1.5
"""
TEST = """
import os
import pytest
import work

@pytest.mark.llmbench(base="git:HEAD")
def test_step(lockstep):
    lockstep(work.step)
"""


class Project:
    """Attributes:
    path: of the checkout.
    identity: in the environment of every process that its pytest starts.
    """

    def __init__(self, path: Path, environment: dict[str, str], installed: Path) -> None:
        self.path = path
        self.identity = uuid.uuid4().hex
        search = os.pathsep.join([str(installed), environment["PYTHONPATH"]])
        dropped = ("PYTEST_", "COV_CORE", "LLMBENCH_SIDE")
        kept = {name: value for name, value in environment.items() if not name.startswith(dropped)}
        self.environ = kept | {"PYTHONPATH": search, "LLMBENCH_OF_TEST": self.identity}
        self.running: list[subprocess.Popen[str]] = []

    def write(self, **files: str) -> None:
        """Modules by name; those that begin with ``test`` lie in ``tests/``."""
        for name, text in files.items():
            folder = self.path / "tests" if name.startswith(("test", "conftest")) else self.path
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.py").write_text(text, encoding="utf-8")

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "as it is")

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=self.path, check=True, capture_output=True)

    def command(self, *arguments: str) -> list[str]:
        quick = ["--llmbench-alpha=0.2", "--llmbench-rounds=4", "--llmbench-warmup=3", "--llmbench-sessions=3"]
        return [sys.executable, "-m", "pytest", "--llmbench-out=out", *quick, *arguments]

    def pytest(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env=self.environ | variables,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.path,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.running.append(process)
        return process

    @property
    def out(self) -> AbFolder:
        return AbFolder(self.path / "out")

    def recorded(self) -> tuple[Ab, list[AbSession]]:
        return self.out.read(), self.out.sessions()

    def alive(self) -> list[psutil.Process]:
        """Processes that its pytest, or what this started, has started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("LLMBENCH_OF_TEST") == self.identity:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    def sides(self) -> dict[str, psutil.Process]:
        """The pytests of both sides that run now, by side."""
        found = {}
        for process in self.alive():
            try:
                name = process.environ().get("LLMBENCH_SIDE")
                if name and "--pytest" in process.cmdline():
                    found[name] = process
            except psutil.NoSuchProcess:
                continue
        return found


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the import path by which pytest finds the plugin as that of an installed llmbench."""
    folder = tmp_path_factory.mktemp("installed")
    facts = folder / "llmbench-0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: llmbench\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[pytest11]\nllmbench = llmbench.pytest_plugin\n")
    return folder


@pytest.fixture
def project(tmp_path: Path, environment: dict[str, str], installed: Path) -> Iterator[Project]:
    """One whose base has a step that sleeps for 2 ms, and whose candidate has a test for it."""
    path = tmp_path / "project"
    path.mkdir()
    project = Project(path, environment, installed)
    project.git("init", "-q", "-b", "main")
    project.write(work=STEP)
    project.commit()
    project.write(test_step=TEST)
    yield project
    for process in project.running:
        process.kill()
        process.communicate()
    for process in project.alive():
        process.kill()
