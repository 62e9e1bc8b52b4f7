"""``llmbench run`` as a user meets it: plans, results, and one line for each mistake."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from llmbench.launch.target import patience
from llmbench.results.documents import json_schema
from llmbench.results.store import RunFolder
from tests.conftest import QUICK, Command, records_of


def _usage_error(llmbench: Command, *arguments: object, names: tuple[str, ...], **variables: str) -> None:
    done = llmbench("run", *arguments, **variables)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for name in names:
        assert name in done.stderr


SECRET = "hf_planted0123456789abcdefABCDEF"


@dataclass(frozen=True)
class Done:
    """A finished run: its folder, and what it said."""

    out: Path
    said: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def done(llmbench_in: Callable[[Path], Command], tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run that several tests look at."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "mine.toml").write_text(QUICK)
    said = llmbench_in(folder)("run", "mine.toml", "--out", folder / "r", HF_TOKEN=SECRET, TORCH_API_KEY=SECRET)
    return Done(folder / "r", said)


def test_a_run_leaves_valid_records_series_and_a_report(done: Done) -> None:
    assert done.said.returncode == 0, done.said.stderr
    assert str(done.out / "report.html") in done.said.stdout
    schema = json_schema()
    lines = (done.out / "records.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        jsonschema.validate(json.loads(line), schema["Record"])
    jsonschema.validate(json.loads((done.out / "run.json").read_text()), schema["Run"])
    for record in records_of(done.out).values():
        assert record.status == "ok"
        assert record.loss.finite
        assert record.loss.learned
        assert record.throughput.value > 0
        low, high = record.throughput.ci95
        assert low < record.throughput.value < high
        series = json.loads((done.out / record.series).read_text())
        assert len(series["loss"]) == record.config["steps"] == len(series["step_seconds"]) + 1
        window = series["step_seconds"][series["first_timed_step"] - 1 :]
        assert record.throughput.n == len(window)
        work = record.config["micro_batch_size"] * record.config.get("sequence_length", 1)
        assert record.throughput.value == pytest.approx(work * len(window) / sum(window), rel=1e-3)
        assert (done.out / record.log).exists()
    # Progress is no result: stdout holds the table, stderr what happened, in lines.
    assert "[1/2] PASS    regression-linear/eager/ws1" in done.said.stderr
    assert "[1/2]" not in done.said.stdout
    assert "\x1b" not in done.said.stderr + done.said.stdout


def test_memory_is_recorded_from_the_first_phase_to_the_last(done: Done) -> None:
    for record in records_of(done.out).values():
        series = RunFolder(done.out).read_series(record)
        assert series is not None
        found = series.memory
        assert found is not None
        assert list(found.phases) == ["import", "build", "compile", "warmup", "timed", "evaluate"]
        assert list(found.phases.values()) == sorted(found.phases.values())
        assert found.seconds == sorted(found.seconds)
        assert len(found.seconds) == len(found.bytes) <= 120
        # One sample at least as each phase begins, and nothing after the case.
        assert len(found.seconds) >= len(found.phases)
        assert found.seconds[-1] <= record.wall_seconds + 0.1
        assert record.memory.start_rss_bytes / 2 < max(found.bytes) < 2 * record.memory.peak_rss_bytes
    assert "Memory over time" in (done.out / "report.html").read_text()


def test_gpt_prints_its_perplexity_beside_that_of_the_word_frequencies(done: Done) -> None:
    assert "perplexity  unigram" in done.said.stdout


def test_secrets_stay_out_of_the_run(done: Done) -> None:
    assert done.said.returncode == 0
    for file in done.out.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


def test_threads_that_wait_do_not_spin_for_long(done: Done) -> None:
    assert json.loads((done.out / "run.json").read_text())["environment"]["variables"]["GOMP_SPINCOUNT"] == "20000"


def test_a_folder_that_holds_a_run(llmbench: Command, done: Done) -> None:
    before = (done.out / "records.jsonl").read_bytes()
    suite = done.out.parent / "mine.toml"
    _usage_error(llmbench, suite, "--out", done.out, names=("holds a run already", "--resume"))
    assert (done.out / "records.jsonl").read_bytes() == before


def test_json_is_one_document(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    done = llmbench("run", suite(QUICK), "--out", tmp_path / "r", "-w", "regression", "--json")
    document = json.loads(done.stdout)
    assert document["exit_code"] == 0
    assert [record["case"] for record in document["records"]] == ["regression-linear/eager/ws1"]


def test_plan_runs_nothing(llmbench: Command, tmp_path: Path) -> None:
    done = llmbench("run", "reference", "--plan", PATH=os.defpath)
    assert done.returncode == 0
    assert "gpt-124m/compile+bf16/ws1" in done.stdout
    assert list(tmp_path.iterdir()) == []
    rows = json.loads(llmbench("run", "reference", "--plan", "--json").stdout)
    gpt = next(row for row in rows if row["case"] == "gpt-124m/eager/ws1")
    assert gpt["parameters"] == pytest.approx(124.4e6, rel=0.01)
    assert gpt["flops_per_step"] > 6 * gpt["parameters"] * gpt["work_per_step"]
    assert gpt["memory_bytes"]["total"] > 16 * gpt["parameters"]


def test_typo_in_a_suite_then_mended(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    wrong = QUICK.replace("steps = 20", "stepz = 20")
    path = suite(wrong)
    _usage_error(llmbench, path, "--out", tmp_path / "r", names=(f"{path}, line 3", "stepz", "steps"))
    assert not (tmp_path / "r").exists()
    suite(QUICK)
    assert llmbench("run", path, "--out", tmp_path / "r", "-w", "regression").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ("which suite?", "smoke")),
        (["smokey"], ("'smokey'", "smoke")),
        (["gone.toml"], ("gone.toml", "no such file")),
        (["smoke", "-w", "gtp-tiny"], ("'gtp-tiny'", "gpt-tiny")),
        (["smoke", "-m", "bf61"], ("'bf61'", "bf16")),
        (["smoke", "-m", "eager+bf16"], ("eager",)),
        (["smoke", "--set", "stepz=3"], ("stepz", "steps")),
        (["smoke", "--set", "steps=3"], ("steps=3", "greater than or equal to 10")),
        (["smoke", "--set", "steps"], ("SETTING=VALUE",)),
        (["smoke", "-w", "gpt", "--set", "sequence_length=4096"], ("4096", "128")),
        (["smoke", "--python", "/no/such/python"], ("/no/such/python",)),
        (["smoke", "--resume", "x"], ("--resume",)),
        (["smoke", "--device", "tpu"], ("tpu", "cuda")),
        (["smoke", "--data", "no/such/text"], ("no/such/text",)),
    ],
)
def test_mistakes(llmbench: Command, arguments: list[str], names: tuple[str, ...]) -> None:
    _usage_error(llmbench, *arguments, names=names)


def test_data_mistakes(llmbench: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 9)
    (tmp_path / "short.txt").write_text("Only a few words, again and again. " * 30)
    for name, names in (
        ("empty.txt", ("empty.txt", "empty")),
        ("latin.txt", ("latin.txt", "3")),
        ("short.txt", ("short has", "token", "--set micro_batch_size")),
    ):
        _usage_error(llmbench, "smoke", "--data", tmp_path / name, "--out", tmp_path / "r", names=names)
        assert not (tmp_path / "r").exists()


def test_cuda_where_there_is_none(llmbench: Command, tmp_path: Path) -> None:
    done = llmbench("run", "smoke", "--device", "cuda", "--out", tmp_path / "r", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "--device cuda" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    _usage_error(llmbench, suite(QUICK), "--out", locked / "r", names=("cannot write",))


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_how_threads_wait_is_the_users_choice(given: dict[str, str]) -> None:
    assert patience({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": "20000"}
    assert patience(given) == {}
