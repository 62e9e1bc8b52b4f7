"""``llmbench ab`` from the command line to its exit code; what it says of itself agrees with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmbench.cli import app
from llmbench.errors import UserError
from tests.conftest import wait_for
from tests.launch.test_faults import _memory_cgroup

from .conftest import ARGUMENTS, QuickAb

CASE = "regression-linear/eager/ws1"


def test_identical_sides_pass_and_the_document_is_all_there_is(quick_ab: QuickAb) -> None:
    done = quick_ab(*ARGUMENTS, "--self", "--out", quick_ab.out, "--budget", "1", "--json", "--seed", "5")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == 0
    assert (quick_ab.out / "report.html").exists()
    assert document["report"] == str(quick_ab.out / "report.html")
    ab = quick_ab.ab()
    assert (ab.seed, ab.self_check, ab.status, ab.rounds) == (5, True, "done", 4)
    assert [case.id for case in ab.cases] == [CASE]


@pytest.mark.parametrize(("side", "code"), [("base", 3), ("cand", 1)])
def test_a_side_that_fails_in_every_output(quick_ab: QuickAb, side: str, code: int, tmp_path: Path) -> None:
    outputs = {kind: tmp_path / f"told.{kind}" for kind in ("junit", "markdown", "html")}
    options = [text for kind, file in outputs.items() for text in (f"--{kind}", file)]
    plan = {side: {"at": 13, "does": "raise"}}
    done = quick_ab(*ARGUMENTS, "--self", "--out", quick_ab.out, *options, **plan)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    why = f"{side.upper()} failed in 1 of 1 sessions: the sample is torn (torch.py:"
    assert why in " ".join(done.stdout.split())
    assert "the sample is torn" in outputs["markdown"].read_text()
    assert "the sample is torn" in outputs["html"].read_text()
    (suite,) = ElementTree.parse(outputs["junit"]).getroot().iter("testsuite")
    assert int(suite.get("failures", 0)) + int(suite.get("errors", 0)) == 1


@pytest.mark.slow
def test_what_is_three_times_as_slow_fails(quick_ab: QuickAb) -> None:
    done = quick_ab(*ARGUMENTS, "--self", "--out", quick_ab.out, cand={"slowdown": 3.0})
    assert done.returncode == 1, done.stdout
    assert "slower" in done.stdout
    # A fail stays one: going on with it adds nothing.
    sessions = len(quick_ab.sessions())
    again = quick_ab("ab", "--resume", quick_ab.out)
    assert again.returncode == 1
    assert len(quick_ab.sessions()) == sessions


def test_an_interpreter_that_cannot_import_torch(quick_ab: QuickAb) -> None:
    process = quick_ab.started(at_import="raise")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "base: " in stderr
    assert "cannot import torch: ValueError: the sample is torn" in stderr
    assert "llmbench doctor --python" in stderr
    assert stdout == ""
    assert not quick_ab.out.exists()


def test_resume_of_a_damaged_line(quick_ab: QuickAb) -> None:
    assert quick_ab(*ARGUMENTS, "--self", "--out", quick_ab.out, "--budget", "1").returncode == 0
    file = quick_ab.out / "sessions.jsonl"
    damaged = file.read_text() + '{"schema_version":1,"case":7}\n'
    file.write_text(damaged)
    done = quick_ab("ab", "--resume", quick_ab.out)
    assert done.returncode == 2
    assert f"{file}, line " in done.stderr
    assert "case" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == damaged


@pytest.mark.slow
def test_two_at_once_do_not_add_to_one_comparison(quick_ab: QuickAb) -> None:
    process = quick_ab.started(cand={"at": 13, "does": "wait"}, budget=1)
    quick_ab.reached("cand")
    done = quick_ab("ab", "--resume", quick_ab.out)
    assert done.returncode == 2
    assert "another `llmbench ab` adds sessions to it just now" in done.stderr
    (quick_ab.told / "cand.go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(quick_ab.sessions()) == 1


def test_the_plan_starts_nothing(quick_ab: QuickAb) -> None:
    modes = ("--base-mode", "eager", "--cand-mode", "bf16")
    done = quick_ab("ab", "smoke", "-w", "regression-linear", *modes, "--plan", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {
            "case": "regression-linear/eager..bf16/ws1",
            "base": CASE,
            "cand": "regression-linear/bf16/ws1",
        }
    ]
    assert not quick_ab.out.exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "which two sides?"),
        (["--self", "--base", "python3"], "--self compares --python with itself"),
        (["--base-mode", "eager"], "--base-mode and --cand-mode belong together"),
        (["--base-mode", "eager", "--cand-mode", "bf16", "-m", "eager"], "exclude each other"),
        (["--self", "--limit", "1", "--tolerance", "2"], "is not above --tolerance"),
        (["--self", "--resume", "somewhere"], "--resume goes on with a comparison as it was begun"),
        (["--resume", "nowhere"], "nowhere is no comparison"),
        (["--self", "-w", "gpt-tny"], "gpt-tiny"),
        (["no-such-suite", "--self"], "no-such-suite"),
        (["--base", "no-such-python", "--cand", "python3"], "no-such-python"),
        (["--self", "--plan", "--junit", "x.xml"], "--plan does nothing that --junit could tell of"),
    ],
)
def test_wrong_usage(arguments: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["ab", *arguments])
    assert isinstance(found.exception, UserError)
    assert why in f"{found.exception.message} {found.exception.hint}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.cgroup
@pytest.mark.skipif(_memory_cgroup() is None, reason="needs root and a memory cgroup of version 1")
@pytest.mark.parametrize(("megabytes", "code"), [(350, 0), (700, 3)])
def test_sides_that_the_kernel_kills_for_memory(
    quick_ab: QuickAb, megabytes: int, code: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """Of 600 MB one side has room, and two have not; or not even one."""
    group = _memory_cgroup() / f"llmbench-ab-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(600 << 20))
        allocates = {"at": "build", "does": "allocate", "megabytes": megabytes}
        command = [sys.executable, "-m", "llmbench", *ARGUMENTS, "--self", "--out", str(quick_ab.out)]
        done = subprocess.run(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command],
            env=environment | quick_ab.variables({"base": allocates, "cand": allocates}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        first, *later = quick_ab.sessions()
        assert first.design == "lockstep"
        killed = [side for side in (first.base, first.cand) if side.status == "oom"]
        assert killed
        assert {side.error.type for side in killed} == {"OutOfMemoryKill"}
        assert {session.design for session in later} == {"apart"}
        assert done.returncode == code, done.stdout + done.stderr
        assert all(session.whole for session in later) is (code == 0)
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text().strip())
        group.rmdir()
