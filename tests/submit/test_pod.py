"""``llmbench submit pod``: the process that pods run."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.submit import pod
from llmbench.submit.bundle import unpack
from tests.conftest import Command, wait_for

Started = Callable[..., object]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets pods run these lines of Python instead of llmbench."""

    def write(lines: str) -> None:
        file = tmp_path / "program.py"
        file.write_text(lines)
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {file} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setattr(pod.sys, "executable", str(script))

    return write


@pytest.mark.parametrize(
    ("rank", "code", "report_code", "expected"),
    [("0", 0, False, 0), ("0", 3, False, 3), ("0", 2, False, 2), ("1", 2, False, 1), ("1", 0, False, 0),
     ("0", 3, True, 0), ("1", 2, True, 0)],
)  # fmt: skip
def test_the_code_of_a_pod(
    program: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rank: str,
    code: int,
    report_code: bool,
    expected: int,
) -> None:
    (tmp_path / "status").touch()
    monkeypatch.setattr(pod, "TERMINATION_LOG", tmp_path / "status")
    program(f"import sys; sys.exit({code})")
    assert pod.run_pod(["run"], None, {"PET_NODE_RANK": rank}, report_code=report_code) == expected
    assert json.loads((tmp_path / "status").read_text()) == {"llmbench": {"code": code}}


def test_a_killed_program_has_the_code_of_its_signal(program: Callable[[str], None]) -> None:
    program("import os; os.kill(os.getpid(), 9)")
    assert pod.run_pod([], None, {}, report_code=False) == 137


def test_node_0_hands_the_run_over(
    program: Callable[[str], None], made_run: Callable[..., Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program("print('a summary')")
    run = made_run()
    assert pod.run_pod(["run"], run, {"PET_NODE_RANK": "1"}, report_code=False) == 0
    assert "BEGIN" not in capfd.readouterr().out
    assert pod.run_pod(["run"], run, {"PET_NODE_RANK": "0"}, report_code=False) == 0
    log = capfd.readouterr().out
    assert log.startswith("a summary\n")
    assert unpack(log.splitlines(), tmp_path / "out")
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()


def test_without_a_run_it_says_so(
    program: Callable[[str], None], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program("import sys; sys.exit(2)")
    assert pod.run_pod(["run"], tmp_path / "none", {}, report_code=False) == 2
    assert "no run to hand over" in capfd.readouterr().err


@pytest.mark.slow
def test_sigterm_closes_the_run_and_hands_it_over(started: Callable[..., object], tmp_path: Path) -> None:
    """As when Kubernetes ends a pod; what is finished comes back."""
    from tests.conftest import ENDLESS

    suite = tmp_path / "mine.toml"
    suite.write_text(ENDLESS)
    out = tmp_path / "run"
    process = started("submit", "pod", "--hand-over", out, "--", "run", suite, "--out", out, "--device", "cpu")
    wait_for(lambda: (out / "records.jsonl").exists() and (out / "records.jsonl").read_bytes().endswith(b"\n"))
    os.kill(process.pid, signal.SIGTERM)  # type: ignore[attr-defined]
    log, errors = process.communicate(timeout=240)  # type: ignore[attr-defined]
    assert process.returncode == 143, errors  # type: ignore[attr-defined]
    assert unpack(log.splitlines(), tmp_path / "back")
    assert (tmp_path / "back" / "records.jsonl").read_bytes() == (out / "records.jsonl").read_bytes()


def test_nothing_to_do_is_a_usage_error(llmbench: Command) -> None:
    done = llmbench("submit", "pod")
    assert done.returncode == 2
    assert "--hand-over" in done.stderr
