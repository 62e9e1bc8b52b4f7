"""Damaged runs: the page is built, shows what can be read, says what cannot, and counts none of it."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from llmbench.cli.report import report
from llmbench.errors import UserError
from llmbench.report import run_page, write_run_report
from llmbench.report.history import history_page
from llmbench.results.history import read_history
from llmbench.stats.metrics import METRICS
from llmbench.stats.trends import trends
from tests import factory
from tests.report.html_reader import Page
from tests.report.test_run_page import assert_safe, details, pills

GOOD = "gpt-tiny/eager/ws1"


@pytest.fixture
def folder(tmp_path):
    return factory.plain_run(tmp_path / "run", ["gpt-tiny", "bert-tiny"], ["eager", "bf16"])


def change(folder, line, **fields):
    """Changes fields of a line of the records; ``GONE`` takes one away."""
    file = folder.path / "records.jsonl"
    lines = file.read_text().splitlines()
    document = json.loads(lines[line - 1]) | fields
    lines[line - 1] = json.dumps({key: value for key, value in document.items() if value != "GONE"})
    file.write_text("\n".join(lines) + "\n")


def add_line(folder, line):
    file = folder.path / "records.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")


def rows(page):
    return [row for row in page.all("tr") if "data-tone" in row.attributes]


def needs(source):
    """What needs attention, as text."""
    begin = source.index('<h2 id="attention">')
    page = Page(f"<body>{source[begin : source.index('</section>', begin)]}</body>")
    return " ".join(page.one("body").text.split())


def test_a_damaged_case_is_shown_and_counts_nowhere(folder):
    whole = Page(run_page(folder))
    change(folder, 2, noise={"cv": 0.01}, memory="much")  # gpt-tiny/bf16
    source = run_page(folder)
    page = assert_safe(source)
    assert pills(page) == ["✖ 1 damaged", "✓ 3 passed"]
    assert "records.jsonl, line 2: memory: Input should be an object" in needs(source)
    damaged = next(one for one in details(page) if "gpt-tiny/bf16/ws1" in one.text)
    assert "records.jsonl, line 2: noise.verdict: Field required; noise is left out" in damaged.text
    row = next(row for row in rows(page) if "gpt-tiny/bf16/ws1" in row.text)
    assert row.attributes["data-tone"] == "bad"
    assert "tokens/s" in row.text  # its speed is shown
    assert "geometric mean of 2 workloads" in whole.body
    assert "geometric mean of 1 workload," in page.body
    assert page.data["records"][1]["throughput"] == whole.data["records"][1]["throughput"]


def test_a_damaged_eager_case_is_no_base(folder):
    change(folder, 1, parity=[])
    body = Page(run_page(folder)).body
    assert "× eager" not in next(text for text in body.split("✓ passed") if "gpt-tiny/bf16/ws1" in text)


def test_a_damaged_line_hides_no_valid_record(folder):
    for line in (
        b'{"case": "gpt-tiny/eager/ws1", "mode": "eager", "status": "ok"}',
        b'{"case": "gpt-tiny/eager/ws1 (line 5)", "mode": 7}',
        b'{"case": "gpt-tiny/eager/ws0", "workload": "gpt-tiny", "mode": "eager", "world_size": 0}',
    ):
        add_line(folder, line)
    page = assert_safe(run_page(folder))
    assert pills(page) == ["✖ 3 damaged", "✓ 4 passed"]
    names = [one.text for one in page.all("span", class_="case")]
    for name in (GOOD, f"{GOOD} (line 5)", f"{GOOD} (line 5)′", "gpt-tiny/eager/ws0"):
        assert name in names
    assert "geometric mean of 2 workloads" in page.body  # the speed-ups are still over the valid eager case
    anchors = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(anchors) == len(set(anchors))
    assert len(page.data["records"]) == 7


@pytest.mark.parametrize("line", [b"garbage", b"\xff\xfe", b"[]", b"{}", b'{"schema_version": "new"}'])
def test_a_line_that_is_no_record_has_a_row(folder, line):
    add_line(folder, line)
    source = run_page(folder)
    page = assert_safe(source)
    assert pills(page) == ["✖ 1 damaged", "✓ 4 passed"]
    assert "records.jsonl line 5" in needs(source)
    assert any("records.jsonl line 5" in row.text for row in rows(page))
    assert page.data["records"][4]["error"]["type"] == "Damaged"
    assert page.body.count("unknown") == 1  # its device: no row, column or command is made of what is not known


def test_a_planned_case_of_which_only_a_damaged_line_is_left(folder):
    change(folder, 3, config="GONE", status="GONE")
    page = Page(run_page(folder))
    assert pills(page) == ["✖ 1 damaged", "✓ 3 passed"]
    assert "not run" not in page.body.split("How to read")[0]


def test_what_it_says_of_a_failure_stays(folder):
    error = {"type": "OutOfMemoryError", "message": "2 GiB were not enough", "hint": "a smaller batch"}
    change(folder, 2, status="oom", error=error, loss=3)
    page = Page(run_page(folder))
    assert pills(page) == ["✖ 1 damaged", "✓ 3 passed"]
    assert "OutOfMemoryError: 2 GiB were not enough" in page.body
    assert "a smaller batch" in page.body


def test_a_rung_of_a_ladder_that_is_damaged_is_no_base(tmp_path):
    folder = factory.ladder_run(tmp_path / "run")
    whole = run_page(folder)
    change(folder, 1, noise=[])
    assert "records.jsonl, line 1: noise: Input should be an object" in run_page(folder)
    assert len(Page(run_page(folder)).body.split("×")) < len(Page(whole).body.split("×"))


def test_a_damaged_run_and_series_need_attention(folder):
    file = folder.path / "run.json"
    document = json.loads(file.read_text())
    document["git"], document["environment"], document["cases"][0] = 7, [1], {"case": GOOD}
    del document["suite"], document["started_at"]
    file.write_text(json.dumps(document))
    (folder.path / "series/gpt-tiny__bf16__ws1.json").write_text('{"loss": 1}')
    source = run_page(folder)
    page = assert_safe(source)
    assert pills(page) == ["✓ 4 passed"]  # what was measured of them is whole
    assert "run.json: suite: Field required; cases.0.workload: Field required" in needs(source)
    assert "; and 5 more" in needs(source)
    assert "series/gpt-tiny__bf16__ws1.json: loss: Input should be" in needs(source)
    assert [curve is None for curve in page.data["curves"]] == [False, True, False, False]


# The command

app = typer.Typer()
app.command()(report)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_report_names_the_damage_writes_the_page_and_ends_with_2(llmbench, folder):
    change(folder, 2, loss="\x1b[31mred", throughput={"value": 1})
    add_line(folder, b'{"case": "\x1b[31mred", "metrics": {"\\u001b[31mred": "x"}}')
    (folder.path / "series/gpt-tiny__eager__ws1.json").write_text("{")
    done = llmbench("report", folder.path)
    assert done.returncode == 2
    assert done.stdout == f"{folder.report}\n"
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"error: {folder.path}/records.jsonl, line 2: throughput.unit: ")
    assert any(line.startswith(f"error: {folder.path}/records.jsonl, line 2: loss: ") for line in lines)
    assert any("line 5: metrics.\\u{1b}[31mred: Input" in line for line in lines)
    assert lines[-1].startswith(f"error: {folder.path}/series/gpt-tiny__eager__ws1.json: document: Invalid JSON")
    assert "\x1b" not in done.stderr
    assert folder.report.read_text(encoding="utf-8") == run_page(folder)


def test_a_damaged_case_is_no_pass_in_other_outputs(folder, tmp_path):
    change(folder, 2, noise=[])
    file = folder.path / "run.json"
    file.write_text(file.read_text().replace('"suite":', '"suit":', 1))
    junit, markdown = tmp_path / "junit.xml", tmp_path / "run.md"
    assert call(folder.path, "--junit", junit, "--markdown", markdown).exit_code == 2
    assert "records.jsonl, line 2: noise: Input should be an object" in junit.read_text()
    assert "damaged" in markdown.read_text()


def test_one_damaged_run_of_several(folder, tmp_path):
    other = factory.plain_run(tmp_path / "other", ["gpt-tiny"], ["eager"])
    add_line(folder, b"garbage")
    result = call(folder.path, other.path)
    assert result.exit_code == 2
    assert result.stdout.split() == [str(folder.report), str(other.report)]
    assert result.stderr.count("error: ") == 1
    assert call(other.path).exit_code == 0


def test_a_half_line_and_a_series_that_is_gone_are_no_damage(folder):
    (folder.path / "series/gpt-tiny__eager__ws1.json").unlink()
    add_line(folder, b'{"schema_version":1,"case":"gpt-ti')
    result = call(folder.path)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_run_file_that_is_no_object_has_no_page(folder):
    (folder.path / "run.json").write_text("[]")
    with pytest.raises(UserError, match=r"run\.json: document: Input should be an object"):
        write_run_report(folder)
    assert not folder.report.exists()


def test_the_end_of_a_run_names_what_was_damaged_meanwhile(folder, capsys):
    from llmbench.cli.outputs import Outputs
    from llmbench.cli.run import _finish

    assert _finish(folder, 0, Outputs()) == 0
    add_line(folder, b"garbage")
    capsys.readouterr()
    assert _finish(folder, 0, Outputs()) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {folder.path}/records.jsonl, line 5: document: Invalid JSON")
    assert str(folder.report) in said.out
    assert "✖ 1 damaged" in pills(Page(folder.report.read_text(encoding="utf-8")))
    assert _finish(folder, 3, Outputs()) == 3  # a case failed, too


def test_a_history_names_what_it_cannot_use_of_a_record(folder):
    change(folder, 1, throughput={"value": "fast"})
    change(folder, 2, memory="much")
    change(folder, 3, config=7)
    past = read_history([folder.path])
    assert [str(fault).removeprefix(f"{folder.path}/") for fault in past.faults] == [
        "records.jsonl, line 1: throughput.value: no number",
        "records.jsonl, line 2: memory: no object",
        "records.jsonl, line 3: config: no object, so it is not known what this compares with",
    ]
    assert len(past.records) == 3


def test_ids_of_a_history_are_none_of_the_page_itself(folder):
    change(folder, 1, case="data")
    change(folder, 2, case="cases")
    past = read_history([folder.path])
    page = Page(history_page(past, trends(past, METRICS["throughput"]), METRICS["throughput"]))
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert {"case/data", "case/cases"} <= set(ids)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page_of_a_damaged_run(folder, open_page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    change(folder, 1, throughput={"value": "fast"}, status="GONE")
    change(folder, 2, noise={"cv": 0.01}, memory="much")
    add_line(folder, b"}{ \x00 no record")
    # axe is injected as a script, which the page's own policy rightly forbids.
    opened = open_page(write_run_report(folder), color_scheme=scheme, bypass_csp=True)
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    found = axe.Axe().run(opened.page)
    assert found.violations_count == 0, found.generate_report()
