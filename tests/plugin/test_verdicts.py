"""What a marked test says of a step: each verdict is provoked, and every output agrees with it."""

from __future__ import annotations

import json
import sys
from xml.etree import ElementTree

import pytest

from llmbench.stats.ab import compared
from tests.plugin.conftest import STEP, TEST, Project

SLOWER = STEP.replace("0.002", "0.004")
MORE = STEP.replace("def step():", "kept = bytearray(b'x' * 60_000_000)\n\ndef step():")
CHANGED = STEP.replace("1.5", "1.6")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "metric", "outcome"),
    [(SLOWER, "step", "slower"), (MORE, "memory", "more"), (CHANGED, "loss", "changed")],
    ids=["slower", "more", "changed"],
)
def test_what_got_worse_fails_by_its_own_gate(project: Project, planted: str, metric: str, outcome: str) -> None:
    project.write(work=planted)
    done = project.pytest("--junitxml=junit.xml", "--llmbench-limit=60%")
    assert done.returncode == 1, done.stdout + done.stderr
    ab, sessions = project.recorded()
    comparison = compared(ab, sessions)
    assert {(row.metric, row.outcome) for row in comparison.failures} >= {(metric, outcome)}
    assert {row.metric for row in comparison.failures} <= {metric, "total" if metric == "step" else metric}
    assert ab.status == "done"
    assert project.out.report.exists()
    assert f"tests/test_step.py::test_step: {metric} " in done.stdout
    summary = done.stdout[done.stdout.index("= llmbench =") :]
    assert str(project.out.report) in summary
    properties = {
        one.get("name"): one.get("value") for one in ElementTree.parse(project.path / "junit.xml").iter("property")
    }
    assert properties["llmbench_verdict"] == comparison.cases[0].outcome == outcome
    assert properties["llmbench_sessions"] == str(len(sessions))


FIXTURES = """
import os
import pathlib
import pytest
import work

HERE = pathlib.Path(__file__).parent

@pytest.fixture(scope="module")
def model():
    with open(os.environ["TOLD"], "a") as told:
        print(os.environ.get("LLMBENCH_SIDE"), "model", file=told)
    return work

@pytest.mark.llmbench(base="git:HEAD", limit="60%")
class TestSteps:
    @pytest.mark.parametrize("name", ["a b", "[c]::d"])
    def test_step(self, model, name, lockstep, tmp_path):
        (tmp_path / "mine").touch()
        assert "llmbench-side-" in str(tmp_path)  # of this side alone: at its end it cleans up after nobody else
        lockstep(model.step)

def test_ordinary(model):
    model.step()
"""


@pytest.mark.slow
def test_same_passes_and_runs_nowhere_but_in_the_sides(project: Project) -> None:
    project.write(test_step=FIXTURES)
    told = project.path / "told.txt"
    done = project.pytest("--llmbench-tolerance=20", TOLD=str(told))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    ab, sessions = project.recorded()
    assert [case.id for case in ab.cases] == [
        "tests/test_step.py::TestSteps::test_step[a b]",
        "tests/test_step.py::TestSteps::test_step[[c]::d]",
    ]
    assert {row.outcome for row in compared(ab, sessions).rows} == {"same"}
    assert {row.metric for row in compared(ab, sessions).rows} == {"step", "total", "memory", "loss"}
    made = told.read_text().splitlines()
    assert made.count("base model") == made.count("cand model") == len(sessions)
    assert made.count("None model") == 1  # of the ordinary test
    assert ab.base.environment["packages"]["pytest"] == pytest.__version__
    assert ab.gate.alpha == 0.2
    assert done.stdout.count("= same ") == 2


@pytest.mark.slow
def test_rules_that_differ_share_alpha(project: Project) -> None:
    project.write(
        test_step=TEST
        + """
@pytest.mark.llmbench(base="git:HEAD", limit="30%")
def test_strict(lockstep):
    lockstep(work.step)
"""
    )
    done = project.pytest("--llmbench-budget=1")
    assert done.returncode == 0, done.stdout + done.stderr
    alphas = [json.loads((project.path / "out" / name / "ab.json").read_text())["gate"]["alpha"] for name in "12"]
    assert alphas == [0.1, 0.1]
    assert not (project.path / "out" / "ab.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["-W", "error"]], ids=["plain", "warnings-are-errors"])
def test_what_cannot_be_told_passes_with_a_warning(project: Project, arguments: list[str]) -> None:
    done = project.pytest("--llmbench-budget=1", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "InconclusiveWarning: llmbench could not tell" in done.stdout
    assert len(project.recorded()[1]) == 1


@pytest.mark.slow
def test_strict_fails_what_cannot_be_told(project: Project) -> None:
    done = project.pytest("--llmbench-budget=1", "--llmbench-strict")
    assert done.returncode == 1
    assert "inconclusive" in done.stdout


@pytest.mark.slow
def test_a_folder_that_holds_a_comparison_is_not_written_to(project: Project) -> None:
    assert project.pytest("--llmbench-budget=1").returncode == 0
    before = project.recorded()
    done = project.pytest("--llmbench-budget=1")
    assert done.returncode == 1
    assert "holds a comparison already" in done.stdout
    assert project.recorded() == before


@pytest.mark.slow
def test_an_environment_is_a_base_too(project: Project) -> None:
    """The same checkout on both sides, the candidate's and the base's Python the same: a self-check in effect."""
    done = project.pytest(f"--llmbench-base={sys.executable}", "--llmbench-budget=1")
    assert done.returncode == 0, done.stdout + done.stderr
    ab, (session,) = project.recorded()
    assert (ab.base.kind, session.whole) == ("python", True)


@pytest.mark.slow
def test_a_declared_change_of_the_loss_is_held_against_its_margin(project: Project) -> None:
    """The loss of session N is N + 1 in the base, and 4 % more in the candidate."""
    loss = "1.5 + int(__import__('os').environ['LLMBENCH_SESSION'])"
    project.write(work=STEP.replace("1.5", loss))
    project.commit()
    project.write(work=STEP.replace("1.5", f"1.04 * ({loss})"))
    arguments = ["--llmbench-sessions=5", "--llmbench-limit=60%"]
    done = project.pytest("--llmbench-loss-may-change=5%", *arguments)
    assert done.returncode == 0, done.stdout
    ab, sessions = project.recorded()
    assert [session.base.loss[0] for session in sessions] == [1.5, 2.5, 3.5, 4.5, 5.5]
    row = compared(ab, sessions).cases[0].row("loss")
    assert row is not None
    assert row.outcome == "declared"
    done = project.pytest("--llmbench-loss-may-change=3%", "--llmbench-out=again", *arguments)
    assert done.returncode == 1
    assert "loss changed" in done.stdout
