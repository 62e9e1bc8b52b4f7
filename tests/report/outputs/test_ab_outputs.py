"""Every output of an A/B comparison says what the verdict is: JUnit, Markdown, JSON, page, text, GitHub, exit code."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from llmbench.cli.ab_text import ab_text, case_line
from llmbench.report.ab import ab_page, verdicts
from llmbench.report.ab.document import ab_document
from llmbench.report.ab.github import tell
from llmbench.report.ab.outputs import ab_junit, ab_markdown
from llmbench.stats.ab import UNTOLD, AbComparison
from tests.ab_factory import COMMAND, SCENARIOS
from tests.report.html_reader import Page

pytestmark = pytest.mark.parametrize("name", SCENARIOS)


@pytest.fixture
def made(name):
    return SCENARIOS[name]


@pytest.fixture
def comparison(made) -> AbComparison:
    return made.comparison


def opened(made):
    """Case and metric of what cannot be told."""
    return {(row.case, row.metric) for row in made.comparison.rows if row.outcome in UNTOLD}


def test_junit(made, comparison):
    (suite,) = ElementTree.fromstring(ab_junit(comparison, COMMAND))
    told = {one.get("name"): one.get("value") for one in suite.find("properties")}
    assert (told["exit_code"], told["gate"]) == (str(made.code), verdicts.gate(comparison))
    marks = {"failure": set(), "error": set(), "skipped": set()}
    for test in suite.iter("testcase"):
        name, _, metric = test.get("name").rpartition(" ")
        for mark, found in marks.items():
            if test.find(mark) is not None:
                found.add((f"{test.get('classname').removeprefix('ab.')}/{name}", metric))
    if not comparison.cases:
        assert bool(marks["failure"]) == bool(made.code)
        assert bool(marks["skipped"]) != bool(made.code)
        return
    no_base = {(row.case, row.metric) for row in comparison.rows if row.outcome == "no base"}
    untold = opened(made) - no_base
    assert marks["failure"] == set(made.worse) | (untold if made.strict else set())
    assert marks["error"] == no_base
    assert marks["skipped"] == (set() if made.strict else untold)
    # What a CI server makes of it.
    red = bool(marks["failure"] or marks["error"])
    assert red == bool(made.code)
    assert len(list(suite.iter("testcase"))) == len(comparison.rows) == int(suite.get("tests"))


def test_markdown(made, comparison):
    text = ab_markdown(comparison, COMMAND)
    assert f"(exit code {made.code})" in text
    assert ("✖" in text.splitlines()[0]) == bool(made.code)
    assert ("✓" in text.splitlines()[0]) == (not made.code and not opened(made) and bool(comparison.cases))
    told = re.findall(r"^- ✖ `(\S+)` (\w+)", text, re.MULTILINE)
    named = {(case, "step" if metric == "broken" else metric) for case, metric in told}
    assert named == set(made.worse)
    asked = re.findall(r"^- \? `(\S+)` ([\w, ]+):", text, re.MULTILINE)
    assert {(case, metric) for case, metrics in asked for metric in metrics.split(", ")} == opened(made)
    assert "llmbench ab --base main" in text
    assert len(text.encode()) <= 64 * 1024


def test_json(made, comparison):
    document = ab_document(comparison)
    json.dumps(document, allow_nan=False)
    assert document["exit_code"] == made.code
    assert document["gate"] == verdicts.gate(comparison)
    records = document["records"]
    assert [(one["case"], one["metric"]) for one in records if one["worse"]] == list(made.worse)
    assert [(one["case"], one["metric"]) for one in document["failures"]] == list(made.worse)
    assert {(one["case"], one["metric"]) for one in records if one["verdict"] in UNTOLD} == opened(made)
    assert [case["verdict"] for case in document["cases"]] == list(made.outcomes)
    for one, row in zip(records, comparison.rows, strict=True):
        assert one["verdict"] == row.outcome
        if row.time:
            assert one["low"] <= one["estimate"] <= one["high"]
            assert one["sessions"] == row.time.sessions
            assert (one["estimate"], one["low"], one["high"]) == (row.time.ratio, row.time.low, row.time.high)
            assert (one["noise"], one["smallest_slowdown"]) == (row.time.noise, row.time.smallest_slowdown)


def test_page(made, comparison):
    page = Page(ab_page(comparison))
    assert f"exit {made.code}" in page.body
    assert page.one("h1").text == verdicts.headline(comparison)
    assert f"Gate {verdicts.gate(comparison)}." in page.body
    rows = [row for row in page.all("tr") if "data-record" in row.attributes]
    for row in rows:
        record = page.data["records"][int(row.attributes["data-record"])]
        verdict = verdicts.verdict_of(comparison.rows[int(row.attributes["data-record"])])
        text = " ".join(row.text.split())
        assert text.startswith(f"{verdict.symbol} {verdict.word} {record['case']}"), text
        assert (row.attributes["data-tone"] == "good") == (record["verdict"] in ("same", "declared"))
    assert len(rows) == len(comparison.rows)
    assert page.data["exit_code"] == made.code


def test_terminal(made, comparison):
    lines = ab_text(comparison).splitlines()
    assert lines[-1] == verdicts.gate(comparison)
    assert lines[-1].startswith("passed") == (made.code == 0)
    assert lines[-1].startswith("not judged") == (made.code == 3)
    told = [line.removeprefix("✖ ").split(": ")[:2] for line in lines if line.startswith("✖ ")]
    assert [(case, "step" if word == "broken" else word.split()[0]) for case, word in told] == list(made.worse)
    assert any(line.startswith("? ") for line in lines) == bool(opened(made))
    table = lines[: lines.index("", lines.index("") + 1)] if comparison.rows else lines
    assert max(map(len, table)) <= 100


def test_a_line_as_a_case_ends(made, comparison):
    for case, outcome in zip(comparison.cases, made.outcomes, strict=True):
        line = case_line(case)
        verdict = verdicts.verdict_of_case(case)
        assert line.startswith(f"{verdict.symbol} {verdict.word}")
        assert case.case.id in line
        assert "\n" not in line
        if outcome in ("broken", "no base", "inconclusive"):
            assert any(row.reason and row.reason in line for row in case.rows)
        elif outcome in ("slower", "faster"):
            assert " time [" in line
            assert "could have seen ≥ " in line


def test_github(made, comparison, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    tell(comparison)
    errors = capsys.readouterr().err.splitlines()
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == ab_markdown(comparison, COMMAND)
    assert any(line.startswith("::error ") for line in errors) == bool(made.code)
    warned = any(line.startswith("::warning ") for line in errors)
    assert warned == (bool(comparison.undecided) and (made.code == 0 or bool(made.worse)))
    for case, _ in made.worse:
        assert any(line.startswith("::error ") and case in line for line in errors)


def test_elsewhere_nobody_is_told(comparison, monkeypatch, capsys):
    for variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(variable, raising=False)
    tell(comparison)
    assert capsys.readouterr() == ("", "")
