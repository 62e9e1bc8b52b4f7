"""The plugin beside others, without a base, and in a run that has nothing to do with it."""

from __future__ import annotations

import os
import subprocess
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from llmbench.stats.ab import compared
from tests.plugin.conftest import TEST, Project

BASELESS = TEST.replace('base="git:HEAD"', 'limit="5%"')


@pytest.mark.parametrize(
    ("test", "arguments", "why"),
    [(BASELESS, [], "no base: --llmbench-base"), (TEST, ["--llmbench-skip"], "--llmbench-skip")],
    ids=["no-base", "skip"],
)
def test_without_a_base_it_is_an_ordinary_test(project: Project, test: str, arguments: list[str], why: str) -> None:
    project.write(test_step=test)
    done = project.pytest(*arguments)
    assert done.returncode == 0
    assert "· not gated     tests/test_step.py::test_step  3 steps, as an ordinary test" in done.stdout
    assert why in done.stdout
    assert not (project.path / "out").exists()


@pytest.mark.slow
def test_the_command_line_wins_over_the_mark_and_the_mark_over_the_file(project: Project) -> None:
    (project.path / "pytest.ini").write_text("[pytest]\nllmbench_base = git:of-file\nllmbench_limit = 30\n")
    project.write(test_step=BASELESS)
    assert "git:of-file: there is no revision" in project.pytest().stdout
    project.write(test_step=TEST.replace("HEAD", "of-mark"))
    assert "git:of-mark: there is no revision" in project.pytest().stdout
    assert "git:of-line: there is no revision" in project.pytest("--llmbench-base=git:of-line").stdout


@pytest.mark.slow
def test_a_side_starts_no_sides(project: Project) -> None:
    """A step, or a test within a side, that runs pytest itself."""
    project.write(
        test_step=TEST.replace(
            "    lockstep(work.step)",
            """
    import subprocess, sys
    inner = [sys.executable, "-m", "pytest", "-o", "addopts=", "-k", "inner", __file__]
    if os.environ.get("LLMBENCH_SIDE"):
        done = subprocess.run(inner, capture_output=True, text=True)
        assert "within a side of another gate" in done.stdout
    lockstep(work.step)

@pytest.mark.llmbench(base="git:nowhere")
def test_inner(lockstep):
    lockstep(work.step)
""",
        )
    )
    done = project.pytest("--llmbench-budget=1", "-k", "test_step and not inner")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 deselected" in done.stdout


@pytest.mark.slow
def test_beside_xdist_timeout_and_benchmark(project: Project) -> None:
    """Tests compare their steps one after the other; both workers write to one comparison."""
    (project.path / "pytest.ini").write_text(
        "[pytest]\naddopts = -n 2 -m 'not slow' --benchmark-disable-gc --timeout=100\nmarkers = slow: is slow\n"
        "llmbench_base = git:HEAD\nllmbench_budget = 1\n"
    )
    project.commit()
    project.write(
        test_step="""
import os, time
import pytest
import work

@pytest.mark.slow
@pytest.mark.llmbench
@pytest.mark.parametrize("name", "ab")
def test_step(lockstep, name):
    with open(os.environ["TOLD"], "a") as told:
        print("begin", name, file=told)
    lockstep(work.step)
    with open(os.environ["TOLD"], "a") as told:
        print("end", name, file=told)

@pytest.mark.slow
def test_benchmark(benchmark):
    benchmark(work.step)
"""
    )
    told = project.path / "told.txt"
    done = project.pytest("-m", "slow", TOLD=str(told))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    ab, sessions = project.recorded()
    assert ab.status == "done"
    assert {one.case[-3:] for one in sessions} == {"[a]", "[b]"}
    assert all(one.whole for one in sessions)
    order = [line.split()[1] for line in told.read_text().splitlines()]
    assert order in (["a"] * 4 + ["b"] * 4, ["b"] * 4 + ["a"] * 4)
    summary = done.stdout[done.stdout.index("= llmbench =") :]
    assert summary.count("inconclusive  tests/test_step.py::test_step[") == 2
    assert summary.count("report: ") == 1


@pytest.mark.slow
def test_a_timeout_ends_the_comparison(project: Project) -> None:
    project.write(test_step=TEST.replace("@pytest", "@pytest.mark.timeout(6)\n@pytest", 1))
    done = project.pytest("--llmbench-rounds=10000")
    assert done.returncode == 1
    assert "Timeout (>6.0s)" in done.stdout
    assert project.alive() == []


