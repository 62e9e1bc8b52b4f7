"""The `ab` command that would settle what stored runs cannot: of what differed, for these cases, ready to paste."""

from __future__ import annotations

import json
import shlex

import pytest
import typer
from typer.testing import CliRunner

from llmbench.cli.compare import compare
from llmbench.report.compare.settle import settling, settling_row
from llmbench.results.schema import Git
from llmbench.results.sides import load
from llmbench.stats.comparison import Rules
from llmbench.stats.judge import compare_sides
from tests import factory
from tests.report.html_reader import Page

OPEN = 0.97  # of the speed: it cannot be told
GPT = [("gpt-tiny", "eager")]
BEFORE, AFTER = Git(commit="a" * 40, dirty=False), Git(commit="b" * 40, dirty=False)


def compared(path, cases=GPT, base=None, cand=None, factor=OPEN):
    """Two runs of the cases, with changes of each ``run.json``."""
    slower = {f"{workload}/{mode}/ws1": factor for workload, mode in cases}
    plain = {"command": ["llmbench", "run", "smoke"], "data": {"name": "generated"}}
    one = factory.steady_run(path / "base", cases, id="base", **(plain | (base or {})))
    other = factory.steady_run(path / "cand", cases, slower, id="cand", **(plain | (cand or {})))
    return compare_sides(*load(one.path, other.path), Rules())


def the_command(comparison):
    [one] = settling(comparison)
    return shlex.split(one.command), one.hint


def test_two_commits(tmp_path):
    words, hint = the_command(compared(tmp_path, base={"git": BEFORE}, cand={"git": AFTER}))
    assert words == [
        *("llmbench", "ab", "smoke", "-w", "gpt-tiny", "-m", "eager"),
        *("--base", f"git:{'a' * 40}", "--cand", f"git:{'b' * 40}"),
    ]
    assert hint is None


def test_local_changes_are_in_no_commit(tmp_path):
    dirty = AFTER.model_copy(update={"dirty": True})
    _, hint = the_command(compared(tmp_path, base={"git": BEFORE}, cand={"git": dirty}))
    assert hint == "CAND had local changes, which no commit holds"


def test_two_interpreters(tmp_path):
    pythons = [{"python": f"/envs/my {name}/bin/python", "git": BEFORE} for name in ("old", "new")]
    words, hint = the_command(compared(tmp_path, base=pythons[0], cand=pythons[1]))
    assert words[-4:] == ["--base", "/envs/my old/bin/python", "--cand", "/envs/my new/bin/python"]
    assert hint is None


def test_another_torch_and_another_commit_are_held_apart(tmp_path):
    base = {"git": BEFORE, "python": "/envs/old/bin/python"}
    cand = {"git": AFTER, "python": "/envs/new/bin/python", "environment": factory.torch_at("2.14.0")}
    words, hint = the_command(compared(tmp_path / "a", base=base, cand=cand))
    assert words[-1] == "/envs/new/bin/python"
    assert "commits differ as well" in hint
    words, hint = the_command(compared(tmp_path / "b", base=base, cand=cand | {"python": "/envs/old/bin/python"}))
    assert words[-1].startswith("git:b")
    assert "environment changed as well" in hint


def test_nothing_that_differs_says_so(tmp_path):
    words, hint = the_command(compared(tmp_path))
    assert words[-4:] == ["--base", "/usr/bin/python3.12", "--cand", "/usr/bin/python3.12"]
    assert "environment of its own" in hint


def test_what_the_runs_were_started_with_is_kept(tmp_path):
    started = {
        "command": [
            *("llmbench", "run", "smoke", "--set", "steps=300", "--set=budget_seconds=2", "--out", "r1"),
            *("--python", "/venv/bin/python", "--device", "cpu"),
        ],
        "data": {"name": "wikitext-2", "argument": "../shared data/wikitext-2"},
        "git": AFTER,
    }
    words, _ = the_command(compared(tmp_path, base={"git": BEFORE}, cand=started))
    assert words[-10:] == [
        *("--set", "steps=300", "--set", "budget_seconds=2", "--python", "/venv/bin/python", "--device", "cpu"),
        *("--data", "../shared data/wikitext-2"),
    ]


def test_a_suite_of_ones_own_is_named_by_its_file(tmp_path):
    mine = {"suite": "mine", "suite_file": "suites of mine/mine.toml"}
    words, _ = the_command(compared(tmp_path, base=mine, cand=mine))
    assert words[2] == "suites of mine/mine.toml"


def test_workloads_with_the_same_modes_share_a_command(tmp_path):
    cases = [("gpt-tiny", "eager"), ("gpt-tiny", "compile"), ("bert-tiny", "compile"), ("bert-tiny", "eager")]
    found = settling(compared(tmp_path / "a", cases))
    assert [" ".join(shlex.split(one.command)[3:11]) for one in found] == [
        "-w gpt-tiny -w bert-tiny -m eager -m compile"
    ]
    assert len(found[0].cases) == 4
    apart = settling(compared(tmp_path / "b", cases[:3]))
    assert [" ".join(shlex.split(one.command)[3:-4]) for one in apart] == [
        "-w gpt-tiny -m eager -m compile",
        "-w bert-tiny -m compile",
    ]


@pytest.mark.parametrize("factor", [1.0, 0.8])
def test_a_verdict_that_is_in_needs_no_command(tmp_path, factor):
    comparison = compared(tmp_path, factor=factor)
    assert settling(comparison) == []
    assert settling_row(comparison, comparison.rows[0]) is None


def test_two_machines_cannot_take_turns(tmp_path):
    elsewhere = factory.ENVIRONMENT | {"host": factory.ENVIRONMENT["host"] | {"cpu": "Intel Xeon 8592+"}}
    comparison = compared(tmp_path, cand={"environment": elsewhere})
    assert settling(comparison) == []
    assert settling_row(comparison, comparison.rows[0]) is None


def test_every_output_has_the_command(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    [one] = settling(compared(tmp_path, base={"git": BEFORE}, cand={"git": AFTER}))
    app = typer.Typer()
    app.command()(compare)
    html, markdown = tmp_path / "x.html", tmp_path / "x.md"
    sides = [str(tmp_path / "base"), str(tmp_path / "cand")]
    told = CliRunner().invoke(app, [*sides, "--html", str(html), "--markdown", str(markdown)])
    assert f"\n  {one.command}\n" in told.stdout
    assert f"\n{one.command}\n" in markdown.read_text()
    assert one.command in [" ".join(code.text.split()) for code in Page(html.read_text()).all("code")]
    document = json.loads(CliRunner().invoke(app, [*sides, "--json"]).stdout)
    assert document["settle"] == [{"command": one.command, "cases": list(one.cases), "hint": None}]
    assert [record["settle"] for record in document["records"]] == [one.command]
