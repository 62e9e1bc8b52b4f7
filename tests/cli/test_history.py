"""The command: what it prints and writes, what it names, and what it ends with."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
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


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """20 comparisons with a step, 12 self-checks with four false alarms, and some runs."""
    path = tmp_path_factory.mktemp("compared")
    for number in range(20):
        slower = 1.06 if number >= 12 else 1.0
        factory.ab_comparison(path / "ab", number, CASES, lambda case, session, slower=slower: slower)
    for number in range(12):
        wrong = 1.1 if number >= 8 else 1.0
        factory.ab_comparison(
            path / "self", 40 + number, CASES[:1], lambda case, session, wrong=wrong: wrong, self_check=True
        )
    factory.nights(path / "runs", 3, CASES, lambda number, case: 1.0)
    return path


def test_ratios_are_followed_and_self_checks_told_in_every_output(llmbench, compared, tmp_path):
    page, markdown = tmp_path / "history.html", tmp_path / "history.md"
    done = llmbench("history", compared, "--html", page, "--markdown", markdown)
    assert done.returncode == 0
    assert "do not gate here" in done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    before, after = (factory.night(number).git.commit for number in (11, 12))
    commits = f"{before[:7]}..{after[:7]}"
    alarms = "✖ 4 false alarms in 12 self-checks, where the rules allow 0.24 on average"
    assert lines[0].startswith("▲ +5.") or lines[0].startswith("▲ +6.")
    assert f"commit {commits}" in " ".join(done.stdout.split())
    assert alarms in done.stdout
    assert "step time over the base's: 2 steps up" in lines
    assert "20 comparisons, 2026-08-01 to 2026-08-20; 2 cases" in lines
    assert "3 runs beside: --metric throughput" in lines
    assert commits in page.read_text()
    assert alarms[2:] in " ".join(Page(page.read_text()).body.split())
    assert f"`{commits}`" in markdown.read_text()
    assert "### False alarms" in markdown.read_text()
    document = json.loads(llmbench("history", compared, "--json").stdout)
    assert (document["metric"], document["of"]) == ("ratio", "comparisons")
    assert {trend["steps"][0]["commit_range"] for trend in document["trends"]} == {f"{before}..{after}"}
    assert {trend["base"] for trend in document["trends"]} == {"ba5e000"}
    checks = document["self_checks"]
    assert (checks["comparisons"], checks["false_alarms"], checks["distrusted"]) == (12, 4, True)
    assert len(checks["noise"]) == 12


@pytest.mark.slow
def test_the_metric_can_be_chosen(llmbench, compared):
    done = llmbench("history", compared, "--metric", "throughput")
    assert "20 comparisons beside: --metric ratio" in done.stdout
    assert "3 runs, 2026-08-01" in done.stdout
    assert "throughput over eager" in llmbench("history", compared, "--reference", "eager").stdout
    assert "throughput: " in llmbench("history", compared / "runs", "--reference", "none").stdout
    for words in (["--metric", "ratio", "--reference", "eager"], ["--metric", "loss", "--reference", "nothing"]):
        assert llmbench("history", compared, *words).returncode == 2
    assert llmbench("history", compared / "runs", "--metric", "ratio").returncode == 2
    assert llmbench("history", compared / "ab", "--metric", "memory").returncode == 2


def test_self_checks_alone_are_told(llmbench, compared, tmp_path):
    page = tmp_path / "h.html"
    done = llmbench("history", compared / "self", "--html", page)
    assert done.returncode == 0
    assert "4 false alarms in 12 self-checks" in done.stdout
    assert "4 false alarms in 12 self-checks" in Page(page.read_text()).body
    assert json.loads(llmbench("history", compared / "self", "--json").stdout)["trends"] == []


def test_the_gate_is_of_ratios_too(llmbench, compared):
    assert llmbench("history", compared / "ab", "--fail-worse", "3").returncode == 1
    assert llmbench("history", compared / "ab", "--fail-worse", "20").returncode == 0


WRITER = """
import sys
from pathlib import Path
from tests import factory
cases = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile", "bf16")]
for number in range(25):
    factory.nights(Path(sys.argv[1]) / f"{sys.argv[2]}-{number}", 1, cases, lambda n, case: 1.0,
                   id=lambda n: f"{sys.argv[2]}-{number}")
"""


def test_history_reads_a_tree_into_which_others_write(tmp_path):
    """Two writers make 50 runs meanwhile: whatever is seen of them is whole, or still being written."""
    from llmbench.errors import UserError
    from llmbench.results.history import read_history

    runs, here = tmp_path / "runs", os.environ | {"PYTHONPATH": "."}
    runs.mkdir()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, runs, name], env=here) for name in ("one", "other")]
    faults, looks = [], 0
    while any(writer.poll() is None for writer in writers):
        with contextlib.suppress(UserError):  # none has begun
            faults += [fault for fault in read_history([runs]).faults if "still writing" not in fault.message]
            looks += 1
    assert [writer.wait() for writer in writers] == [0, 0]
    assert faults == []
    assert looks > 1
    history = read_history([runs])
    assert (len(history.runs), len(history.records), history.faults) == (50, 150, [])