@pytest.mark.slow
def test_arguments_for_the_sides(project: Project) -> None:
    project.write(
        conftest="def pytest_addoption(parser):\n    parser.addoption('--device', default='cpu')\n",
        test_step=TEST.replace(
            "(lockstep):", "(lockstep, pytestconfig):\n    assert pytestconfig.option.device == 'xpu'"
        ),
    )
    project.commit()
    assert "AssertionError" in project.pytest("--llmbench-budget=1", "--device=xpu").stdout
    done = project.pytest("--llmbench-budget=1", "--llmbench-out=again", "--llmbench-args=--device 'xpu'")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_test_of_a_folder_that_the_base_does_not_have(project: Project) -> None:
    """The project is below the root of its checkout, and pytest is started below that."""
    below = project.path / "python"
    (below / "tests" / "steps").mkdir(parents=True)
    (project.path / "work.py").rename(below / "work.py")
    (below / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    project.commit()
    (below / "tests" / "steps" / "test_new.py").write_text(TEST)
    done = subprocess.run(
        project.command("--llmbench-budget=1", "test_new.py"),
        cwd=below / "tests" / "steps",
        env=project.environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (below / "out" / "ab.json").exists()


def test_a_run_without_marked_tests_imports_nothing_of_it(project: Project) -> None:
    project.write(
        test_step="""
import sys

def test_modules():
    assert "llmbench.pytest_plugin" in sys.modules
    ours = {name for name in sys.modules if name.startswith("llmbench")}
    assert ours == {"llmbench", "llmbench.pytest_plugin"}
    assert not {"pydantic", "typer", "rich", "jinja2", "psutil"} & set(sys.modules)
"""
    )
    done = project.pytest("-p", "no:xdist")
    assert done.returncode == 0, done.stdout


def test_an_install_brings_the_plugin(installed: Path) -> None:
    """What these tests are given as installed is what pyproject.toml declares."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    found = Distribution.at(installed / "llmbench-0.dist-info").entry_points
    assert declared["pytest11"] == {one.name: one.value for one in found if one.group == "pytest11"}


def test_marks_are_known_to_strict_runs(project: Project) -> None:
    done = project.pytest("--strict-markers", "--strict-config", "--collect-only")
    assert done.returncode == 0, done.stdout
    assert "@pytest.mark.llmbench(base, limit" in project.pytest("--markers").stdout


@pytest.mark.slow
@pytest.mark.slow
def test_a_training_step_of_torch(project: Project) -> None:
    """Same code: neither memory nor loss may differ; the loss is a tensor, the environment names torch."""
    project.write(
        work="""
import torch

def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    return model, torch.optim.AdamW(model.parameters()), torch.randn(32, 64)
"""
    )
    project.commit()
    project.write(
        test_step="""
import pytest, work

@pytest.mark.llmbench(base="git:HEAD", cpus=1)
def test_step(lockstep):
    model, optimizer, batch = work.make()
    def step():
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss
    lockstep(step)
"""
    )
    done = project.pytest("--llmbench-limit=90%", "--llmbench-tolerance=50%")
    assert done.returncode == 0, done.stdout + done.stderr
    import torch

    ab, sessions = project.recorded()
    found = {row.metric: row.outcome for row in compared(ab, sessions).rows}
    assert (found["loss"], found["memory"]) == ("same", "same")
    assert ab.cand.environment["torch"]["version"] == torch.__version__
    first = sessions[0]
    assert first.base.loss == first.cand.loss
    assert first.base.loss[-1] < first.base.loss[0]
    if len(os.sched_getaffinity(0)) > 1:
        assert first.cpus is not None
        assert len(first.cpus) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_not_that_of_the_pytest_that_started_it(project: Project) -> None:
    project.write(
        conftest="import os\nkept = None if 'LLMBENCH_SIDE' in os.environ else bytearray(b'x' * 300_000_000)\n"
    )
    assert project.pytest("--llmbench-budget=1").returncode == 0
    _, (session,) = project.recorded()
    assert session.cand.memory is not None
    assert 0 < (session.cand.memory.peak_rss_bytes or 0) < 200_000_000
