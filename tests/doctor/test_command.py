"""The command as a process: exit codes, outputs and their options."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Command

WARNS = {"CUDA_LAUNCH_BLOCKING": "1"}
FAILS = {"CXX": "/bin/false"}
ENVIRONMENT = ("--only", "environment")
COMPILER = ("--only", "compile.compiler")
OUTPUTS = ("--json", "--markdown", "--github", "--fix")


@pytest.fixture
def doctor(llmbench: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return llmbench("doctor", *arguments, **{"GITHUB_ACTIONS": "", "GITHUB_STEP_SUMMARY": ""} | variables)

    return run


def test_json_is_one_document_and_nothing_else(doctor: Command) -> None:
    done = doctor(*ENVIRONMENT, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert {check["area"] for check in document["checks"]} == {"python", "environment"}
    assert document["counts"]["fail"] == 0
    for check in document["checks"]:
        for finding in check["findings"]:
            assert set(finding) == {
                *("verdict", "evidence", "cause", "fix", "link", "fault", "script", "root", "title")
            }


@pytest.mark.parametrize("output", [(), ("-v",), *((option,) for option in OUTPUTS)])
def test_exit_codes_do_not_depend_on_the_output(doctor: Command, output: tuple[str, ...]) -> None:
    assert doctor(*ENVIRONMENT, *output, **WARNS).returncode == 0
    assert doctor(*ENVIRONMENT, *output, "--strict", **WARNS).returncode == 1
    assert doctor(*COMPILER, *output, **FAILS).returncode == 1


def test_text_is_quiet_about_what_is_fine(doctor: Command) -> None:
    done = doctor("--only", "environment,storage.temporary", **WARNS)
    lines = done.stdout.splitlines()
    assert lines[0] == "Nothing fails in python, environment, storage; 1 warning"
    assert "(-v shows them)" in done.stdout
    assert lines[-1].endswith("More: llmbench doctor --explain ID")
    assert max(map(len, lines)) <= 80
    assert "storage.temporary" not in done.stdout
    assert "storage.temporary" in doctor("-v", "--only", "environment,storage.temporary", **WARNS).stdout


@pytest.mark.parametrize("one", OUTPUTS)
@pytest.mark.parametrize("other", [*OUTPUTS, "--explain=python"])
def test_only_one_output(doctor: Command, one: str, other: str) -> None:
    if one == other:
        return
    done = doctor(one, other)
    assert (done.returncode, done.stdout) == (2, "")
    assert one in done.stderr
    assert other.partition("=")[0] in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "envronment"), "environment"),
        (("--only", "python,envronment"), "environment"),
        (("--skip", "torch.improt"), "torch.import"),
        (("--python", "/no/such/python"), "/no/such/python"),
        (("--patience", "0"), "--patience 0"),
        (("--patience", "-1"), "--patience -1"),
        (("--patience", "nan"), "--patience nan"),
        (("--patience", "inf"), "--patience inf"),
        (("--patience", "x"), "--patience"),
        (("--nonsense",), "--nonsense"),
        (("--html", "/no/such/folder/doctor.html", *ENVIRONMENT), "/no/such/folder/doctor.html"),
    ],
)
def test_wrong_usage(doctor: Command, arguments: tuple[str, ...], said: str) -> None:
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options", [("--only", "python.starts,environment"), ("--only=python.starts", "--only=environment")]
)
def test_several_areas(doctor: Command, options: tuple[str, ...]) -> None:
    checks = json.loads(doctor(*options, "--skip", "environment.folder", "--json").stdout)["checks"]
    ids = [check["id"] for check in checks]
    assert ids[0] == "python.starts"
    assert "environment.folder" not in ids
    assert {id.partition(".")[0] for id in ids} == {"python", "environment"}


def test_bare_interpreter(doctor: Command, bare_python: str) -> None:
    done = doctor("--python", bare_python, "--only", "torch")
    assert done.returncode == 1
    assert done.stdout.startswith("This install will not train")
    assert f"{bare_python} -m pip install torch" in " ".join(done.stdout.split())
    assert "checks were not asked: " in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


def test_page(doctor: Command, tmp_path: Path) -> None:
    page = tmp_path / "doctor.html"
    done = doctor(*ENVIRONMENT, "--html", page, **WARNS)
    assert done.returncode == 0
    written = page.read_text(encoding="utf-8")
    assert "CUDA_LAUNCH_BLOCKING=1 is set" in written
    assert "unset CUDA_LAUNCH_BLOCKING" in written


# --- GitHub Actions


def test_annotations_follow_the_text_on_github(doctor: Command, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("# Before\n")
    done = doctor(*ENVIRONMENT, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary), **WARNS)
    text, _, commands = done.stdout.partition("--explain ID\n")
    assert text.startswith("Nothing fails in python, environment; 1 warning\n")
    assert [line.partition(" ")[0] for line in commands.splitlines()] == ["::warning", "::notice"]
    assert summary.read_text().startswith("# Before\n### llmbench doctor: Nothing fails")


def test_annotations_alone(doctor: Command) -> None:
    lines = doctor(*COMPILER, "--github", **FAILS).stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error", "::notice"]


@pytest.mark.parametrize("option", ["--json", "--markdown", "--fix"])
def test_other_outputs_on_github_are_as_elsewhere(doctor: Command, option: str, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    done = doctor(*ENVIRONMENT, option, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary), **WARNS)
    assert "::warning" not in done.stdout
    assert not summary.exists()


def test_a_summary_that_cannot_be_written_is_told(doctor: Command) -> None:
    done = doctor(*ENVIRONMENT, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY="/no/such/folder/x")
    assert done.returncode == 0
    assert done.stderr == "llmbench: GITHUB_STEP_SUMMARY: No such file or directory\n"


def test_no_text_of_the_machine_is_a_command_of_github(doctor: Command) -> None:
    # So often that one is the first word of a line.
    done = doctor(*COMPILER, GITHUB_ACTIONS="true", CXX="/bin/false " + "::error::gotcha " * 40)
    assert "| ::error::gotcha" in done.stdout
    commands = [line for line in done.stdout.splitlines() if line.strip().startswith("::")]
    assert [line for line in commands if "title=llmbench doctor" not in line] == []


# --- --fix


def test_fixes_can_be_sourced(doctor: Command, tmp_path: Path) -> None:
    script = tmp_path / "fix.sh"
    script.write_text(doctor(*ENVIRONMENT, "--fix", **WARNS).stdout)
    command = ["sh", "-c", '. "$0"; echo "${CUDA_LAUNCH_BLOCKING-mended}"', str(script)]
    done = subprocess.run(command, env=os.environ | WARNS, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if "\nunset CUDA_LAUNCH_BLOCKING\n" in script.read_text():
        assert done.stdout == "mended\n"


def test_patience_is_heeded(doctor: Command, bare_python: str) -> None:
    """A factor so small that nothing can answer in time."""
    document = json.loads(doctor("--only", "python.starts", "--patience", "0.000001", "--json").stdout)
    assert document["verdict"] == "fail"
    assert "within 0 s" in document["checks"][0]["findings"][0]["evidence"]
