"""``llmbench submit slurm`` on a real SLURM: whole runs, and each failure with the record that it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from llmbench.results.schema import Record
from llmbench.results.store import RunFolder
from tests.conftest import records_of, wait_for

from .slurm import Slurm, slurm

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]

QUICK = "settings = { steps = 20, threads = 1, eval_batches = 1, budget_seconds = 0, deadline_seconds = 120 }\n"
WAITS = """
workloads = ["tests.cluster.waiting:Waits", "tests.launch.own_line:Healthy"]
modes = ["eager", "ddp"]
[settings]
steps = 100
threads = 1
budget_seconds = 0
deadline_seconds = 200
"""
FAILS = (
    """
workloads = ["tests.launch.broken_ranks:IsKilled", "tests.launch.broken_ranks:Raises", "tests.launch.own_line:Healthy"]
modes = ["ddp"]
"""
    + QUICK
)
HANGS = (
    """
workloads = ["tests.launch.broken_ranks:Sleeps", "tests.launch.own_line:Healthy"]
modes = ["ddp"]
"""
    + QUICK.replace("120", "60")
    + """
[[override]]
workload = "tests.launch.own_line:Healthy"
settings = { deadline_seconds = 200 }
"""
)
PATIENCE = 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm(3) as made:
        yield made


class Submission:
    """A ``llmbench submit`` in a folder of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self._environment = folder, dict(environment)
        self.run = folder / "run"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmbench", "submit", *map(str, arguments)],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Leaves no process, whatever became of the test."""
        for process in self._started:
            process.kill()
            process.communicate()

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return finished(self.start(*arguments))

    def by_hand(self) -> None:
        """Gives SLURM the script of the job once more; returns when the job has ended well."""
        (script,) = self.folder.glob("reports/jobs/*/job.sh")
        command = ["sbatch", "--wait", "--output=again.out", script]
        done = subprocess.run(command, cwd=self.folder, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stderr, (self.folder / "again.out").read_text())

    def suite(self, text: str) -> Path:
        file = self.folder / "mine.toml"
        file.write_text(text, encoding="utf-8")
        return file

    def records(self) -> dict[str, Record]:
        """By workload and mode."""
        return {"/".join(case.rsplit(":", 1)[-1].split("/")[:2]): each for case, each in records_of(self.run).items()}

    def output(self) -> str:
        return "\n".join(file.read_text() for file in self.folder.glob("reports/jobs/*/slurm.out"))


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    try:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


@pytest.fixture
def submit(cluster: Slurm, tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Submission]:
    made = Submission(tmp_path, environment | cluster.variables)
    yield made
    made.end()
    assert "Traceback" not in made.output()
    subprocess.run(["scancel", "--user", "root"], env={**os.environ, **cluster.variables}, check=True)


def ranks_of(cluster: Slurm, node: int) -> list[psutil.Process]:
    return [one for pid in cluster.hosts.pids(node) if "--rank" in (one := psutil.Process(pid)).cmdline()]


def test_a_suite_on_two_nodes(submit: Submission) -> None:
    done = submit("slurm", "smoke-ddp", "--nodes", 2, "--time", 20, "--out", submit.run, "--set", "budget_seconds=1")
    assert done.returncode == 0, (done.stderr, submit.output())
    run = RunFolder(submit.run).read_run()
    assert [(node.node_rank, node.host) for node in run.nodes] == [(0, "h0"), (1, "h1")]
    assert run.status == "done"
    records = records_of(submit.run)
    assert len(records) == len(run.cases) == 5
    assert {record.status for record in records.values()} == {"ok"}
    parallel = [record for record in records.values() if record.world_size == 2]
    assert len(parallel) == 3
    for record in parallel:
        assert [(rank.rank, rank.node, rank.host) for rank in record.ranks] == [(0, 0, "h0"), (1, 1, "h1")]
    assert "5 of 5 cases trained right" in done.stdout
    assert "running (on h[0-1])" in done.stderr
    assert "5 of 5 cases recorded" in done.stderr
    assert not (submit.run / ".shared").exists()
    assert sorted(file.name for file in (submit.run / "logs").iterdir() if file.name.startswith(".")) == []


def test_ranks_that_die_are_named_and_the_rest_goes_on(submit: Submission) -> None:
    done = submit("slurm", submit.suite(FAILS), "-N", 2, "-t", 20, "--out", submit.run)
    assert done.returncode == 3, (done.stderr, submit.output())
    records = submit.records()
    killed, raised = records["IsKilled/ddp"].error, records["Raises/ddp"].error
    assert killed is not None
    assert raised is not None
    assert (killed.type, killed.rank, killed.host) == ("SIGKILL", 1, "h1")
    assert "rank 1 of 2 on h1: killed by SIGKILL" in killed.message
    assert (raised.type, raised.rank, raised.host) == ("ValueError", 1, "h1")
    assert "the sample is torn" in raised.message
    assert records["Healthy/ddp"].status == "ok"


