"""Whatever goes wrong with a side, the test says which one and why, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import wait_for
from tests.plugin.conftest import STEP, TEST, Project

CALLS = TEST.replace(
    "    lockstep(work.step)",
    """
    calls = 0
    def step():
        nonlocal calls
        calls += 1
        if os.environ["LLMBENCH_SIDE"] == SIDE and calls == CALL:
            WHAT
        return work.step()
    lockstep(step)""",
)


def misbehaving(side: str, call: int, what: str) -> str:
    """A test one side of which does something at a certain step: the 2nd is of the warm-up, the 20th of a turn."""
    return (
        CALLS.replace("SIDE)", f"{side!r})")
        .replace("== SIDE", f"== {side!r}")
        .replace("CALL:", f"{call}:")
        .replace("WHAT", what)
    )


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 20], ids=["warm-up", "turn"])
@pytest.mark.parametrize("side", ["base", "cand"])
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("raise ValueError('planted')", "ValueError: planted (test_step.py:14)"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import time; time.sleep(600)", "no end after 10 s, in step (test_step.py:14)"),
    ],
    ids=["raises", "killed", "hangs"],
)
def test_a_side_that_does_not_come_to_its_end(project: Project, side: str, call: int, what: str, says: str) -> None:
    project.write(test_step=misbehaving(side, call, what))
    done = project.pytest(f"--llmbench-deadline={10 if 'sleep' in what else 120}")
    assert done.returncode == 1
    assert f"{side.upper()} " in done.stdout, done.stdout
    assert says in done.stdout, done.stdout
    other = {"base": "CAND", "cand": "BASE"}[side]
    assert f"--- {other}" not in done.stdout
    assert f"--- {side.upper()}: {says}" in done.stdout
    assert ("no base" if side == "base" else "broken") in done.stdout
    assert project.alive() == []
    _, (session,) = project.recorded()
    assert session.of("base" if side == "base" else "cand").error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("pass", "the test never called lockstep(step)"),
        ("lockstep(work.step); lockstep(work.step)", "RuntimeError: lockstep(step) was called a second time"),
        ("lockstep(7)", "TypeError: lockstep takes the step, a function; this is of type int"),
        ("lockstep(lambda: 'text')", "TypeError: step returned a str; the loss is"),
        ("lockstep(work.step); assert 1 == 2", "AssertionError: assert 1 == 2"),
    ],
    ids=["never", "twice", "no-function", "no-loss", "assert"],
)
def test_a_test_that_is_wrong_on_both_sides(project: Project, body: str, says: str) -> None:
    project.write(test_step=TEST.replace("lockstep(work.step)", body))
    done = project.pytest()
    assert done.returncode == 1
    assert f"BASE failed in 1 of 1 sessions: {says}" in done.stdout
    plain = project.pytest("--llmbench-skip")
    assert plain.returncode == (0 if body == "lockstep(lambda: 'text')" else 1)


MARKS = {
    "unknown": ("limits=5, base='git:HEAD'", "the mark llmbench has no keyword 'limits'", "did you mean limit"),
    "positional": ("'git:HEAD'", "the mark llmbench takes keywords only, not 'git:HEAD'", "base="),
    "percent": ("base='git:HEAD', limit='lots'", "limit='lots' is no percentage", "5%"),
    "number": ("base='git:HEAD', rounds=1", "rounds=1 is no number from 4 on", "24"),
    "no-text": ("base=7", "base=7 is no text", "git:origin/main"),
    "below": ("base='git:HEAD', limit=1, tolerance=2", "limit=1% is not above tolerance=2%", "such as"),
    "revision": ("base='git:nowhere'", "git:nowhere: there is no revision nowhere", "git branch --all"),
    "side": ("base='nowhere/python'", "nowhere/python", "a side is"),
}


@pytest.mark.parametrize("case", MARKS)
def test_a_wrong_mark(project: Project, case: str) -> None:
    mark, says, hint = MARKS[case]
    project.write(test_step=TEST.replace('base="git:HEAD"', mark))
    quick = [sys.executable, "-m", "pytest", "--llmbench-out=out"]
    done = subprocess.run(quick, cwd=project.path, env=project.environ, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "llmbench: " in done.stdout
    assert says in done.stdout, done.stdout
    assert hint in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.path / "out").exists()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("def test_step(lockstep)", "def test_step()", "a test with the mark llmbench takes the fixture lockstep"),
        ('@pytest.mark.llmbench(base="git:HEAD")', "", "the fixture lockstep is for tests with the mark"),
    ],
    ids=["mark-alone", "fixture-alone"],
)
def test_mark_and_fixture_belong_together(project: Project, before: str, after: str, says: str) -> None:
    project.write(test_step=TEST.replace(before, after))
    done = project.pytest()
    assert done.returncode == 1
    assert says in done.stdout, done.stdout


NEW = TEST.replace("import work", "import brand_new as work")


def test_a_base_that_cannot_import_the_test(project: Project) -> None:
    project.write(test_step=NEW, brand_new=STEP)
    done = project.pytest()
    assert done.returncode == 1
    says = "the test could not be collected: ModuleNotFoundError: No module named 'brand_new'"
    assert f"BASE failed in 1 of 1 sessions: {says}" in done.stdout


@pytest.mark.slow
def test_a_base_that_may_fail(project: Project) -> None:
    project.write(test_step=NEW.replace('HEAD"', 'HEAD", base_may_fail=True'), brand_new=STEP)
    done = project.pytest("-rs")
    assert done.returncode == 0
    assert "1 skipped" in done.stdout
    assert "there is nothing to hold it against: BASE failed" in done.stdout
    project.write(brand_new=STEP.replace("time.sleep(0.002)", "raise OSError('planted')"))
    assert project.pytest("--llmbench-out=again").returncode == 1  # both failed


@pytest.mark.slow
def test_a_base_whose_conftest_is_broken(project: Project) -> None:
    project.write(conftest="raise OSError('planted')")
    project.commit()
    project.write(conftest="")
    done = project.pytest()
    assert done.returncode == 1
    assert "BASE failed in 1 of 1 sessions: exit code 4: OSError: planted" in done.stdout


@pytest.mark.slow
def test_a_base_that_imports_the_candidates_code(project: Project) -> None:
    """As with an editable install, of a module that the base does not have."""
    project.write(test_step=NEW, brand_new=STEP)
    done = project.pytest(PYTHONPATH=os.pathsep.join([project.environ["PYTHONPATH"], str(project.path)]))
    assert done.returncode == 1
    assert "BASE failed in 1 of 1 sessions: it imported what is not its own: brand_new" in done.stdout


def test_a_skip_is_a_skip(project: Project) -> None:
    project.write(test_step=TEST.replace("lockstep(work.step)", "pytest.skip('not here')"))
    done = project.pytest("-rs")
    assert done.returncode == 0
    assert "skipped it: not here" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_nothing_outlives_the_pytest_of_the_user(project: Project, how: signal.Signals) -> None:
    body = """
    def step():
        open(os.environ["PLACE"] + os.environ["LLMBENCH_SIDE"], "w").close()
        __import__("time").sleep(600)
    lockstep(step)"""
    project.write(test_step=TEST.replace("    lockstep(work.step)", body))
    project.environ["PLACE"] = f"{project.path}/"
    process = project.start()
    wait_for(lambda: all((project.path / side).exists() for side in ("cand", "base")))
    sides = project.sides()
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (2 if how == signal.SIGINT else -signal.SIGKILL)
    psutil.wait_procs(sides.values(), timeout=30)
    assert wait_for(lambda: not project.alive(), 30)
    if how == signal.SIGINT:
        assert project.out.read().status == "interrupted"
