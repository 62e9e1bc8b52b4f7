"""The JSON of pytest-benchmark that we write: read by pytest-benchmark itself, by ours, and as others read it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from llmbench.report.benchmarks import benchmarks_page
from llmbench.report.outputs.benchmarks import ab_benchmarks, run_benchmarks, statistics_of
from llmbench.results.ab import Ab, AbCase, AbGate, AbSession, AbSide, Round, Trained, Turn
from llmbench.results.schema import Error
from llmbench.results.sides import load
from llmbench.results.store import RunFolder
from llmbench.stats.comparison import Rules
from llmbench.stats.judge import compare_sides
from tests import factory
from tests.conftest import Command
from tests.report.html_reader import Page

CASES = [("gpt-tiny", "eager"), ("regression-linear", "eager")]
GPT = "gpt-tiny/eager/ws1"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two files of runs, of which the second is a tenth slower in one case."""
    files = []
    for name, factor in (("base", 1.0), ("cand", 0.9)):
        folder = factory.steady_run(tmp_path / name, CASES, {GPT: factor}, id=name)
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(run_benchmarks(folder), encoding="utf-8")
    return files[0], files[1]


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=40))
def test_the_statistics_are_those_of_pytest_benchmark(seconds: Sequence[float]) -> None:
    theirs = Stats()
    for value in seconds:
        theirs.update(value)
    expected = theirs.as_dict()
    ours = statistics_of(seconds)
    assert expected.keys() <= ours.keys()
    # A value as far from the mean as the deviation may fall on either side of it by rounding.
    counts = ("stddev_outliers", "iqr_outliers", "outliers")
    for key in expected.keys() - set(counts):
        assert ours[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-12), key
    if len(set(seconds)) == len(seconds) > 4:
        assert abs(ours["stddev_outliers"] - expected["stddev_outliers"]) <= 2
        assert abs(ours["iqr_outliers"] - expected["iqr_outliers"]) <= 2


def test_outliers_are_counted_as_pytest_benchmark_does() -> None:
    seconds = [1.0, 1.1, 1.2, 1.05, 1.15, 9.0, 1.12, 0.2]
    theirs = Stats()
    for value in seconds:
        theirs.update(value)
    assert statistics_of(seconds)["outliers"] == theirs.outliers == "1;2"


@pytest.mark.parametrize("command", ["pytest-benchmark", "py.test-benchmark"])
def test_pytest_benchmark_compares_two_of_them(pair: tuple[Path, Path], tmp_path: Path, command: str) -> None:
    program = Path(sys.executable).parent / command
    done = subprocess.run(
        [str(program), "compare", *map(str, pair), "--group-by=fullname", "--csv=out.csv", "--columns=mean,rounds,ops"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to load" not in done.stdout + done.stderr
    assert done.stdout.count(GPT) >= 2
    with (tmp_path / "out.csv").open() as file:
        means = sorted(float(row["mean"]) for row in csv.DictReader(file) if GPT in row["name"])
    assert len(means) == 2
    assert means[1] / means[0] == pytest.approx(1 / 0.9, rel=0.02)


def test_it_is_what_github_action_benchmark_reads(pair: tuple[Path, Path]) -> None:
    """As its extractPytestResult does: fullname, and of stats ops, stddev, mean and rounds."""
    document = json.loads(pair[0].read_text())
    found = {
        benchmark["fullname"]: (benchmark["stats"]["ops"], f"stddev: {benchmark['stats']['stddev']}")
        for benchmark in document["benchmarks"]
    }
    assert found.keys() == {GPT, "regression-linear/eager/ws1"}
    for benchmark in document["benchmarks"]:
        stats = benchmark["stats"]
        assert stats["ops"] == pytest.approx(1 / stats["mean"])
        assert all(type(stats[key]) is float for key in ("ops", "mean", "stddev"))
        assert stats["rounds"] == len(stats["data"])
    assert document["commit_info"]["id"]
    assert document["datetime"]


def test_every_field_that_pytest_benchmark_writes_is_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(benchmark):\n    benchmark(sum, [1])\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"),
            *("--benchmark-json=real.json", "--benchmark-max-time=0.01", "--benchmark-min-rounds=1"),
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},  # of xdist
        capture_output=True,
        check=True,
        timeout=120,
    )
    real, ours = (json.loads(file.read_text()) for file in (tmp_path / "real.json", pair[0]))
    assert real.keys() <= ours.keys()
    assert real["machine_info"].keys() <= ours["machine_info"].keys()
    assert real["commit_info"].keys() <= ours["commit_info"].keys()
    assert real["benchmarks"][0].keys() <= ours["benchmarks"][0].keys()
    assert real["benchmarks"][0]["stats"].keys() <= ours["benchmarks"][0]["stats"].keys()


