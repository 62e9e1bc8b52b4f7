"""A run as Markdown, as a reader of it sees it."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from llmbench.report.outputs.markdown import LIMIT
from llmbench.report.run.markdown import run_markdown
from llmbench.results.schema import Error
from llmbench.results.store import RunFolder
from tests import factory
from tests.report.outputs.conftest import SECRET
from tests.report.outputs.test_markdown import cells, reader


def test_the_verdict_comes_first_then_what_is_wrong_and_why(every: RunFolder) -> None:
    written = run_markdown(every)
    head = written.splitlines()[0]
    assert head == (
        "### ✖ smoke on node-17: 1 failed, 1 out of memory, 1 timed out, 1 invalid, 1 aborted, "
        "1 did not learn, 1 noisy, 1 not run, 1 skipped, 1 passed"
    )
    before, *folds = written.split("<details>")
    rows = cells(reader(before))
    assert [row[0] for row in rows[1:]] == [
        *("✖ failed", "✖ out of memory", "✖ timed out", "✖ invalid", "✖ aborted"),
        *("! did not learn", "~ noisy", "○ not run"),
    ]
    assert rows[1][1:] == ["gpt-tiny/failed/ws1", "RuntimeError: no such tensor", "see llmbench doctor"]
    assert rows[2][3] == "a smaller batch: --set micro_batch_size=4"
    assert f"llmbench run --resume {every.path}" in before
    assert "llmbench run smoke --data" in before
    assert [html.unescape(re.findall("<summary>(.*?)</summary>", fold)[0]) for fold in folds] == [
        "All cases: 10",
        "Environment",
    ]


def test_every_case_stands_in_the_fold(every: RunFolder) -> None:
    fold = run_markdown(every).split("<details>")[1]
    rendered = reader(fold)
    rows = cells(rendered)
    assert rows[0][:4] == ["", "Case", "Throughput", "±95 %"]
    assert [row[1] for row in rows[1:]] == [
        f"gpt-tiny/{mode}/ws1"
        for mode in ("eager", "noisy", "doubtful", "invalid", "failed", "oom", "timeout", "aborted")
    ]
    assert "skipped 1: <code>gpt-tiny/skipped/ws1</code>: fp8 needs a CUDA device" in rendered
    assert "not run 1: <code>gpt-tiny/missing/ws1</code>" in rendered


def test_a_good_run_says_so_and_asks_for_nothing(tmp_path: Path) -> None:
    written = run_markdown(factory.plain_run(tmp_path / "r", ["gpt-tiny"], ["eager", "compile"]))
    assert written.startswith("### ✓ smoke on node-17: 2 passed\n")
    assert "--resume" not in written
    assert "Cause" not in written
    assert re.search(r"^- \*\*1\.\d\d×\*\* compile over eager", written, re.MULTILINE)


def test_what_was_skipped_is_no_fault(tmp_path: Path) -> None:
    cases = [factory.planned("gpt-tiny", "eager"), factory.planned("gpt-tiny", "fp8")]
    folder = RunFolder.create(tmp_path / "r", factory.make_run(cases))
    factory.add(folder, *factory.ok_record(cases[0]))
    factory.add(folder, factory.unavailable(cases[1], "fp8 needs a CUDA device"))
    assert run_markdown(folder).startswith("### ✓ smoke on node-17: 1 skipped, 1 passed\n")


def test_a_run_without_any_record_has_its_verdict(tmp_path: Path) -> None:
    folder = RunFolder.create(
        tmp_path / "r", factory.make_run([factory.planned("gpt-tiny", "eager")], status="running")
    )
    written = run_markdown(folder)
    assert written.startswith("### ○ smoke on node-17: 1 not run\n")
    assert "the run is still going on, or was killed" in written


def test_many_cases_fit(tmp_path: Path) -> None:
    written = run_markdown(factory.modes_run(tmp_path / "r"))
    assert len(written.encode()) < LIMIT
    assert "Cut here" not in written


def test_too_many_are_cut_and_the_folds_are_closed(tmp_path: Path) -> None:
    folder = factory.plain_run(
        tmp_path / "r", [f"gpt-{'x' * 40}{number}" for number in range(400)], ["eager"], steps=30
    )
    written = run_markdown(folder)
    assert LIMIT - 500 < len(written.encode()) <= LIMIT
    assert written.count("<details>") == written.count("</details>") == 1
    assert "Cut here" in written.splitlines()[-1]


@pytest.mark.parametrize(
    "text",
    ["</details><script>x</script>", "| a | b |", "@someone #12", "```\n# x", "\x1b[31m\u202e", "[x](http://e.org)"],
)
def test_hostile_text_stays_text(tmp_path: Path, text: str) -> None:
    case = factory.planned("gpt-tiny", "eager").model_copy(update={"case": f"{text}/x/ws1", "workload": text})
    run = factory.make_run([case], suite=text, command=["llmbench", text], environment={"host": {"name": text}})
    folder = RunFolder.create(tmp_path / "r", run)
    factory.add(folder, factory.broken_record(case, "failed", Error(type=text, message=text, hint=text)))
    written = run_markdown(folder)
    rendered = reader(written)
    assert "<script" not in rendered
    assert 'href="' not in rendered
    assert "\u202e" not in written
    assert rendered.count("<details>") == rendered.count("</details>") == 2
    assert rendered.count("<table>") == 3
    assert {len(row) for row in cells(rendered)} <= {2, 4}
    prose = re.sub(r"^(```+).*?^\1$|<code>.*?</code>|(`+)(?!`).*?(?<!`)\2(?!`)", "", written, flags=re.DOTALL | re.M)
    assert "@someone" not in prose
    assert "#12" not in prose


def test_no_secret_is_told(every: RunFolder) -> None:
    assert SECRET not in run_markdown(every)
