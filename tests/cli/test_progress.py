"""Progress: lines in a log, redrawing only in a terminal that somebody looks at."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import QUICK, Command, wait_for

ESCAPE = "\x1b"


@pytest.mark.slow
def test_no_cursor_codes_in_a_log(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    done = llmbench("run", suite(QUICK), "-w", "regression", "--out", tmp_path / "r", FORCE_COLOR="1", CI="true")
    assert ESCAPE not in done.stderr + done.stdout
    assert "[1/1] PASS    regression-linear/eager/ws1" in done.stderr


@pytest.mark.slow
def test_progress_none_says_nothing(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    done = llmbench("run", suite(QUICK), "-w", "regression", "--out", tmp_path / "r", "--progress", "none")
    assert done.stderr == ""


@pytest.mark.parametrize(("term", "live"), [("xterm-256color", True), ("dumb", False)])
def test_in_a_terminal(
    environment: dict[str, str], suite: Callable[..., Path], tmp_path: Path, term: str, live: bool
) -> None:
    path = suite(QUICK)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmbench", "run", str(path), "-w", "regression", "--out", str(tmp_path / "r")],
        env=environment | {"TERM": term},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux says so when the last writer has closed a terminal
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0
    assert (ESCAPE.encode() in shown) is live
    assert b"regression-linear/eager/ws1" in shown


def test_a_long_case_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmbench.cli import progress as module
    from llmbench.cli.options import ProgressKind
    from llmbench.suite.cases import resolve
    from llmbench.suite.load import find

    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    stream = io.StringIO()
    case = resolve(find("smoke"), workloads=["gpt"], modes=["eager"])[0]
    with module.progress_of(ProgressKind.plain, stream) as progress:
        progress.follow(lambda: 57)
        progress.started(1, 1, case)
        progress.phase("timed")
        wait_for(lambda: "step 57 of 100" in stream.getvalue())
        progress.follow(lambda: 130)
        wait_for(lambda: "step 130 (30 beyond the training)" in stream.getvalue())
