"""``llmbench run --nnodes``: started once a node, the nodes train each parallel case together, whatever happens."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from llmbench.results.schema import Record, Run
from llmbench.results.store import RunFolder
from tests.conftest import records_of, wait_for

from .hosts import Hosts
from .nodes import Nodes, run_nodes, started_nodes

pytestmark = pytest.mark.slow

TOGETHER = """
workloads = ["regression-linear", "gpt-tiny"]
modes = ["eager", "ddp"]
settings = { steps = 20, threads = 1, eval_batches = 1, budget_seconds = 0 }
"""
# The first case goes on for minutes if nobody stops it; the last one needs both nodes, too.
ENDLESS = """
workloads = ["regression-mlp", "regression-linear"]
modes = ["eager", "ddp"]
settings = { steps = 20, threads = 1, budget_seconds = 0, deadline_seconds = DEADLINE }

[[override]]
workload = "regression-mlp"
settings = { steps = 500_000, micro_batch_size = 2 }

[[exclude]]
workload = "regression-mlp"
mode = "eager"
"""
FIRST, ALONE, LAST = "regression-mlp/ddp/ws2", "regression-linear/eager/ws1", "regression-linear/ddp/ws2"
SOON = 15  # seconds in which a dead rank or node is to be told; tests have patience for a busy machine beyond it


@contextmanager
def training(folder: Path, environment: Mapping[str, str], hosts: Hosts, deadline: float = 200) -> Iterator[Nodes]:
    """Two nodes that train the endless case."""
    folder.mkdir(exist_ok=True)
    suite = folder / "suite.toml"
    suite.write_text(ENDLESS.replace("DEADLINE", str(deadline)), encoding="utf-8")
    with started_nodes(2, ["run", suite, "--out", folder / "run"], folder, hosts, environment) as nodes:
        log = folder / "run" / "logs" / "regression-mlp__ddp__ws2.rank0.log"
        try:
            wait_for(lambda: log.exists() and "timed" in log.read_text(), 180)
        except TimeoutError as late:
            raise TimeoutError(nodes.printed()) from late
        yield nodes


def rank_of(nodes: Nodes, node: int) -> psutil.Process:
    """The process of the one rank of a node: server, launcher, rank."""
    (server,) = psutil.Process(nodes[node].process.pid).children()
    (launcher,) = server.children()
    (rank,) = launcher.children()
    return rank


def ended(nodes: Nodes, folder: Path) -> tuple[list[int], dict[str, Record]]:
    """Exit codes and records; nothing of a failure is a traceback for the user."""
    done = nodes.wait()
    assert not any("Traceback" in each.stderr for each in done), nodes.printed()
    return [each.returncode for each in done], records_of(folder / "run")


def failed_on_h1(record: Record) -> str:
    """The message of a record that names rank 1 on host h1."""
    assert record.error is not None
    assert (record.error.rank, record.error.host) == (1, "h1")
    assert record.error.hint
    return record.error.message


def run_of(folder: Path) -> Run:
    return RunFolder(folder / "run").read_run()


def test_two_nodes_of_this_machine_train_as_one(tmp_path: Path, environment: Mapping[str, str]) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(TOGETHER, encoding="utf-8")
    caches = {rank: {"LLMBENCH_CACHE": str(tmp_path / f"cache{rank}")} for rank in (0, 1)}
    arguments = ["run", suite, "--nproc-per-node", 2, "--out", tmp_path / "run", "--mode", "ddp", "--json"]
    done = run_nodes(2, arguments, tmp_path, environment=environment, of_node=caches)
    assert [each.returncode for each in done] == [0, 0], done
    assert done[1].stdout == ""
    document = json.loads(done[0].stdout)
    assert [node["processes"] for node in document["run"]["nodes"]] == [2, 2]
    records = records_of(tmp_path / "run")
    assert list(records) == ["regression-linear/ddp/ws4", "gpt-tiny/ddp/ws4"]
    for record in records.values():
        assert [(rank.rank, rank.node) for rank in record.ranks] == [(0, 0), (1, 0), (2, 1), (3, 1)]
        assert all(rank.step_median_seconds and rank.step_p95_seconds for rank in record.ranks)
        memory = [rank.peak_rss_bytes for rank in record.ranks]
        assert record.over_ranks["peak_rss_bytes"].sum == sum(filter(None, memory))


@pytest.mark.hosts
class TestHosts:
    def test_two_hosts_train_together(self, hosts2: Hosts, tmp_path: Path, environment: Mapping[str, str]) -> None:
        suite = tmp_path / "suite.toml"
        suite.write_text(TOGETHER, encoding="utf-8")
        # The follower has less: one that differs is said first.
        of_node = {1: {"OMP_NUM_THREADS": "2", "LLMBENCH_CACHE": str(tmp_path / "cache1")}}
        done = run_nodes(2, ["run", suite, "--out", tmp_path / "run"], tmp_path, hosts2, environment, of_node=of_node)
        assert [each.returncode for each in done] == [0, 0], done
        assert done[0].stdout.startswith("the nodes differ:\n  ! torch.threads 2 on h1; 1 on h0\n")
        assert "joined, as one of 2 nodes" in done[1].stderr
        run = run_of(tmp_path)
        assert [(node.host, node.address) for node in run.nodes] == [(f"h{n}", hosts2.address(n)) for n in (0, 1)]
        records = records_of(tmp_path / "run")
        assert len(records) == 4
        for case, record in records.items():
            assert record.status == "ok", record
            assert [rank.host for rank in record.ranks] == (["h0", "h1"] if "ddp" in case else [])
        assert records["gpt-tiny/ddp/ws2"].parity is not None
        assert run.status == "done"

    @pytest.mark.parametrize(
        ("number", "deadline", "status", "says"),
        [
            (signal.SIGKILL, 200, "failed", "killed by SIGKILL in phase timed"),
            (signal.SIGSTOP, 20, "timeout", "no end after 20 s: rank 1 of 2 on h1 in phase timed"),
        ],
    )
    def test_a_rank_that_dies_or_hangs_is_named(
        self,
        hosts2: Hosts,
        tmp_path: Path,
        environment: Mapping[str, str],
        number: signal.Signals,
        deadline: float,
        status: str,
        says: str,
    ) -> None:
        with training(tmp_path, environment, hosts2, deadline) as nodes:
            os.kill(rank_of(nodes, 1).pid, number)
            codes, records = ended(nodes, tmp_path)
        assert codes == [3, 0]
        assert records[FIRST].status == status
        assert says in failed_on_h1(records[FIRST])
        left = tmp_path / "run" / "evidence" / "regression-mlp__ddp__ws2"
        assert [file.name for file in sorted(left.iterdir())] == ["rank0.jsonl", "rank1.jsonl"]
        assert [records[case].status for case in (ALONE, LAST)] == ["ok", "ok"]
        assert not hosts2.pids(0)
        assert not hosts2.pids(1)

    def test_a_node_that_is_killed_is_named_and_resume_completes(
        self, hosts2: Hosts, tmp_path: Path, environment: Mapping[str, str]
    ) -> None:
        with training(tmp_path, environment, hosts2) as nodes:
            nodes[1].process.kill()
            codes, records = ended(nodes, tmp_path)
        assert codes == [3, -signal.SIGKILL]
        wait_for(lambda: not hosts2.pids(1), 30)
        for case in (FIRST, LAST):
            assert "node 1 (h1) was lost: " in failed_on_h1(records[case])
        assert records[LAST].wall_seconds is not None
        assert records[LAST].wall_seconds < SOON
        assert records[ALONE].status == "ok"

        run = json.loads((tmp_path / "run" / "run.json").read_text())
        assert run["cases"][0]["case"] == FIRST
        run["cases"][0]["config"] |= {"steps": 20, "micro_batch_size": 32, "global_batch_size": 64}
        (tmp_path / "run" / "run.json").write_text(json.dumps(run))
        done = run_nodes(2, ["run", "--resume", tmp_path / "run"], tmp_path / "again", hosts2, environment)
        assert [each.returncode for each in done] == [0, 0], done
        assert {record.status for record in records_of(tmp_path / "run").values()} == {"ok"}
        alone = hosts2.llmbench(0, "run", "--resume", tmp_path / "run", environment=environment, cwd=tmp_path)
        assert alone.returncode == 2
        assert "--nnodes 2" in alone.stderr

    def test_a_pulled_cable_ends_the_case_on_both_sides(
        self, hosts2: Hosts, tmp_path: Path, environment: Mapping[str, str]
    ) -> None:
        try:
            with training(tmp_path, environment, hosts2) as nodes:
                hosts2.cut(1)
                codes, records = ended(nodes, tmp_path)
                said = nodes[1].stderr
        finally:
            hosts2.heal(1)
        assert codes == [3, 2]
        # Whichever the kernel notices first: that nothing comes, or that the neighbour is not there.
        why = r"(silent for 10 s|no route to host)"
        assert re.search(rf"node 0 \(h0\) is gone: {why}", said)
        assert re.search(rf"node 1 \(h1\) was lost: {why}", failed_on_h1(records[FIRST]))
        assert records[ALONE].status == "ok"
        assert records[LAST].status == "failed"

    def test_an_interrupt_of_node_0_ends_all_and_one_of_node_1_is_named(
        self, hosts2: Hosts, tmp_path: Path, environment: Mapping[str, str]
    ) -> None:
        with training(tmp_path / "one", environment, hosts2) as nodes:
            os.kill(nodes[0].process.pid, signal.SIGINT)
            codes, records = ended(nodes, tmp_path / "one")
            assert "node 0 has ended the run" in nodes[1].stderr
        assert codes == [130, 0]
        assert records[FIRST].status == "aborted"
        with training(tmp_path / "two", environment, hosts2) as nodes:
            os.kill(nodes[1].process.pid, signal.SIGINT)
            codes, records = ended(nodes, tmp_path / "two")
        assert codes == [3, 130]
        assert "node 1 (h1)" in failed_on_h1(records[FIRST])
        assert not hosts2.pids(0)
        assert not hosts2.pids(1)

    def test_a_node_that_never_joins_is_named(
        self, hosts2: Hosts, tmp_path: Path, environment: Mapping[str, str]
    ) -> None:
        suite = tmp_path / "suite.toml"
        suite.write_text(TOGETHER, encoding="utf-8")
        arguments = ["run", suite, "--out", tmp_path / "run", "--join-seconds", 4]
        with started_nodes(2, arguments, tmp_path, hosts2, environment, only=[0]) as nodes:
            (done,) = nodes.wait()
        assert done.returncode == 2
        assert "node 1 of 2 never joined within 4 s; there: 0 (h0)" in done.stderr
        assert not (tmp_path / "run").exists()