def test_compare_reads_it_back(pair: tuple[Path, Path]) -> None:
    comparison = compare_sides(*load(*pair), Rules())
    outcomes = {row.case: row.outcome for row in comparison.rows}
    assert outcomes == {GPT: "slower", "regression-linear/eager/ws1": "same"}
    assert comparison.hardware == []
    runs = compare_sides(*load(pair[0].with_suffix(""), pair[1].with_suffix("")), Rules())
    ratios = [[row.change.ratio for row in one.rows if row.change] for one in (comparison, runs)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.01)


def test_the_page_shows_tokens_samples_and_flops(pair: tuple[Path, Path]) -> None:
    heads = [head.text.strip() for head in Page(benchmarks_page(pair[0])).all("th")]
    assert {"tokens/s", "samples/s", "FLOP/s"} <= set(heads)


def test_only_what_trained_right_and_was_timed_is_told(tmp_path: Path) -> None:
    run = factory.smoke_run(tmp_path / "r")
    told = {benchmark["fullname"] for benchmark in json.loads(run_benchmarks(run))["benchmarks"]}
    right = {found.record.case for found in run.recorded() if found.record.status == "ok"}
    assert told == right
    assert told < {found.record.case for found in run.recorded()}


def side(name: str) -> AbSide:
    return AbSide(asked=name, label=name, kind="python", python=name, environment=factory.ENVIRONMENT)


def session(number: int, factor: float, error: Error | None = None) -> AbSession:
    def turn(seconds: float) -> Turn:
        return Turn(steps=[seconds, seconds * 1.01, 0.0], wall=seconds * 2)

    return AbSession(
        case=GPT,
        session=number,
        seed=1,
        first="base",
        rounds=[Round(first="base", base=turn(0.1), cand=turn(0.1 * factor)) for _ in range(4)],
        base=Trained(),
        cand=Trained(status="failed" if error else "ok", error=error),
        started_at="2026-11-22T08:12:04+00:00",
        seconds=1,
    )


def test_both_sides_of_a_comparison_have_a_file(tmp_path: Path) -> None:
    planned = factory.planned("gpt-tiny", "eager")
    ab = Ab(
        id="x",
        suite="smoke",
        cases=[AbCase(id=GPT, base=planned, cand=planned)],
        base=side("old"),
        cand=side("new"),
        gate=AbGate(tolerance=0.01, limit=0.05, alpha=0.01, beta=0.05, looks=[3]),
        seed=1,
        rounds=4,
        budget_seconds=100,
        command=[],
        working_folder="/",
        llmbench="0",
        device="cpu",
        started_at="2026-11-22T08:12:04+00:00",
    )
    broken = session(2, 9.0, Error(type="RuntimeError", message="x"))
    sessions = [session(0, 1.2), session(1, 1.2), broken]
    documents: dict[str, Any] = {}
    for name in ("base", "cand"):
        text = ab_benchmarks(ab, sessions, name)  # type: ignore[arg-type]
        (tmp_path / f"{name}.json").write_text(text)
        [documents[name]] = json.loads(text)["benchmarks"]
    assert documents["base"]["stats"]["data"] == [0.1, 0.1 * 1.01] * 8
    assert documents["cand"]["extra_info"] == {"side": "cand", "of": "new"}
    comparison = compare_sides(*load(tmp_path / "base.json", tmp_path / "cand.json"), Rules())
    assert [row.outcome for row in comparison.rows] == ["slower"]


def test_a_run_that_has_nothing_to_tell(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", factory.make_run([], environment={}, git=None))
    document = json.loads(run_benchmarks(run))
    assert (document["benchmarks"], document["commit_info"]["id"]) == ([], "unversioned")


@pytest.mark.slow
def test_a_real_run_writes_it(llmbench: Command, tmp_path: Path) -> None:
    chosen = ("-w", "regression-linear", "-m", "eager", "--set", "budget_seconds=0", "--out", "r")
    done = llmbench("run", "smoke", *chosen, "--benchmark-json", "b.json")
    assert done.returncode == 0, done.stderr
    [benchmark] = json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    assert benchmark["stats"]["rounds"] >= 10
    assert benchmark["extra_info"]["samples"] > 0


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(llmbench: Command, tmp_path: Path) -> None:
    done = llmbench("run", "smoke", "--benchmark-json", "no/b.json")
    assert done.returncode == 2
    assert done.stderr.startswith("llmbench: --benchmark-json no/b.json: ")
    done = llmbench("run", "smoke", "--plan", "--benchmark-json", "b.json")
    assert done.returncode == 2
    assert not list(tmp_path.glob("*.json"))
