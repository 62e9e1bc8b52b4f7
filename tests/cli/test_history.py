"""The command: what it prints and writes, what it names, and what it ends with."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

from tests import factory
from tests.report.html_reader import Page

CASES = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile")]


@pytest.fixture(scope="module")
def eventful(tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "runs"
    factory.eventful_history(path)
    return path


def test_steps_first_then_a_line_a_case_in_100_columns(llmbench, eventful):
    done = llmbench("history", eventful)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("▼ −13.")
    assert "bert-tiny/eager/ws1" in lines[0]
    assert "torch 2.12.1+cpu → 2.13.0+cpu" in done.stdout
    assert [line.split()[0] for line in lines if "/ws1  " in line and line[0] != " "][-16:] == [*"✖▼▼▲", *["="] * 12]
    assert lines[-2:] == ["throughput: 2 steps down, 1 step up", "40 runs, 2026-08-01 to 2026-09-09; 16 cases"]


def test_long_names_are_cut_in_the_middle(llmbench, tmp_path):
    long = factory.planned("gpt-" + "x" * 80, "compile+bf16")
    factory.nights(tmp_path, 2, [long], lambda number, case: 1.0)
    line = next(line for line in llmbench("history", tmp_path).stdout.splitlines() if "ws1" in line)
    assert len(line) <= 100
    assert "gpt-xx" in line
    assert "…" in line
    assert "x/compile+bf16/ws1" in line


def test_json_is_one_document_whose_records_belong_to_their_trends(llmbench, eventful):
    done = llmbench("history", eventful, "--json", "--case", "gpt-*")
    document = json.loads(done.stdout)
    assert document["metric"] == "throughput"
    assert len(document["runs"]) == 40
    assert {trend["case"].split("/")[0] for trend in document["trends"]} == {"gpt-tiny"}
    for trend in document["trends"]:
        rows = [document["records"][place] for place in trend["records"]]
        assert len(rows) == 40
        assert {row["case"] for row in rows} == {trend["case"]}
        assert [row["started_at"] for row in rows] == sorted(row["started_at"] for row in rows)
        last = [row["value"] for row in rows if row["value"] is not None][-1]
        assert last == pytest.approx(trend["latest"], rel=1e-5)
    [step] = document["trends"][0]["steps"]
    assert step["after"] == document["runs"][step["index"]]["id"]
    assert step["worse"]


def test_page_and_markdown_say_the_same(llmbench, eventful, tmp_path):
    page, markdown = tmp_path / "out" / "history.html", tmp_path / "history.md"
    page.parent.mkdir()
    done = llmbench("history", eventful, "--html", page, "--markdown", markdown)
    assert done.stdout.splitlines()[-2:] == [f"written: {page}", f"written: {markdown}"]
    assert Page(page.read_text()).one("h1").text.split(": ")[1].startswith("2 steps down, 1 step up")
    text = markdown.read_text()
    assert text.startswith("## History of throughput: 2 steps down, 1 step up\n")
    assert "| ▼ | −13." in text
    assert text.count("\n| \\= steady | ") == 12


def test_the_gate(llmbench, eventful):
    assert llmbench("history", eventful, "--fail-worse", "20").returncode == 0
    done = llmbench("history", eventful, "--fail-worse", "10")
    assert done.returncode == 1
    assert done.stderr == "llmbench: worse by more than 10 %: bert-tiny/eager/ws1\n"
    assert llmbench("history", eventful, "--fail-worse", "10", "--case", "gpt-*").returncode == 0
    assert llmbench("history", eventful, "--fail-worse", "5", "--last", "12", "--case", "gpt-*").returncode == 0
    assert llmbench("history", eventful, "--fail-worse", "5", "--smallest", "10", "--case", "gpt-*").returncode == 0


def test_other_metrics_and_ratios(llmbench, eventful):
    done = llmbench("history", eventful, "--metric", "step", "--case", "bert-tiny/eager/ws1")
    assert "▲ +15." in done.stdout
    assert "median step time: 1 step up" in done.stdout
    done = llmbench("history", eventful, "--reference", "eager", "--case", "gpt-*")
    assert "gpt-tiny/eager/ws1" not in done.stdout
    assert "throughput over eager: 1 step down" in done.stdout
    assert "1.7" in done.stdout
    done = llmbench("history", eventful, "--metric", "energy")
    assert "energy of a step: nothing was measured" in done.stdout


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(llmbench, tmp_path):
    folder, other = factory.nights(tmp_path, 2, CASES, lambda number, case: 1.0)
    with open(folder.path / "records.jsonl", "a") as file:
        file.write("broken\n")
    (other.path / "run.json").write_text("{")
    done = llmbench("history", tmp_path)
    assert done.returncode == 0
    assert f"left out: {folder.path / 'records.jsonl'}, line 3: not JSON" in done.stderr
    assert f"left out: {other.path / 'run.json'}: not JSON" in done.stderr
    assert "2 things could not be read" in done.stdout
    document = json.loads(llmbench("history", tmp_path, "--json").stdout)
    assert len(document["faults"]) == 2


def test_control_characters_of_a_record_stay_out_of_the_terminal(llmbench, tmp_path):
    hostile = CASES[0].model_copy(update={"case": "a\x1b[31m\u202e/b/ws1"})
    factory.nights(tmp_path, 1, [hostile], lambda number, case: 1.0)
    out = llmbench("history", tmp_path).stdout
    assert "a\\u{1b}[31m\\u{202e}/b/ws1" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "No such file"),
        (["."], "no run below ."),
        (["RUNS", "--case", "gtp-*"], "no case matches --case gtp-*"),
        (["RUNS", "--reference", "gpt-tiny/compil/ws1"], "did you mean gpt-tiny/compile/ws1"),
        (["RUNS", "--metric", "speed"], "throughput"),
        (["RUNS", "--last", "0"], "--last"),
        (["RUNS", "--html", "/nowhere/at/all.html"], "--html /nowhere/at/all.html"),
        (["RUNS", "--html", "same", "--markdown", "same"], "name the same file"),
    ],
)
def test_usage_errors(llmbench, eventful, tmp_path, arguments, told):
    done = llmbench("history", *(eventful if one == "RUNS" else one for one in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_it_imports_neither_torch_nor_numpy(eventful, environment):
    code = (
        "import sys; from llmbench.start import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'pandas', 'numpy', 'scipy'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "history", str(eventful)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rows_make_a_table_for_other_programs(llmbench, eventful):
    """Every row has the same plain fields."""
    records = json.loads(llmbench("history", eventful, "--json").stdout)["records"]
    assert len({tuple(row) for row in records}) == 1
    assert not any(isinstance(value, dict | list) for row in records for value in row.values())
    text = io.StringIO()
    csv.DictWriter(text, records[0]).writerows(records)
    assert len(text.getvalue().splitlines()) == 640
