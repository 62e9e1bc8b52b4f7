"""What all tests share: a cache of their own, and the command line as a user starts it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from hypothesis import settings

from llmbench.results.schema import Record
from llmbench.results.store import RunFolder

# The same examples on every machine, and no verdict from its speed.
settings.register_profile("llmbench", derandomize=True, deadline=None)
settings.load_profile("llmbench")

T = TypeVar("T")
Command = Callable[..., subprocess.CompletedProcess[str]]

# A suite that trains in a second, and one case of it that goes on for minutes if nobody stops it.
QUICK = """
workloads = ["regression-linear", "gpt-tiny"]
settings = { steps = 20, threads = 1, eval_batches = 1, budget_seconds = 0 }
"""
ENDLESS = """
workloads = ["regression-linear", "regression-mlp"]
settings = { steps = 20, threads = 1, budget_seconds = 0, deadline_seconds = 240 }

[[override]]
workload = "regression-mlp"
settings = { steps = 500_000, micro_batch_size = 1 }
"""


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the commands that tests start: nothing of the user's caches is read or changed."""
    folder = tmp_path_factory.mktemp("cache")
    changed = {
        # Several tests run side by side: threads that spin while they wait for each other would starve them all.
        "OMP_NUM_THREADS": "1",
        "LLMBENCH_CACHE": str(folder / "llmbench"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
    }
    # Many short processes: they need not compile each module anew.
    dropped = ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | changed


@pytest.fixture(scope="session")
def llmbench_in(environment: dict[str, str]) -> Callable[[Path], Command]:
    """Makes what runs ``llmbench ARGUMENTS`` in a folder, and waits for it."""

    def inside(folder: Path) -> Command:
        def run(*arguments: object, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "llmbench", *map(str, arguments)],
                env=environment | variables,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=timeout,
            )

        return run

    return inside


@pytest.fixture
def llmbench(llmbench_in: Callable[[Path], Command], tmp_path: Path) -> Command:
    """Runs ``llmbench ARGUMENTS`` in a folder of its own, and waits for it."""
    return llmbench_in(tmp_path)


@pytest.fixture
def started(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``llmbench ARGUMENTS`` and does not wait; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmbench", *map(str, arguments)],
            env=environment | variables,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As in a terminal: what a shell starts in the background inherits that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Path]:
    """Writes a suite file."""

    def write(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


MANY_MINUTES = 1000.0  # seconds of patience with a single test


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are CPUs: many tests wait for processes, deadlines and browsers."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a test of many minutes come first: at the end one process would be left alone with it.

    Then those with the most tests, of what is selected. What starts whole clusters has few, and so does not begin all
    at once.
    """
    longest: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0.0), mark.args[0] if mark else 0.0)
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (longest[item.path] < MANY_MINUTES, -tests[item.path]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What needs a compiler is skipped where there is none; in CI there must be one."""
    if item.get_closest_marker("compiler"):
        headers = Path(sysconfig.get_paths()["include"], "Python.h")
        if not any(map(shutil.which, ("g++", "c++", "clang++"))) or not headers.exists():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("needs a C++ compiler and the headers of Python")


def records_of(folder: Path) -> dict[str, Record]:
    return {record.case: record for record in RunFolder(folder).records()}


def wait_for(what: Callable[[], T], seconds: float = 240) -> T:
    """Polls until ``what`` is true, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"{what} stayed false for {seconds} s")


def worker_of(process: subprocess.Popen[str]) -> psutil.Process | None:
    """The process that runs the case in flight: the child of the server."""
    try:
        servers = psutil.Process(process.pid).children()
        return next((child for server in servers for child in server.children()), None)
    except psutil.NoSuchProcess:
        return None


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)
