"""The GitLab template: its script is run for real, with stand-ins for llmbench and Python alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmbench.ci.workflow import template
from tests.ci import programs
from tests.ci.conftest import Checkout, git, seen

TEMPLATE: dict[str, Any] = yaml.safe_load(template("gitlab"))
SHELLS = [shell for shell in ("bash", "dash") if Path("/bin", shell).exists()]


class Job:
    """Runs a job of the template in a checkout."""

    def __init__(self, checkout: Checkout, place: Path) -> None:
        self.checkout, self.file = checkout, place / "seen.jsonl"
        self.bin = programs.install(place / "bin", gh=False)
        self.gate = checkout.folder / "llmbench-gate"

    def __call__(
        self, name: str = "llmbench", shell: str = "bash", merge_request: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        job = TEMPLATE[".llmbench"] | TEMPLATE[name]
        [script] = job["script"]
        known = TEMPLATE["variables"] | job["variables"] | {"LLMBENCH_PACKAGE": "the-package"}
        known |= {"CI_PIPELINE_ID": "7", "CI_JOB_NAME": name, "SEEN": str(self.file), "HOME": os.environ["HOME"]}
        if merge_request:
            known |= {"CI_MERGE_REQUEST_DIFF_BASE_SHA": self.checkout.base, "CI_MERGE_REQUEST_IID": "12"}
        return subprocess.run(
            [shell, "-c", script],
            cwd=self.checkout.folder,
            env=known | {"PATH": f"{self.bin}:/usr/bin:/bin"} | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def argv(self) -> list[str]:
        calls = [call["argv"] for call in seen(self.file) if call.get("argv", [""])[0] == "ab"]
        [call] = [call for call in calls if "--plan" not in call]
        return call

    def option(self, name: str) -> str:
        return self.argv[self.argv.index(name) + 1]

    @property
    def notes(self) -> list[list[str]]:
        return [call["python"] for call in seen(self.file) if "llmbench.ci.gitlab_note" in call.get("python", [])]


@pytest.fixture
def job(shallow: Checkout, tmp_path: Path) -> Job:
    return Job(shallow, tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_base_of_the_merge_request_is_fetched_and_the_exit_code_handed_on(job: Job, shell: str, code: int) -> None:
    done = job(shell=shell, CODE=str(code))
    assert done.returncode == code, done.stderr
    assert job.option("--base") == f"git:{job.checkout.base}"
    assert job.option("--cand") == "git:."
    assert job.argv[-2:] == ["--", "ci"]
    assert job.checkout.has(job.checkout.base)
    assert (job.gate / "junit.xml").is_file()
    assert git(job.checkout.folder, "status", "--porcelain") == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_hostile_variables_arrive_as_they_are(job: Job, shell: str) -> None:
    hostile = """it's "a" $(touch pwned) `touch pwned` ${IFS};|&*"""
    named = {f"LLMBENCH_{name}": hostile for name in ("SUITE", "BASE", "CAND", "CONSTRAINTS", "BUDGET")}
    done = job(shell=shell, LLMBENCH_ARGS=f"--data={hostile}\n--set=a=b", **named)
    assert done.returncode == 0, done.stderr
    assert [job.option(f"--{name}") for name in ("base", "cand", "constraints", "budget")] == [hostile] * 4
    assert job.argv[-4:] == [f"--data={hostile}", "--set=a=b", "--", hostile]
    assert not (job.checkout.folder / "pwned").exists()


def test_a_branch_is_fetched_as_its_commit(job: Job) -> None:
    job(merge_request=False, LLMBENCH_BASE="git:old", LLMBENCH_STRICT="true")
    assert job.option("--base") == f"git:{job.checkout.base}"
    assert "--strict" in job.argv


def test_a_pipeline_of_no_merge_request_has_to_be_told_its_base(job: Job) -> None:
    done = job(merge_request=False)
    assert done.returncode == 2
    assert "this pipeline is of no merge request; set LLMBENCH_BASE" in done.stderr


def test_a_base_that_the_origin_does_not_give_is_an_error(job: Job) -> None:
    assert job(LLMBENCH_BASE="git:no-such").returncode != 0
    assert not [call for call in seen(job.file) if "argv" in call]


def test_where_llmbench_is_must_be_said(job: Job) -> None:
    done = job(LLMBENCH_PACKAGE="")
    assert done.returncode == 2
    assert "set LLMBENCH_PACKAGE" in done.stderr
    assert TEMPLATE["variables"]["LLMBENCH_PACKAGE"] == ""


def test_the_self_check_needs_no_base(job: Job) -> None:
    assert job("llmbench self-check", merge_request=False).returncode == 0
    assert "--self" in job.argv
    assert "--base" not in job.argv


@pytest.mark.parametrize("shell", SHELLS)
def test_a_job_that_is_run_again_adds_sessions(job: Job, shell: str) -> None:
    job(shell=shell, CODE="1")
    job.file.unlink()
    assert job(shell=shell, CODE="1").returncode == 1
    assert job.option("--resume") == job.option("--resume").replace("/8", "/7")
    assert Path(job.option("--resume")) == job.gate / "7"
    assert "--out" not in job.argv
    job.file.unlink()
    job(shell=shell, CI_PIPELINE_ID="8")
    assert Path(job.option("--out")) == job.gate / "8"


def test_what_is_kept_and_read(job: Job) -> None:
    job()
    kept = TEMPLATE[".llmbench"]
    assert (job.checkout.folder / kept["artifacts"]["reports"]["junit"]).is_file()
    assert kept["artifacts"]["when"] == "always"
    cached = kept["cache"]["paths"][0].replace("$CI_PIPELINE_ID", "7")
    assert (job.checkout.folder / cached / "ab.json").is_file()


def test_a_note_is_written_only_with_a_token_and_never_changes_the_verdict(job: Job) -> None:
    job()
    assert job.notes == []
    assert job(LLMBENCH_TOKEN="t", NOTE="1", CI_PIPELINE_ID="8").returncode == 0
    assert job.notes == [["-m", "llmbench.ci.gitlab_note", str(job.gate / "comment.md")]]
    job.file.unlink()
    job("llmbench self-check", merge_request=False, LLMBENCH_TOKEN="t", CI_PIPELINE_ID="9")
    assert job.notes == []


def test_llmbench_gets_an_environment_of_its_own(job: Job) -> None:
    job(PYTHONPATH="/the/project", PIP_CONSTRAINT="pins.txt")
    calls = [call for call in seen(job.file) if "python" in call]
    assert calls[0]["python"][:2] == ["-m", "venv"]
    assert calls[1]["python"][-1] == "the-package"
    assert all(call["PYTHONPATH"] is None for call in calls)
