"""``llmbench scan`` on several nodes: processes of this machine that measure for real, and what happens to them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import wait_for

from .nodes import Node, Nodes, run_nodes, started_nodes

SCAN = ("scan", "--json", "--device", "cpu")
MARK = "LLMBENCH_SCAN_TEST"


def processes(mark: str) -> list[psutil.Process]:
    """All that were started for this test and live, orphans included: they inherit the variable."""

    def marked(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if marked(process)]


@contextmanager
def nodes(
    folder: Path, environment: dict[str, str], count: int, *options: object, only: tuple[int, ...] | None = None
) -> Iterator[Nodes]:
    """Nodes that scan. Whatever happens to them, nothing may be left of them."""
    mark = str(folder)
    with started_nodes(count, [*SCAN, *options], folder, environment=environment | {MARK: mark}, only=only) as made:
        yield made
        wait_for(lambda: not processes(mark), 60)


def says(node: Node, text: str) -> None:
    """Waits until it has said so."""
    try:
        wait_for(lambda: text in node.stderr)
    except TimeoutError:
        raise TimeoutError(f"{text!r} is not in {node.stderr}") from None


def document(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.stdout)
    return found


def jobs_of(node: Node) -> list[psutil.Process]:
    """The processes that measure there: children of its server."""
    try:
        servers = psutil.Process(node.process.pid).children()
        return [job for server in servers for job in server.children()]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.timeout(400)
def test_two_nodes_measure_each_other(tmp_path: Path, environment: dict[str, str]) -> None:
    first, second = run_nodes(2, [*SCAN, "--rounds", "1", "--html", "scan.html"], tmp_path, environment=environment)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    found = json.loads(first.stdout)
    assert second.stdout == ""
    assert (found["simulated"], found["machines"], found["pair_tests"]) == (False, 1, 1)
    (pair,) = found["pairs"]
    assert 0 < pair["bus_bandwidth_bytes_per_s"] <= pair["best_bytes_per_s"]
    assert {point["collective"] for point in pair["points"]} == {
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "sendrecv",
    }
    for node in found["nodes"]:
        assert node["host"] == os.uname().nodename
        assert node["name"].startswith(f"{node['host']}:")
        assert node["solo"][0]["values"]["matmul"] > 0
    assert "2 nodes share machines" in first.stderr
    assert "round 1: 0 of 1 pair test done" in first.stderr
    assert second.stderr.splitlines()[-1] == "scan: node 1: done"
    page = (tmp_path / "node0" / "scan.html").read_text()
    assert "No slow node or link found among 2 nodes" in page
    assert "2 nodes on 1 machine: measured in turns" in page


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_node_that_never_joins_has_failed_and_the_scan_goes_on(tmp_path: Path, environment: dict[str, str]) -> None:
    with nodes(tmp_path, environment, 3, "--join", "30", "--rounds", "1", only=(0, 1)) as made:
        assert [done.returncode for done in made.wait()] == [1, 0]
    found = document(made[0])
    assert (found["failed_nodes"], found["slow_nodes"]) == (["node-2"], [])
    assert found["exclude"] == []  # nobody knows which host that was to be
    assert found["nodes"][2]["evidence"].startswith("it never joined within 30 s")
    assert found["pair_tests"] == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("how", "reason"), [(signal.SIGKILL, "connection"), (signal.SIGSTOP, "silent for 10 s")], ids=["killed", "stopped"]
)
def test_a_node_that_vanishes_is_named_with_the_reason(
    tmp_path: Path, environment: dict[str, str], how: signal.Signals, reason: str
) -> None:
    with nodes(tmp_path, environment, 3) as made:
        says(made[0], "alone: 3 nodes")
        wait_for(lambda: jobs_of(made[0]) or jobs_of(made[1]) or jobs_of(made[2]))
        os.kill(made[2].process.pid, how)
        assert made[0].process.wait(240) == 1
        assert made[1].process.wait(60) == 0
        made[2].process.kill()
    found = document(made[0])
    (failed,) = found["failed_nodes"]
    assert failed.endswith(":2")
    assert reason in found["nodes"][2]["evidence"]
    assert [node["verdict"] for node in found["nodes"][:2]] == ["ok", "ok"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_test_that_hangs_ends_at_its_deadline_and_is_asked_again(tmp_path: Path, environment: dict[str, str]) -> None:
    with nodes(tmp_path, environment, 2, "--deadline", "15") as made:
        hanging = wait_for(lambda: jobs_of(made[1]))[0]
        hanging.suspend()
        assert [done.returncode for done in made.wait()] == [0, 0]
    first, *later = document(made[0])["nodes"][1]["solo"]
    assert first["reason"] == "no end within 15 s, in phase alone"
    assert later
    assert all(test["values"]["matmul"] > 0 for test in later)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_pair_whose_process_is_killed_names_it(tmp_path: Path, environment: dict[str, str]) -> None:
    with nodes(tmp_path, environment, 2) as made:
        says(made[0], "round 1")
        wait_for(lambda: jobs_of(made[1]))[0].kill()
        made.wait()
    (pair, *_) = document(made[0])["pairs"]
    assert pair["verdict"] == "failed"
    assert ":1: its process was killed by SIGKILL" in pair["reason"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ctrl_c_on_node_0_ends_all(tmp_path: Path, environment: dict[str, str]) -> None:
    with nodes(tmp_path, environment, 3) as made:
        says(made[0], "alone")
        os.kill(made[0].process.pid, signal.SIGINT)
        first, *others = made.wait(60)
    assert (first.returncode, first.stdout) == (130, "")
    assert "Traceback" not in first.stderr
    for other in others:
        assert other.returncode == 0
        assert "node 0 was interrupted" in other.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_without_node_0_the_others_end_and_say_so(tmp_path: Path, environment: dict[str, str]) -> None:
    with nodes(tmp_path, environment, 2) as made:
        says(made[0], "alone")
        made[0].process.kill()
        assert made[1].process.wait(60) == 2
    assert "node 0 (127.0.0.1) is gone" in made[1].stderr
    assert "Traceback" not in made[1].stderr
