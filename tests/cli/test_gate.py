"""``llmbench gate init``: what it finds, writes and refuses; all that it writes is valid by the published schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from llmbench.ci import project as project_
from llmbench.ci import workflow as workflow_
from llmbench.ci.project import find_project, for_pip, on_github, own_source
from llmbench.cli.gate import gate
from llmbench.errors import UserError
from tests.ci.conftest import git

app = typer.Typer()
app.add_typer(gate, name="gate")
SOURCE = ("https://github.com/someone/llmbench.git", "0123456789" * 4)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without CI, and an llmbench that pip took from GitHub."""
    monkeypatch.setattr(workflow_, "own_source", lambda: SOURCE)
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "requirements.txt").write_text("torch\n")
    monkeypatch.chdir(folder)
    return folder


def call(*words: str) -> str:
    done = CliRunner().invoke(app, ["gate", "init", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def check(schema: str, file: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def read(file: Path) -> dict[Any, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_github_gets_a_gate_and_a_nightly_check_of_it(project: Path) -> None:
    (project / ".github").mkdir()
    told = call()
    file = project / ".github" / "workflows" / "llmbench.yml"
    assert told.splitlines()[0] == "written: .github/workflows/llmbench.yml"
    assert "next:" in told
    check("github-workflows", file)
    written = read(file)
    assert written[True].keys() == {"pull_request", "schedule", "workflow_dispatch"}  # YAML 1.1 reads `on` as true
    action = f"someone/llmbench@{SOURCE[1]}"
    gate_, check_ = (written["jobs"][name]["steps"][-1] for name in ("gate", "self-check"))
    assert (gate_["uses"], gate_["with"]["suite"]) == (action, "ci")
    assert (check_["uses"], check_["with"]["self"]) == (action, "true")
    assert written["jobs"]["gate"]["permissions"]["pull-requests"] == "write"
    assert written["permissions"] == {"contents": "read"}
    assert written["jobs"]["gate"]["steps"][2]["run"] == "python -m pip install -r requirements.txt"
    known = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text())["inputs"]
    assert gate_["with"].keys() | check_["with"].keys() <= known.keys()


def test_gitlab_gets_a_template_of_its_own_and_a_pipeline_that_includes_it(project: Path) -> None:
    told = call("--gitlab", "--suite", "smoke")
    check("gitlab-ci", project / "llmbench.gitlab-ci.yml")
    check("gitlab-ci", project / ".gitlab-ci.yml")
    assert "written: llmbench.gitlab-ci.yml\nwritten: .gitlab-ci.yml\n" in told
    assert read(project / ".gitlab-ci.yml") == {"include": [{"local": "/llmbench.gitlab-ci.yml"}]}
    written = read(project / "llmbench.gitlab-ci.yml")
    assert written["variables"]["LLMBENCH_SUITE"] == "smoke"
    assert written["variables"]["LLMBENCH_PACKAGE"] == f"git+{SOURCE[0]}@{SOURCE[1]}"
    assert written[".llmbench"]["before_script"] == ["python -m pip install -r requirements.txt"]


def test_a_pipeline_that_is_there_is_left_alone(project: Path) -> None:
    pipeline = project / ".gitlab-ci.yml"
    pipeline.write_text("test: {script: pytest}\n")
    told = call("--force")
    assert pipeline.read_text() == "test: {script: pytest}\n"
    assert 'add to .gitlab-ci.yml:\n     include:\n       - local: "/llmbench.gitlab-ci.yml"' in told
    pipeline.write_text("include: /llmbench.gitlab-ci.yml\n")
    assert "add to .gitlab-ci.yml" not in call("--force")


@pytest.mark.parametrize("service", ["github", "gitlab"])
@pytest.mark.parametrize("known", [None, ("https://git.example.org/x/llmbench", "abc")])
def test_templates_and_what_is_not_known(
    project: Path, monkeypatch: pytest.MonkeyPatch, service: str, known: tuple[str, str] | None
) -> None:
    monkeypatch.setattr(workflow_, "own_source", lambda: known)
    told = call(f"--{service}")
    file = project / (".github/workflows/llmbench.yml" if service == "github" else "llmbench.gitlab-ci.yml")
    check("github-workflows" if service == "github" else "gitlab-ci", file)
    asks = service == "github" or known is None
    assert ("where llmbench is" in told.partition("next:\n  1. ")[2].splitlines()[0]) == asks
    assert ("THE_OWNER" in file.read_text()) == asks
    if asks:
        assert call(f"--{service}", "--force", "--llmbench", "o/llmbench@v1").count("THE_OWNER") == 0
        assert "o/llmbench@v1" in file.read_text()


def test_the_template_that_anybody_can_include_is_valid() -> None:
    check("gitlab-ci", Path(workflow_.PACKAGE) / "ci" / "gitlab.yml")


def test_a_suite_of_the_project_is_written_as_it_is_called(project: Path) -> None:
    name = 'my "$suite": é.toml'
    (project / name).write_text("workloads = ['gpt-tiny']\n")
    call("--github", "--suite", name)
    check("github-workflows", project / ".github" / "workflows" / "llmbench.yml")
    written = read(project / ".github" / "workflows" / "llmbench.yml")
    assert written["jobs"]["gate"]["steps"][-1]["with"]["suite"] == name
    call("--gitlab", "--suite", name)
    # GitLab reads $$ as $.
    assert read(project / "llmbench.gitlab-ci.yml")["variables"]["LLMBENCH_SUITE"] == name.replace("$", "$$")


@pytest.mark.parametrize("suite", ["no", "1e5", "a: b", "x #y", "- z", "*", "git:."])
def test_a_scalar_is_read_as_the_text_that_it_was(project: Path, suite: str) -> None:
    (project / suite).write_text("")
    call("--github", "--suite", suite)
    written = read(project / ".github" / "workflows" / "llmbench.yml")
    assert written["jobs"]["gate"]["steps"][-1]["with"]["suite"] == suite


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_what_the_project_trains_itself(project: Path, service: str) -> None:
    told = call(f"--{service}")
    assert "to judge the code of this project, name what it trains" in told
    told = call(f"--{service}", "--force", "-w", "pack.bench:Training", "-w", "gpt-$X")
    assert "name what it trains" not in told
    if service == "github":
        file = project / ".github" / "workflows" / "llmbench.yml"
        given = [job["steps"][-1]["with"]["args"] for job in read(file)["jobs"].values()]
        assert given == ["--workload=pack.bench:Training\n--workload=gpt-$X"] * 2
    else:
        file = project / "llmbench.gitlab-ci.yml"
        assert read(file)["variables"]["LLMBENCH_ARGS"] == "--workload=pack.bench:Training\n--workload=gpt-$$X"
    check("github-workflows" if service == "github" else "gitlab-ci", file)


def test_printing_writes_nothing(project: Path) -> None:
    assert yaml.safe_load(call("--github", "--print"))["name"] == "llmbench"
    assert '- local: "/llmbench.gitlab-ci.yml"' in call("--gitlab", "--print")
    assert sorted(file.name for file in project.iterdir()) == [".git", "requirements.txt"]


def refused(*words: str) -> UserError:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, ["gate", "init", *words], catch_exceptions=False)
    assert error.value.hint
    return error.value


def test_what_is_there_is_never_overwritten_unless_forced(project: Path) -> None:
    call("--github")
    file = project / ".github" / "workflows" / "llmbench.yml"
    file.write_text("mine\n")
    assert ".github/workflows/llmbench.yml: there already" in refused("--github").message
    assert file.read_text() == "mine\n"
    call("--github", "--force")
    assert file.read_text().startswith("# Did a change")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing tells which CI this project has"),
        (["--github", "--gitlab"], "two workflows"),
        (["--github", "--suite", "smoek"], "--suite smoek: neither a shipped suite nor a file of the project"),
        (["--github", "--suite", "../other.toml"], "--suite ../other.toml lies outside of the project"),
        (["--github", "--suite", "/etc/passwd"], "--suite /etc/passwd lies outside of the project"),
        (["--github", "--out", "../x.yml"], "--out ../x.yml lies outside of the project"),
        (["--github", "--out", ".git"], "there already"),
        (["--github", "--out", ".git", "--force"], "is no file that could be replaced"),
        (["--github", "--out", "requirements.txt/x.yml"], "cannot make"),
        (["--github", "no/such/folder"], "no such folder"),
    ],
)
def test_what_cannot_be_done_is_told(project: Path, words: list[str], told: str) -> None:
    assert told in refused(*words).message
    assert sorted(file.name for file in project.iterdir()) == [".git", "requirements.txt"]


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is no project" in refused("--github", str(empty)).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(project: Path) -> None:
    project.chmod(0o555)
    try:
        assert "Permission denied" in refused("--github").message
    finally:
        project.chmod(0o755)


