"""A run that is killed, interrupted or resumed loses nothing that was finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import ENDLESS, QUICK, Command, family_of, records_of, wait_for, worker_of

FIRST, SECOND = "regression-linear/eager/ws1", "regression-mlp/eager/ws1"


def _until_second_case(process: subprocess.Popen[str], out: Path) -> None:
    """Waits until the first case is recorded and the second trains."""
    log = out / "logs" / "regression-mlp__eager__ws1.log"
    wait_for(lambda: log.exists() and "timed" in log.read_text())
    assert worker_of(process) is not None


@pytest.mark.slow
def test_kill_9_of_the_run(
    started: Callable[..., subprocess.Popen[str]], llmbench: Command, suite: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "r"
    process = started("run", suite(ENDLESS), "--out", out)
    _until_second_case(process, out)
    family = family_of(process)
    process.kill()
    process.wait()
    # No orphan goes on training.
    assert psutil.wait_procs(family, timeout=20)[1] == []
    assert list(records_of(out)) == [FIRST]
    before = (out / "records.jsonl").read_bytes()

    # What resume runs is the suite as it was: make its endless case short, as nobody would wait for it here.
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "running"
    for planned in run["cases"]:
        planned["config"] |= {"steps": 20, "micro_batch_size": 64, "global_batch_size": 64}
    (out / "run.json").write_text(json.dumps(run))
    with open(out / "records.jsonl", "ab") as file:
        file.write(before[: len(before) // 2])  # and a write that the kill cut in half

    done = llmbench("run", "--resume", out)
    assert done.returncode == 0, done.stderr
    records = records_of(out)
    assert {case: record.status for case, record in records.items()} == {FIRST: "ok", SECOND: "ok"}
    assert (out / "records.jsonl").read_bytes().startswith(before)
    assert json.loads((out / "run.json").read_text())["status"] == "done"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupt_keeps_what_is_finished(
    started: Callable[..., subprocess.Popen[str]],
    suite: Callable[..., Path],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    out = tmp_path / "r"
    process = started("run", suite(ENDLESS), "--out", out)
    _until_second_case(process, out)
    family = family_of(process)
    os.kill(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert psutil.wait_procs(family, timeout=20)[1] == []
    records = records_of(out)
    assert records[FIRST].status == "ok"
    assert records[SECOND].status == "aborted"
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert SECOND in (out / "report.html").read_text()
    assert f"--resume {out}" in stdout
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_losses_are_bitwise_the_same(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    path = suite(QUICK.replace('"gpt-tiny"', '"bert-tiny", "gpt-tiny", "lora-tiny"'))
    for name in ("one", "two"):
        done = llmbench("run", path, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    series = [sorted((tmp_path / name / "series").iterdir()) for name in ("one", "two")]
    assert len(series[0]) == 4
    for one, two in zip(*series, strict=True):
        assert json.loads(one.read_text())["loss"] == json.loads(two.read_text())["loss"]


@pytest.mark.slow
@pytest.mark.compiler
def test_resume_runs_only_what_failed(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "r"
    path = suite(
        'workloads = ["regression-linear"]\nmodes = ["eager", "compile"]\n'
        "settings = {steps = 20, threads = 1, budget_seconds = 0}"
    )
    empty = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "i")}
    assert llmbench("run", path, "--out", out, CXX="/bin/false", **empty).returncode == 3
    done = llmbench("run", "--resume", out, PATH="/nonexistent", **empty)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [(line["mode"], line["status"]) for line in lines] == [
        ("eager", "ok"),
        ("compile", "failed"),
        ("compile", "skipped"),
    ]


@pytest.mark.slow
def test_resume_holds_the_finished_cases_against_a_reference_that_failed_before(
    llmbench: Command, suite: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "r"
    path = suite(
        'workloads = ["regression-linear"]\nmodes = ["eager", "bf16"]\n'
        "settings = {steps = 20, threads = 1, budget_seconds = 0}"
    )
    assert llmbench("run", path, "--out", out).returncode == 0
    eager, bf16 = (json.loads(line) for line in (out / "records.jsonl").read_text().splitlines())
    found = bf16["parity"]
    assert found["verdict"] == "pass"
    by_gradients = [check for check in found["checks"] if check["reference"] == "eager fp64"]
    assert len(by_gradients) == 1
    # As it is when there was no eager curve yet: held against the gradients in fp64 alone.
    eager["status"], bf16["parity"] = "failed", by_gradients[0] | {"checks": by_gradients, "deterministic": True}
    (out / "records.jsonl").write_text(json.dumps(eager) + "\n" + json.dumps(bf16) + "\n")
    done = llmbench("run", "--resume", out)
    assert done.returncode == 0, done.stderr
    assert "bf16" not in done.stderr  # it is not run again
    assert json.loads(records_of(out)["regression-linear/bf16/ws1"].model_dump_json())["parity"] == found


@pytest.mark.slow
def test_resume_refuses_another_text(llmbench: Command, suite: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A sentence of several words, again and again. " * 2000)
    path = suite(QUICK)
    assert llmbench("run", path, "--data", text, "--out", tmp_path / "r").returncode == 0
    text.write_text("Other words stand here now, one after the other. " * 2000)
    done = llmbench("run", "--resume", tmp_path / "r")
    assert done.returncode == 2
    assert "not what the run began with" in done.stderr


def test_resume_of_no_run(llmbench: Command, tmp_path: Path) -> None:
    done = llmbench("run", "--resume", tmp_path)
    assert done.returncode == 2
    assert "is not a run" in done.stderr
