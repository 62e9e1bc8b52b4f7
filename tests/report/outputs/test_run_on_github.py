"""A run in GitHub Actions."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.report.outputs.github import MOST_ANNOTATIONS
from llmbench.report.run.markdown import run_markdown
from llmbench.report.run.on_github import tell_github
from llmbench.results.schema import Error
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.outputs.conftest import SECRET


@pytest.fixture(autouse=True)
def actions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path / "summary.md"


def test_what_failed_is_an_error_and_what_cannot_be_trusted_a_warning(
    every: RunFolder, actions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_github(every)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert [line.partition("::")[2].partition("::")[0] for line in lines] == [
        "error title=llmbench smoke%3A failed%3A gpt-tiny/failed/ws1",
        "error title=llmbench smoke%3A out of memory%3A gpt-tiny/oom/ws1",
        "error title=llmbench smoke%3A timed out%3A gpt-tiny/timeout/ws1",
        "error title=llmbench smoke%3A invalid%3A gpt-tiny/invalid/ws1",
        "error title=llmbench smoke%3A aborted%3A gpt-tiny/aborted/ws1",
        "error title=llmbench smoke%3A not run%3A gpt-tiny/missing/ws1",
        "warning title=llmbench smoke%3A did not learn%3A gpt-tiny/doubtful/ws1",
        "warning title=llmbench smoke%3A noisy%3A gpt-tiny/noisy/ws1",
    ]
    assert lines[0].endswith("--workload gpt-tiny --mode failed")
    assert "::RuntimeError: no such tensor%0Asee `llmbench doctor`%0Aagain: llmbench run smoke" in lines[0]
    assert SECRET not in said.err
    assert actions.read_text(encoding="utf-8") == run_markdown(every)


def test_elsewhere_nothing_is_said(
    every: RunFolder, actions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    tell_github(every)
    assert capsys.readouterr() == ("", "")
    assert not actions.exists()


def test_no_more_than_github_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [factory.planned(f"gpt-{number}", "eager") for number in range(25)]
    folder = RunFolder.create(tmp_path / "r", factory.make_run(cases))
    for number, case in enumerate(cases):
        factory.add(folder, factory.broken_record(case, "failed", Error(type="RuntimeError", message=f"no {number}")))
    tell_github(folder)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MOST_ANNOTATIONS
    assert lines[-1].endswith("… and 15 more causes")