def test_a_rank_that_hangs_is_named_when_its_time_is_over(submit: Submission) -> None:
    done = submit("slurm", submit.suite(HANGS), "-N", 2, "-t", 20, "--out", submit.run)
    assert done.returncode == 3, (done.stderr, submit.output())
    record = submit.records()["Sleeps/ddp"]
    assert record.status == "timeout"
    assert record.error is not None
    assert (record.error.rank, record.error.host) == (1, "h1")
    assert "in fail" in record.error.message
    assert record.wall_seconds < record.config["deadline_seconds"] + 15 + 15  # a busy machine
    assert submit.records()["Healthy/ddp"].status == "ok"


def test_a_node_that_dies_is_named_and_resume_completes_the_run(cluster: Slurm, submit: Submission) -> None:
    (submit.folder / "slow").touch()
    process = submit.start("slurm", submit.suite(WAITS), "-N", 2, "-t", 20, "--out", submit.run)
    wait_for(lambda: in_training(submit.run), PATIENCE)
    cluster.kill_node(1)
    (submit.folder / "slow").unlink()
    done = finished(process)
    try:
        assert done.returncode == 3, (done.stderr, submit.output())
        records = submit.records()
        for workload in ("Waits", "Healthy"):
            record = records[f"{workload}/ddp"]
            assert record.status == "failed"
            assert record.error is not None
            assert (record.error.type, record.error.host) == ("NodeLost", "h1"), record.error
        assert records["Healthy/eager"].status == "ok"  # it needs one node only
    finally:
        cluster.start_node(1)
    done = submit("slurm", "-N", 2, "-t", 20, "--resume", submit.run)
    assert done.returncode == 0, (done.stderr, submit.output())
    assert {record.status for record in submit.records().values()} == {"ok"}
    assert RunFolder(submit.run).read_run().resumed == 1


def in_training(run: Path) -> bool:
    found = list(run.glob("evidence/*ddp__ws2/rank*.jsonl"))
    return len(found) == 2 and all('"step": ' in (text := file.read_text()) and "warmup" in text for file in found)


def test_a_job_at_its_wall_limit_closes_its_run_and_submitted_again_goes_on(cluster: Slurm, submit: Submission) -> None:
    """It is told a minute before; what was in flight says why it has no result."""
    (submit.folder / "slow").touch()
    process = submit.start("slurm", submit.suite(WAITS), "-N", 2, "-t", 20, "--out", submit.run)
    wait_for(lambda: in_training(submit.run), PATIENCE)
    (row,) = json.loads(submit("status", "--json").stdout)
    cluster.ends_soon(row["system_id"])
    done = finished(process)
    assert done.returncode == 3, (done.stderr, submit.output())
    assert RunFolder(submit.run).read_run().status == "interrupted"
    record = submit.records()["Waits/ddp"]
    assert record.status == "aborted"
    assert record.error is not None
    assert "of SLURM reached its wall limit (00:" in record.error.message
    assert f"again:  llmbench submit slurm --nodes 2 --resume {submit.run}, with" in done.stdout
    (submit.folder / "slow").unlink()
    submit.by_hand()
    run = RunFolder(submit.run).read_run()
    assert (run.status, run.resumed) == ("done", 1)
    assert {record.status for record in submit.records().values()} == {"ok"}


def test_a_detached_job_is_cancelled(cluster: Slurm, submit: Submission) -> None:
    (submit.folder / "slow").touch()
    done = submit("slurm", submit.suite(WAITS), "-N", 2, "-t", 20, "--out", submit.run, "--detach")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    wait_for(lambda: in_training(submit.run), PATIENCE)
    (row,) = json.loads(submit("status", job, "--json").stdout)
    assert (row["state"], row["place"], row["problem"]) == ("running", "h[0-1]", None)
    assert submit("cancel", job).returncode == 0
    wait_for(lambda: json.loads(submit("status", job, "--json").stdout)[0]["state"] == "cancelled")
    wait_for(lambda: not ranks_of(cluster, 0) and not ranks_of(cluster, 1))
    assert submit("fetch", job).returncode == 3  # cases are missing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--partition", "nope"], "invalid partition specified: nope"),
        (["--nodes", "9"], "Requested node configuration is not available"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(submit: Submission, arguments: list[str], words: str) -> None:
    done = submit("slurm", "smoke-ddp", "-N", 2, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (submit.folder / "reports" / "jobs").exists()
