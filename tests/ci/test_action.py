"""action.yml: its scripts are run for real, with stand-ins for llmbench, gh and Python alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ci import actions, programs
from tests.ci.conftest import Checkout, git, seen

ACTION = actions.load()
HOSTILE = """it's "a" $(touch pwned) `touch pwned` ${IFS};|&*
second line \\n %0A ::error::no \t ${{ github.token }} é"""


class Runner:
    """Runs the action in a checkout, and tells what its programs were given."""

    def __init__(self, checkout: Checkout, place: Path, *, gh: bool = True) -> None:
        self.checkout, self.place = checkout, place
        self.file, self.comments = place / "seen.jsonl", place / "comments.json"
        self.bin = programs.install(place / "bin", gh=gh)
        self.comments.write_text("[]")
        self.github = {
            "action_path": "/the/action",
            "run_attempt": "1",
            "run_id": "7",
            "job": "gate",
            "token": "t",
            "event": {"pull_request": {"number": 12, "base": {"sha": checkout.base}}},
        }

    def __call__(self, inputs: dict[str, str] | None = None, **variables: str) -> actions.Finished:
        search = f"{self.bin}:/usr/bin:/bin"
        given = {"PATH": search, "SEEN": str(self.file), "COMMENTS": str(self.comments)} | variables
        return actions.run(
            ACTION,
            inputs or {},
            folder=self.checkout.folder,
            temporary=self.place / "temp",
            github=self.github,
            variables=given,
            answers={"upload": {"artifact-url": "https://example.org/artifact"}},
        )

    @property
    def argv(self) -> list[str]:
        """Of `llmbench ab`, without what only prepares it."""
        calls = [call["argv"] for call in seen(self.file) if call.get("argv", [""])[0] == "ab"]
        [call] = [call for call in calls if "--plan" not in call]
        return call

    def option(self, name: str) -> str:
        return self.argv[self.argv.index(name) + 1]


@pytest.fixture
def runner(shallow: Checkout, tmp_path: Path) -> Runner:
    return Runner(shallow, tmp_path)


def test_the_base_of_the_pull_request_is_fetched_into_a_shallow_checkout(runner: Runner) -> None:
    assert not runner.checkout.has(runner.checkout.base)
    done = runner()
    assert (done.failed, done.outputs["exit-code"], done.outputs["verdict"]) == (False, "0", "passed")
    assert runner.option("--base") == f"git:{runner.checkout.base}"
    assert runner.option("--cand") == "git:."
    assert runner.checkout.has(runner.checkout.base)
    assert runner.argv[-2:] == ["--", "ci"]
    assert Path(done.outputs["report"]).read_text() == "## what was found\n"


def test_nothing_is_fetched_that_is_there(origin: Checkout, tmp_path: Path) -> None:
    git(origin.folder, "remote", "add", "origin", "file:///nowhere")
    runner = Runner(origin, tmp_path)
    assert not runner().failed
    assert runner.option("--base") == f"git:{origin.base}"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(0, "passed"), (1, "failed"), (2, "usage"), (3, "no-base"), (130, "interrupted"), (137, "error")],
)
def test_it_ends_as_llmbench_does_and_keeps_the_report_all_the_same(runner: Runner, code: int, verdict: str) -> None:
    done = runner(CODE=str(code))
    assert (done.code, done.outputs["exit-code"], done.outputs["verdict"]) == (code, str(code), verdict)
    assert done.failed == (code != 0)
    assert re.fullmatch(r"actions/upload-artifact@v\d+", done.used["Keep the report"]["uses"])
    kept = Path(done.used["Keep the report"]["path"])
    assert {"junit.xml", "comment.md", "report.html"} <= {file.name for file in kept.iterdir()}
    assert done.log.splitlines()[-1] == f"llmbench: {verdict} (exit code {code})"


def test_hostile_inputs_arrive_as_they_are(runner: Runner) -> None:
    given = {"suite": HOSTILE, "base": HOSTILE, "cand": HOSTILE, "python": HOSTILE, "constraints": HOSTILE}
    done = runner(given | {"budget": HOSTILE, "args": f"--data={HOSTILE}\n\n--set=a=b"})
    assert not done.failed, done.log
    assert [runner.option(f"--{name}") for name in ("base", "cand", "python", "constraints", "budget")] == [HOSTILE] * 5
    assert runner.argv[-2:] == ["--", HOSTILE]
    begin = runner.argv.index("--constraints") + 2
    # Of the arguments each line is one.
    assert runner.argv[begin:-2] == [*f"--data={HOSTILE}".split("\n"), "--set=a=b"]
    assert not list(runner.place.rglob("pwned"))


def test_a_suite_that_looks_like_an_option_is_none(runner: Runner) -> None:
    runner({"suite": "--help"})
    assert runner.argv[-2:] == ["--", "--help"]


@pytest.mark.parametrize("name", ["suite", "base", "cand", "python", "constraints", "budget", "args", "comment"])
def test_no_input_is_written_into_a_script(name: str) -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
    assert any(f"inputs.{name} " in str(step) for step in ACTION["runs"]["steps"])


def test_every_script_stops_at_the_first_fault() -> None:
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert len(scripts) == 5
    assert all(script.startswith("set -euo pipefail\n") for script in scripts)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"strict": "yes"}, "strict: 'yes' is neither true nor false"),
        ({"comment": "$(touch pwned)"}, "comment: '$(touch pwned)' is neither true nor false"),
        ({"artifact": "../x"}, "artifact: '../x' is no name"),
        ({"artifact": "a\nb"}, "artifact: 'a%0Ab' is no name"),
        ({"base": "git:no-such-branch"}, "git:no-such-branch: not in this checkout"),
        ({"base": "git:--upload-pack=touch pwned"}, "not in this checkout"),
        ({"base": "git:+main:refs/heads/x"}, "not in this checkout"),
    ],
)
def test_a_wrong_input_is_told_and_nothing_is_compared(runner: Runner, inputs: dict[str, str], told: str) -> None:
    done = runner(inputs)
    assert (done.failed, done.code) == (True, 2)
    assert "::error title=llmbench::" in done.log
    assert told in done.log
    assert "Compare" not in done.ran
    assert not done.used
    assert not list(runner.place.rglob("pwned"))


def test_a_branch_is_fetched_as_its_commit(runner: Runner) -> None:
    runner({"base": "git:old", "cand": f"git:{runner.checkout.head}"})
    assert runner.option("--base") == f"git:{runner.checkout.base}"
    assert runner.option("--cand") == f"git:{runner.checkout.head}"


def test_a_revision_of_another_checkout_is_fetched_there(runner: Runner, origin: Checkout) -> None:
    other = runner.checkout.folder / "other"
    git(runner.place, "clone", "--quiet", "--depth=1", f"file://{origin.folder}", str(other))
    runner({"base": "git:old@other"})
    assert runner.option("--base") == f"git:{origin.base}@other"
    assert not runner.checkout.has(origin.base)
    assert Checkout(other, "", "").has(origin.base)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to somebody else")
def test_a_checkout_of_somebody_else_as_in_a_container(runner: Runner) -> None:
    for file in (runner.checkout.folder, *runner.checkout.folder.rglob("*")):
        os.chown(file, 12345, 12345)
    refused = subprocess.run(
        ["git", "status"], cwd=runner.checkout.folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False
    )
    assert b"dubious ownership" in refused.stderr
    assert not runner().failed
    assert runner.option("--base") == f"git:{runner.checkout.base}"


@pytest.mark.parametrize(
    ("event", "base"),
    [
        ({"before": "BASE"}, "git:BASE"),
        ({"merge_group": {"base_sha": "BASE"}}, "git:BASE"),
        ({"before": "0" * 40}, None),
        ({}, None),
    ],
)
def test_other_events_have_a_base_too(runner: Runner, event: dict[str, object], base: str | None) -> None:
    runner.github["event"] = json.loads(json.dumps(event).replace("BASE", runner.checkout.base))
    done = runner()
    if base is None:
        assert done.code == 2
        assert "this event has none; give the input `base`" in done.log
    else:
        assert runner.option("--base") == base.replace("BASE", runner.checkout.base)


def test_the_self_check_needs_no_base(runner: Runner) -> None:
    runner.github["event"] = {}
    assert not runner({"self": "true", "strict": "true", "python": ".venv/bin/python"}).failed
    assert "--self" in runner.argv
    assert "--strict" in runner.argv
    assert "--base" not in runner.argv
    assert runner.option("--python") == ".venv/bin/python"


def test_another_attempt_adds_sessions_to_those_that_are_there(runner: Runner) -> None:
    first = runner(CODE="1")
    kept = first.used["Keep the sessions for another attempt"]
    assert "Fetch the sessions of earlier attempts" not in first.used
    runner.file.unlink()
    runner.github["run_attempt"] = "2"
    second = runner({"strict": "true"}, CODE="1")
    fetched = second.used["Fetch the sessions of earlier attempts"]
    assert fetched["path"] == kept["path"] == runner.option("--resume")
    assert kept["key"].startswith(fetched["restore-keys"])
    assert kept["key"] != second.used["Keep the sessions for another attempt"]["key"]
    assert "--strict" in runner.argv
    assert not {"--out", "--base", "--python", "--"} & set(runner.argv)
    # Another machine has neither of the sides yet.
    [plan] = [call["argv"] for call in seen(runner.file) if "--plan" in call.get("argv", [])]
    assert plan[plan.index("--base") + 1] == f"git:{runner.checkout.base}"
    assert plan[-2:] == ["--", "ci"]


def test_another_attempt_without_its_base_is_told_apart_from_a_regression(runner: Runner) -> None:
    runner(CODE="1")
    runner.file.unlink()
    runner.github["run_attempt"] = "2"
    assert runner(PLAN="3").outputs["verdict"] == "no-base"


def test_one_comment_is_kept_up_to_date(runner: Runner) -> None:
    assert "Comment" not in runner().ran
    for text in ("first", "second"):
        assert not runner({"comment": "true"}, COMMENT=text).failed
        [comment] = json.loads(runner.comments.read_text())
        mark, _, body = comment["body"].partition("\n")
        assert re.fullmatch(r"<!-- llmbench [0-9a-f]{16} -->", mark)
        assert body == f"{text}\n\n[Report, JUnit and record](https://example.org/artifact)\n"
    assert comment["at"] == "repos/somebody/project/issues/12/comments"
    runner({"comment": "true", "artifact": "another"})
    assert len(json.loads(runner.comments.read_text())) == 2


def test_a_comment_of_somebody_else_is_never_taken_over(runner: Runner) -> None:
    runner({"comment": "true"})
    comments = json.loads(runner.comments.read_text())
    talk = [{"id": number, "user": "github-actions[bot]", "body": f"talk {number}\n"} for number in range(3)]
    runner.comments.write_text(json.dumps([*talk, comments[0] | {"user": "mallory"}]))
    runner({"comment": "true"})
    users = [comment["user"] for comment in json.loads(runner.comments.read_text())]
    assert users[3:] == ["mallory", "github-actions[bot]"]


def test_a_comment_is_no_longer_than_github_takes(runner: Runner) -> None:
    runner({"comment": "true"}, COMMENT="é" * 65_500)
    [comment] = json.loads(runner.comments.read_text())
    assert 65_000 < len(comment["body"]) < 65_536
    assert comment["body"].endswith("(https://example.org/artifact)\n")


@pytest.mark.parametrize("code", [0, 1])
def test_without_the_permission_there_is_no_comment_and_the_verdict_stands(runner: Runner, code: int) -> None:
    done = runner({"comment": "true"}, FORK="yes", CODE=str(code))
    assert done.code == code
    assert "no comment: it needs the permission `pull-requests: write`" in done.log


def test_outside_of_a_pull_request_there_is_no_comment(runner: Runner) -> None:
    runner.github["event"] = {"before": runner.checkout.base}
    done = runner({"comment": "true"})
    assert "no comment: this is no pull request" in done.log
    assert not done.failed


def test_a_runner_without_gh_does_not_comment(shallow: Checkout, tmp_path: Path) -> None:
    runner = Runner(shallow, tmp_path, gh=False)
    hidden = {"PATH": f"{runner.bin}:{_without_gh(tmp_path / 'tools')}"}
    done = runner({"comment": "true"}, **hidden)
    assert "no comment: this runner has no program gh" in done.log
    assert not done.failed


def _without_gh(folder: Path) -> Path:
    folder.mkdir()
    for place in (Path("/usr/bin"), Path("/bin")):
        for file in place.iterdir():
            if file.name != "gh" and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return folder


def test_llmbench_gets_an_environment_of_its_own(runner: Runner) -> None:
    runner(PYTHONPATH="/the/project")
    calls = [call for call in seen(runner.file) if "python" in call]
    environment = runner.place / "temp" / "llmbench-environment"
    assert calls[1]["python"] == ["-m", "venv", "--clear", str(environment)]
    assert calls[2]["python"][-3:] == ["--constraint", "/the/action/constraints.txt", "/the/action"]
    assert all(call["PYTHONPATH"] is None for call in calls)
    runner.file.unlink()
    assert not runner().failed
    assert not [call for call in seen(runner.file) if "python" in call]  # a second use finds it


def test_without_a_python_that_it_knows_it_says_what_to_add(runner: Runner) -> None:
    done = runner(TOO_OLD="1")
    assert done.code == 2
    assert "no Python 3.11 to 3.13 that can make virtual environments; add a step actions/setup-python" in done.log


def test_it_is_an_action_by_githubs_schema() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml"],
        cwd=actions.CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_it_installs_llmbench_from_the_actions_own_folder(runner: Runner) -> None:
    """The step alone, with a real Python and pip."""
    first = {**ACTION, "runs": {"steps": ACTION["runs"]["steps"][:1]}, "outputs": {}}
    python = runner.place / "real"
    python.mkdir()
    (python / "python3.13").symlink_to(sys.executable)
    runner.github["action_path"] = str(actions.CHECKOUT)
    done = actions.run(
        first,
        {},
        folder=runner.checkout.folder,
        temporary=runner.place / "temp",
        github=runner.github,
        variables={"PATH": f"{python}:/usr/bin:/bin"},
    )
    assert not done.failed, done.log
    assert re.search(r"^llmbench \d", done.log, re.MULTILINE)
    installed = runner.place / "temp" / "llmbench-environment" / "bin" / "python"
    missing = subprocess.run([str(installed), "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in missing.stderr
    # The templates are part of what is installed.
    command = [str(installed.parent / "llmbench"), "gate", "init", "--print"]
    for service in ("--github", "--gitlab"):
        told = subprocess.run(
            [*command, service], cwd=runner.checkout.folder, capture_output=True, text=True, check=True
        )
        assert "llmbench" in told.stdout
