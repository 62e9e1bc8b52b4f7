"""``llmbench compare``: every output agrees with the verdict."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from llmbench.cli.compare import compare
from llmbench.errors import UserError
from tests import factory

app = typer.Typer()
app.command()(compare)
GPT = [("gpt-tiny", "eager")]
ID = "gpt-tiny/eager/ws1"


def call(*words, **variables):
    return CliRunner().invoke(app, [str(word) for word in words], env=variables)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return [folder.path for folder in factory.compared_runs(tmp_path_factory.mktemp("compared"))]


@pytest.fixture
def pair(tmp_path):
    """Makes two runs, of which CAND has so many times BASE's speed."""

    def make(factor, **changes):
        base = factory.steady_run(tmp_path / "base", GPT, id="base")
        cand = factory.steady_run(tmp_path / "cand", GPT, {ID: factor}, id="cand", **changes)
        return base.path, cand.path

    return make


def outputs(base, cand, *options, tmp_path):
    """Exit code, and what each output says."""
    places = {name: tmp_path / f"out.{name}" for name in ("junit", "markdown", "html")}
    files = [word for name, place in places.items() for word in (f"--{name}", place)]
    done = call(base, cand, *options, *files, "--json", GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))
    document = json.loads(done.stdout)
    texts = {name: place.read_text(encoding="utf-8") for name, place in places.items()}
    return done.exit_code, document, texts, (tmp_path / "summary.md").read_text(encoding="utf-8")


OTHER_CPU = factory.ENVIRONMENT | {"host": factory.ENVIRONMENT["host"] | {"cpu": "Intel Xeon 8592+"}}


@pytest.mark.parametrize(
    ("factor", "changes", "options", "code", "verdict", "failed", "skipped"),
    [
        (1.0, {}, [], 0, "same", 0, 0),
        (1.09, {}, [], 0, "faster", 0, 0),
        (0.92, {}, [], 1, "slower", 1, 0),
        (0.92, {}, ["--fail-slower", "10%"], 0, "slower", 0, 0),
        (0.92, {}, ["--fail-slower", "5"], 1, "slower", 1, 0),
        (0.92, {}, ["--equal-within", "12"], 0, "same", 0, 0),
        (0.97, {}, [], 0, "inconclusive", 0, 1),
        (0.97, {}, ["--strict"], 1, "inconclusive", 1, 0),
        (0.92, {"environment": OTHER_CPU}, [], 0, "slower", 0, 0),
        (0.92, {"environment": OTHER_CPU}, ["--strict"], 0, "slower", 0, 0),
        (0.92, {"environment": OTHER_CPU}, ["--across-hardware"], 1, "slower", 1, 0),
    ],
)
def test_every_output_agrees_with_the_exit_code(
    pair, tmp_path, factor, changes, options, code, verdict, failed, skipped
):
    base, cand = pair(factor, **changes)
    got, document, texts, summary = outputs(base, cand, *options, tmp_path=tmp_path)
    assert got == code
    assert document["exit_code"] == code
    assert [record["verdict"] for record in document["records"]] == [verdict]
    assert bool(document["failures"]) == (code == 1 and "--strict" not in options)
    suite = ElementTree.fromstring(texts["junit"])
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("1", str(failed), str(skipped))
    assert f"(exit code {code})" in texts["markdown"]
    assert texts["markdown"] == summary
    assert f"exit {code}" in texts["html"]
    symbol = re.search(r"## (.) llmbench compare", summary)[1]
    assert (symbol == "✖") == (code == 1)
    terminal = call(base, cand, *options)
    assert terminal.exit_code == code
    assert terminal.stdout.splitlines()[-1] == document["gate"]
    assert document["gate"].startswith("failed") == (code == 1)


def test_every_verdict_in_one_comparison(every, tmp_path):
    code, document, texts, _ = outputs(*every, tmp_path=tmp_path)
    assert code == 1
    suite = ElementTree.fromstring(texts["junit"])
    failed = {
        f"{case.get('classname')}/{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None
    }
    assert failed == {
        "compare.gpt-tiny/eager/ws1",
        "compare.bert-tiny/eager/ws1",
        "compare.bert-tiny/compile/ws1",
        "compare.bert-tiny/bf16/ws1",
    }
    assert failed == {f"compare.{failure['case']}" for failure in document["failures"]}
    assert sum(case.find("skipped") is not None for case in suite.iter("testcase")) == 5
    for failure in document["failures"]:
        assert f"`{failure['case']}`" in texts["markdown"]


