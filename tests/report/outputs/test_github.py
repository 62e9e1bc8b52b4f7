"""What GitHub's runner gets: commands, and the summary of a step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmbench.report.outputs.github import SUMMARY_LIMIT, annotate, append_summary
from llmbench.report.outputs.markdown import LIMIT


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    return file


@pytest.mark.parametrize("before", ["", "# Before\n", "# Before, without an end of line"])
def test_the_summary_is_appended_on_lines_of_its_own(summary: Path, before: str) -> None:
    summary.write_text(before, encoding="utf-8")
    assert append_summary("### Ours\n")
    assert append_summary("### Again, ✓\n")
    assert summary.read_text(encoding="utf-8") == f"{before.rstrip()}\n### Ours\n### Again, ✓\n".lstrip()


def test_ours_is_no_more_than_its_limit(summary: Path) -> None:
    assert append_summary("one line\n" * 20_000)
    assert LIMIT - 100 < summary.stat().st_size <= LIMIT


def test_the_file_never_grows_beyond_what_github_takes(summary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary.write_bytes(b"x" * (SUMMARY_LIMIT - 5000))
    assert append_summary("one line\n" * 20_000)
    assert SUMMARY_LIMIT - 100 < summary.stat().st_size <= SUMMARY_LIMIT
    size = summary.stat().st_size
    assert not append_summary("one line\n")
    assert summary.stat().st_size == size
    assert capsys.readouterr().err == f"llmbench: GITHUB_STEP_SUMMARY: full, with {size:,} bytes\n"


@pytest.mark.parametrize("place", ["no/such/folder/x", "."])
def test_a_summary_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / place))
    assert not append_summary("x")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("llmbench: GITHUB_STEP_SUMMARY: ")
    assert len(said.err.splitlines()) == 1


def test_without_a_summary_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert not append_summary("x")
    assert os.listdir() == []


def test_annotations_are_lines_of_their_own_on_actions_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    annotate("error", "x", "y")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    annotate("warning", "50 %\n::error::x", "a:b,c\n")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "::warning title=a%3Ab%2Cc%0A::50 %25%0A::error::x\n"