def test_the_exit_code_of_a_refusal_is_2(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "llmbench", "gate", "init"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[1] == "  say --github or --gitlab"


@pytest.mark.parametrize(
    ("there", "remote", "services"),
    [
        ([".github/x"], None, ("github",)),
        ([".gitlab-ci.yml"], None, ("gitlab",)),
        ([".gitlab-ci.yml", ".github/x"], None, ("github", "gitlab")),
        ([".gitlab-ci.yml"], "git@github.com:a/b.git", ("gitlab",)),
        ([], "git@github.com:a/b.git", ("github",)),
        ([], "https://gitlab.example.org/github/b.git", ("gitlab",)),
        ([], "ssh://git@gitlab.com:2222/a/b", ("gitlab",)),
        ([], "https://example.org/a/b.git", ()),
    ],
)
def test_who_runs_the_ci(project: Path, there: list[str], remote: str | None, services: tuple[str, ...]) -> None:
    for name in there:
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("")
    if remote:
        git(project, "remote", "add", "origin", remote)
    (project / "deep" / "er").mkdir(parents=True)
    found = find_project(project / "deep" / "er")
    assert (found.root, found.services) == (project, services)


@pytest.mark.parametrize(
    ("files", "install"),
    [
        (["pyproject.toml"], "python -m pip install ."),
        (["setup.py"], "python -m pip install ."),
        (["pyproject.toml", "requirements.txt"], "python -m pip install -r requirements.txt"),
        ([".git"], "python -m pip install torch numpy"),
    ],
)
def test_how_a_project_is_installed(tmp_path: Path, files: list[str], install: str) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    assert find_project(tmp_path).install == install


@pytest.mark.parametrize(
    ("url", "repository", "pip"),
    [
        ("https://github.com/a/b.git", "a/b", "git+https://github.com/a/b.git@c"),
        ("https://github.com/a/b-c.d/", "a/b-c.d", "git+https://github.com/a/b-c.d/@c"),
        ("git@github.com:a/b.git", "a/b", "git+ssh://git@github.com/a/b.git@c"),
        ("ssh://git@github.com/a/b", "a/b", "git+ssh://git@github.com/a/b@c"),
        ("https://notgithub.com/a/b", None, "git+https://notgithub.com/a/b@c"),
        ("https://example.org/github.com/a/b", None, "git+https://example.org/github.com/a/b@c"),
    ],
)
def test_where_llmbench_came_from(url: str, repository: str | None, pip: str) -> None:
    assert on_github(url) == repository
    assert for_pip(url, "c") == pip


@pytest.mark.parametrize(
    ("noted", "found"),
    [
        ({"url": SOURCE[0], "vcs_info": {"vcs": "git", "commit_id": SOURCE[1]}}, SOURCE),
        ({"url": "file:///home/me/llmbench", "vcs_info": {"vcs": "git", "commit_id": SOURCE[1]}}, None),
    ],
)
def test_what_pip_noted_tells_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch, noted: dict[str, Any], found: tuple[str, str] | None
) -> None:
    class Installed:
        def read_text(self, name: str) -> str:
            assert name == "direct_url.json"
            return json.dumps(noted)

    monkeypatch.setattr(project_.metadata, "distribution", lambda name: Installed())
    assert own_source() == found


def test_a_checkout_tells_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise project_.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(project_.metadata, "distribution", missing)
    monkeypatch.setattr(project_, "PACKAGE", tmp_path / "llmbench")
    assert own_source() is None
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "one")
    assert own_source() is None
    git(tmp_path, "remote", "add", "origin", "git@github.com:a/llmbench.git")
    assert own_source() == ("git@github.com:a/llmbench.git", git(tmp_path, "rev-parse", "HEAD"))
