"""``llmbench submit`` where SLURM is three small scripts: they keep a job's state in files, and run it here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.results.schema import Node
from llmbench.results.store import RunFolder
from llmbench.submit.jobs import Job
from tests.conftest import Command, wait_for
from tests.factory import make_run, planned

# The job runs in the background; `hold` in the folder keeps it waiting, `refuse` holds what SLURM says against it.
SBATCH = """#!/bin/bash
for word; do case $word in --output=*) out=${word#--output=};; --test-only) test=1;; esac; file=$word; done
if [ -e "$FAKE/refuse" ]; then cat "$FAKE/refuse" >&2; exit 1; fi
echo "$@" >> "$FAKE/asked"
[ -n "$test" ] && { echo "sbatch: Job 7 to start" >&2; exit 0; }
dirname "$file" > "$FAKE/folder"
[ -e "$FAKE/hold" ] || (setsid bash "$file" > "$out" 2>&1 < /dev/null &)
echo 4711
"""
SCONTROL = """#!/bin/bash
if [ -e "$FAKE/down" ]; then echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; fi
if [ -e "$FAKE/state" ]; then state=$(cat "$FAKE/state")
elif [ -e "$FAKE/hold" ]; then state="PENDING Reason=Resources"
elif ! [ -e "$(cat "$FAKE/folder")/exit_code" ]; then state="RUNNING NodeList=h0"
else code=$(cat "$(cat "$FAKE/folder")/exit_code")
  [ "$code" = 0 ] && state="COMPLETED ExitCode=0:0 NodeList=h0" || state="FAILED ExitCode=$code:0 NodeList=h0"
fi
[ "$state" = gone ] && { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
echo "JobId=4711 JobState=$state"
"""
SCANCEL = """#!/bin/bash
echo "$@" >> "$FAKE/cancelled"
echo "CANCELLED" > "$FAKE/state"
"""
ONE = """
workloads = ["regression-linear"]
modes = ["eager"]
settings = { steps = STEPS, threads = 1, eval_batches = 1, budget_seconds = 0 }
"""
Variables = dict[str, str]


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def variables(fake: Path) -> Variables:
    return {"PATH": f"{fake}{os.pathsep}{os.environ['PATH']}", "FAKE": str(fake)}


@pytest.fixture
def quick(suite: Callable[..., Path]) -> Path:
    return suite(ONE.replace("STEPS", "200"))


def test_a_job_is_followed_and_its_run_is_summed_up(
    llmbench: Command, quick: Path, tmp_path: Path, fake: Path, variables: Variables
) -> None:
    done = llmbench("submit", "slurm", quick, "--out", "run", "--device", "cpu", "--", "--qos=low", **variables)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cases trained right" in done.stdout
    assert "job 4711: running (on h0)" in done.stderr
    assert "job 4711: done (on h0)" in done.stderr
    assert "--qos=low" in (fake / "asked").read_text()
    (row,) = json.loads(llmbench("submit", "status", "--json", **variables).stdout)
    assert (row["kind"], row["system_id"], row["state"], row["done"]) == ("slurm", "4711", "done", 1)
    assert row["run"] == str(tmp_path / "run")
    (fake / "state").write_text("gone")  # SLURM forgets; the folder does not
    assert json.loads(llmbench("submit", "status", "4711", "--json", **variables).stdout)[0]["state"] == "done"
    fetched = llmbench("submit", "fetch", "4711", "--out", "copy", **variables)
    assert fetched.returncode == 0
    assert (tmp_path / "copy" / "report.html").exists()


def test_a_case_that_fails_is_exit_code_3(llmbench: Command, suite: Callable[..., Path], variables: Variables) -> None:
    broken = suite(ONE.replace("STEPS", "20") + "\n[[override]]\nworkload = '*'\nsettings = { learning_rate = 1e9 }\n")
    done = llmbench("submit", "slurm", broken, "--device", "cpu", **variables)
    assert done.returncode == 3, done.stderr
    assert "job 4711: failed (on h0)" in done.stderr
    assert "again:  llmbench submit slurm --nodes 1 --resume " in done.stdout


def test_a_job_without_a_run_says_why(llmbench: Command, quick: Path, variables: Variables) -> None:
    done = llmbench("submit", "slurm", quick, "--setup", "exit 9", **variables)
    assert done.returncode == 2
    assert "job 4711 has no run" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_who_is_interrupted_leaves_the_job(
    started: Callable[..., subprocess.Popen[str]],
    llmbench: Command,
    quick: Path,
    fake: Path,
    variables: Variables,
    number: signal.Signals,
    code: int,
) -> None:
    """Without a terminal nobody can be asked."""
    (fake / "hold").touch()
    process = started("submit", "slurm", quick, **variables)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first == "job 4711: queued (Resources: waits for nodes to be free)\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "job 4711 goes on without being followed" in stderr
    assert "Traceback" not in stderr
    assert not (fake / "cancelled").exists()
    told = llmbench("submit", "status", **variables).stdout
    assert "mine on 1 node  queued (Resources: waits for nodes to be free)" in told
    assert "0 of 1 cases recorded" in told


@pytest.mark.parametrize(("answer", "cancelled"), [("y\n", True), ("\n", False), ("n\n", False)])
def test_at_a_terminal_ctrl_c_asks(
    environment: dict[str, str],
    tmp_path: Path,
    quick: Path,
    fake: Path,
    variables: Variables,
    answer: str,
    cancelled: bool,
) -> None:
    (fake / "hold").touch()
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmbench", "submit", "slurm", str(quick)],
        env=environment | variables,
        cwd=tmp_path,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    said = b""

    def hears(words: bytes) -> bool:
        nonlocal said
        said += os.read(ours, 4096)
        return words in said

    try:
        wait_for(lambda: hears(b"queued"))
        process.send_signal(signal.SIGINT)
        wait_for(lambda: hears(b"Cancel job 4711 as well? [y/N]"))
        os.write(ours, answer.encode())
        wait_for(lambda: hears(b"is cancelled" if cancelled else b"goes on without being followed"))
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
    assert (fake / "cancelled").exists() == cancelled


def test_a_detached_job_is_told_how_to_go_on(llmbench: Command, quick: Path, fake: Path, variables: Variables) -> None:
    (fake / "hold").touch()
    done = llmbench("submit", "slurm", quick, "--detach", **variables)
    assert done.returncode == 0
    job = done.stdout.strip()
    assert [line.split("   ")[0].strip() for line in done.stderr.splitlines()] == [
        f"llmbench submit status {job}", f"llmbench submit fetch {job}", f"llmbench submit cancel {job}",
    ]  # fmt: skip
    assert llmbench("submit", "fetch", job, **variables).returncode == 2
    assert llmbench("submit", "cancel", job, **variables).returncode == 0
    assert (fake / "cancelled").read_text() == "4711\n"
    assert "cancelled" in llmbench("submit", "status", job, **variables).stdout


def test_a_resumed_run_asks_for_the_nodes_that_it_had(llmbench: Command, tmp_path: Path) -> None:
    before = [Node(node_rank=number, host=f"h{number}", processes=4) for number in range(2)]
    RunFolder.create(tmp_path / "old", make_run([planned("gpt-tiny", "ddp", 8)], nodes=before))
    plan = llmbench("submit", "slurm", "--resume", "old", "--plan")
    assert plan.returncode == 0, plan.stderr
    assert "#SBATCH --nodes=2" in plan.stdout
    assert f"--resume {tmp_path}/old --nnodes 2 --nproc-per-node 4" in plan.stdout
    fewer = llmbench("submit", "slurm", "--resume", "old", "--plan", "-N", 1, "--gpus-per-node", 2)
    assert "--nnodes 1 --nproc-per-node 2" in fewer.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "unknown suite"),
        ([], "which suite?"),
        (["smoke", "-N", "0"], "--nodes"),
        (["smoke", "--partition", "a b"], "--partition"),
        (["smoke", "--resume", "x"], "--resume"),
        (["--resume", "nowhere"], "nowhere is not a run"),
        (["smoke", "-m", "nomode"], "nomode"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(
    llmbench: Command, fake: Path, variables: Variables, arguments: list[str], words: str
) -> None:
    done = llmbench("submit", "slurm", *arguments, COLUMNS="200", **variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (fake / "asked").exists()


def test_what_slurm_refuses_leaves_nothing(
    llmbench: Command, quick: Path, tmp_path: Path, fake: Path, variables: Variables
) -> None:
    (fake / "refuse").write_text("sbatch: error: Batch job submission failed: Invalid account\n")
    done = llmbench("submit", "slurm", quick, **variables)
    assert done.returncode == 2
    assert "SLURM would not run this: Batch job submission failed: Invalid account" in done.stderr
    assert "`sinfo` shows" in done.stderr
    (fake / "refuse").write_text("sbatch: fatal: Could not establish a configuration source\n")
    assert "run it on a login node" in llmbench("submit", "slurm", quick, **variables).stderr
    assert not (tmp_path / "reports" / "jobs").exists()


def test_without_slurm_the_plan_is_there(llmbench: Command, quick: Path, tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path)}
    done = llmbench("submit", "slurm", quick, **nowhere)
    assert done.returncode == 2
    assert "there is no sbatch on the PATH" in done.stderr
    assert "--plan" in done.stderr
    plan = llmbench("submit", "slurm", quick, "-N", 3, "--gpus-per-node", 4, "--plan", **nowhere)
    assert plan.returncode == 0
    assert "#SBATCH --gpus-per-node=4" in plan.stdout
    assert "--nnodes 3 --nproc-per-node 4" in plan.stdout
    assert subprocess.run(["bash", "-n"], input=plan.stdout, text=True).returncode == 0
    assert not (tmp_path / "reports" / "jobs").exists()


def test_a_scheduler_that_does_not_answer_is_told_by_status(
    llmbench: Command, quick: Path, fake: Path, variables: Variables
) -> None:
    (fake / "hold").touch()
    job = llmbench("submit", "slurm", quick, "--detach", **variables).stdout.strip()
    (fake / "down").touch()
    done = llmbench("submit", "status", **variables)
    assert done.returncode == 0
    assert "Unable to contact slurm controller" in done.stdout
    assert llmbench("submit", "cancel", "nosuch", **variables).returncode == 2
    assert job in llmbench("submit", "cancel", job[:-1], **variables).stderr


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda text: text[:40], "job.json"),
        (lambda text: text.replace('"slurm"', '"lsf"'), "kind"),
        (lambda text: text.replace('"system_id"', '"nothing"'), "system_id"),
        (lambda text: "", "job.json"),
        (lambda text: "[]", "job.json"),
    ],
)
def test_a_damaged_job_is_named(
    llmbench: Command, tmp_path: Path, variables: Variables, damage: Callable[[str], str], named: str
) -> None:
    job = Job(
        id="one", kind="slurm", system_id="1", suite="smoke", nodes=1, run="/x", submitted_at="", command=[],
        working_folder="/",
    )  # fmt: skip
    file = tmp_path / "reports" / "jobs" / "one" / "job.json"
    file.parent.mkdir(parents=True)
    file.write_text(damage(job.model_dump_json(indent=2)))
    for command in ("fetch", "cancel"):
        done = llmbench("submit", command, "one", **variables)
        assert done.returncode == 2
        assert named in done.stderr
        assert "Traceback" not in done.stderr
    assert named in llmbench("submit", "status", **variables).stdout
