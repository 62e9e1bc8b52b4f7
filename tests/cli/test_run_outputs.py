"""What ``llmbench run`` leaves for CI: JUnit, Markdown, annotations and the summary of the step."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import ENDLESS, Command, records_of, wait_for

# The learning rate of one case is beyond reason, so its loss is not finite.
WRONG = """
workloads = ["regression-linear", "regression-mlp"]
settings = { steps = 20, threads = 1, budget_seconds = 0 }

[[override]]
workload = "regression-mlp"
settings = { learning_rate = 1e30, clip_norm = 0 }
"""
GOOD, BAD = "regression-linear/eager/ws1", "regression-mlp/eager/ws1"


def outcomes(junit: Path) -> dict[str, str]:
    """The verdict of each case by its id, as a parser of JUnit finds it."""
    found = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        tags = {child.tag for child in case}
        workload = case.get("classname", "").partition(".")[2]
        found[f"{workload}/{case.get('name')}"] = next(iter(tags & {"failure", "error", "skipped"}), "passed")
    return found


@pytest.mark.slow
def test_a_run_in_github_actions(llmbench: Command, tmp_path: Path) -> None:
    (tmp_path / "summary.md").write_text("# Before\n")
    done = llmbench(
        *("run", "smoke", "--workload", "regression-linear", "--mode", "eager", "--set", "budget_seconds=0"),
        *("--out", "r", "--junit", "junit.xml", "--markdown", "run.md", "--json"),
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"),
    )
    assert done.returncode == 0, done.stderr
    assert [record["case"] for record in json.loads(done.stdout)["records"]] == [GOOD]
    assert outcomes(tmp_path / "junit.xml") == {GOOD: "passed"}
    markdown = (tmp_path / "run.md").read_text(encoding="utf-8")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == f"# Before\n{markdown}"
    assert f"`{GOOD}`" in markdown
    assert "::error" not in done.stderr
    found = {one.get("name"): one.get("value") for one in ElementTree.parse(tmp_path / "junit.xml").iter("property")}
    assert float(found["throughput.value"] or 0) == records_of(tmp_path / "r")[GOOD].throughput.value


@pytest.mark.slow
def test_files_are_written_when_a_case_fails(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    path = suite(WRONG)
    done = llmbench(
        *("run", path, "--out", "r", "--junit", "junit.xml", "--markdown", "run.md"),
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY="/no/such/folder/x",
    )
    assert done.returncode == 3, done.stderr
    assert outcomes(tmp_path / "junit.xml") == {GOOD: "passed", BAD: "failure"}
    assert (tmp_path / "run.md").read_text(encoding="utf-8").startswith("### ✖ mine on ")
    errors = [line for line in done.stderr.splitlines() if line.startswith("::error")]
    assert len(errors) == 1
    assert f"invalid%3A {BAD}::" in errors[0]
    assert not [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert "llmbench: GITHUB_STEP_SUMMARY: No such file or directory\n" in done.stderr


@pytest.mark.slow
def test_files_are_written_when_the_run_is_interrupted(
    started: Callable[..., subprocess.Popen[str]], suite: Callable[..., Path], tmp_path: Path
) -> None:
    process = started("run", suite(ENDLESS), "--out", "r", "--junit", "junit.xml", "--markdown", "run.md")
    log = tmp_path / "r" / "logs" / "regression-mlp__eager__ws1.log"
    wait_for(lambda: log.exists() and "timed" in log.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert outcomes(tmp_path / "junit.xml") == {GOOD: "passed", BAD: "error"}
    assert "1 aborted" in (tmp_path / "run.md").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_a_file_that_cannot_be_written_is_refused_before_the_run_starts(
    llmbench: Command, tmp_path: Path, option: str
) -> None:
    done = llmbench("run", "smoke", "--out", "r", option, "no/such/folder/file")
    assert done.returncode == 2
    assert f"{option} no/such/folder/file: No such file or directory" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_plan_has_nothing_to_tell(llmbench: Command, tmp_path: Path) -> None:
    done = llmbench("run", "smoke", "--plan", "--junit", "junit.xml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--plan" in done.stderr
    assert list(tmp_path.iterdir()) == []