def test_the_terminal_names_what_differs_first_and_keeps_to_100_columns(every):
    done = call(*every)
    lines = done.stdout.splitlines()
    assert lines[0] == "the environments differ in 2 of 25 keys"
    assert lines[1] == "  torch.version: 2.13.0+cpu → 2.14.0+cpu"
    table = lines[lines.index(next(line for line in lines if line.startswith("case "))) :]
    table = table[: table.index("")]
    assert len(table) == 19
    assert max(map(len, table)) <= 100
    slower = next(line for line in table if line.startswith("gpt-tiny/eager/ws1"))
    assert slower.split() == [
        "gpt-tiny/eager/ws1",
        "▼",
        "slower",
        "−8.0",
        "%",
        "[−9.6,",
        "−6.4]",
        "4.3",
        "%",
        "0.0",
        "%",
        "=",
    ]
    assert "✖ bert-tiny/eager/ws1: +8.0 % peak memory" in lines
    assert "? gpt-tiny/compile+bf16/ws1: CAND: other processes used 6.1 CPUs; stop them" in lines
    assert lines[-1] == "failed: 4 cases got worse"


def test_what_could_not_be_told_is_a_warning_on_stderr(every):
    done = call(*every)
    assert done.stderr.startswith("llmbench: warning: 5 cases could not be told (")


def test_github_is_told_of_each_failure(every):
    done = call(*every, GITHUB_ACTIONS="true")
    assert done.stderr.count("::error title=llmbench compare::") == 4
    assert "::error title=llmbench compare::gpt-tiny/eager/ws1: −8.0 %25 throughput" in done.stderr
    assert done.stderr.count("::warning ") == 1


def test_folders_of_several_runs(tmp_path):
    for side, factor in (("base", 1.0), ("cand", 0.93)):
        (tmp_path / side).mkdir()
        for number in range(3):
            factory.steady_run(tmp_path / side / str(number), GPT, {ID: factor}, id=f"{side}{number}")
    document = json.loads(call(tmp_path / "base", tmp_path / "cand", "--json").stdout)
    assert document["base"]["runs"] == ["base0", "base1", "base2"]
    assert document["records"][0]["runs"] == {"base": 3, "cand": 3}
    assert document["records"][0]["verdict"] == "slower"


@pytest.mark.parametrize("value", ["much", "-1", "100", "nan", "5%%", ""])
@pytest.mark.parametrize("option", ["--fail-slower", "--equal-within"])
def test_a_percentage_that_is_none_is_a_usage_error(pair, option, value):
    error = call(*pair(1.0), option, value).exception
    assert isinstance(error, UserError)
    assert error.message.startswith(f"{option} {value}")


def test_files_that_cannot_be_written_are_refused_first(pair, tmp_path):
    base, cand = pair(1.0)
    error = call(base, cand, "--html", tmp_path / "no" / "page.html").exception
    assert isinstance(error, UserError)
    assert "--html" in error.message
    error = call(base, cand, "--html", tmp_path / "one", "--junit", tmp_path / "one").exception
    assert isinstance(error, UserError)
    assert "same file" in error.message


def test_damage_is_told_and_a_record_that_cannot_be_read_is_no_green(pair):
    base, cand = pair(1.0)
    (cand / "records.jsonl").write_text('{"case": "gpt-tiny/eager/ws1", "status": 7}\n', encoding="utf-8")
    done = call(base, cand)
    assert done.exit_code == 1
    assert "llmbench: damaged: " in done.stderr
    assert "line 1" in done.stderr
    assert f"✖ {ID}: failed: " in done.stdout


HOSTILE = "\x1b[2Jx\u202e]]>&<script>\n::error::x`|*_#1@me"


def test_hostile_texts_leave_every_output_whole(tmp_path):
    for name in ("base", "cand"):
        folder = factory.steady_run(tmp_path / name, [], id=HOSTILE, environment={HOSTILE: name + HOSTILE})
        record, series = factory.steadied(*factory.ok_record(factory.planned(*GPT[0])), 0.5 if name == "cand" else 1.0)
        record.case = HOSTILE
        factory.add(folder, record, series)
    code, document, texts, _ = outputs(tmp_path / "base", tmp_path / "cand", tmp_path=tmp_path)
    assert code == 1
    assert document["records"][0]["case"] == HOSTILE
    assert len(list(ElementTree.fromstring(texts["junit"]).iter("failure"))) == 1
    done = call(tmp_path / "base", tmp_path / "cand", GITHUB_ACTIONS="true")
    for text in (done.stdout, done.stderr, texts["markdown"], texts["junit"]):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "\n::error::x" not in done.stdout + done.stderr + texts["markdown"]
    assert "@me" not in texts["markdown"]


def test_the_command_ends_with_its_code_and_without_a_traceback(llmbench, pair):
    base, cand = pair(0.9)
    done = llmbench("compare", base, cand)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == ["1 slower", "failed: 1 case got worse"]
    done = llmbench("compare", base, base)
    assert done.returncode == 2
    assert "on both sides" in done.stderr
    assert "Traceback" not in done.stderr
