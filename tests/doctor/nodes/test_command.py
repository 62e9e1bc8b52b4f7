"""The command as processes that meet at 127.0.0.1: outputs, exit codes, and nodes that do not come or do not stay."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import llmbench_command, with_checkout
from tests.cluster.nodes import free_port, run_nodes, started_nodes
from tests.conftest import Command, wait_for

# The nodes are one machine, and say so; an all-reduce imports torch on each.
QUICK = ("doctor", "--only", "nodes,python.starts", "--skip", "nodes.host,nodes.allreduce,nodes.same")


def faults(document: dict[str, Any]) -> dict[int, list[str]]:
    """What each node is blamed for."""
    return {node["node"]: node["faults"] for node in document["nodes"] if node["faults"]}


def test_node_0_tells_and_the_others_say_a_line(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    leader, *others = run_nodes(3, [*QUICK, "--json", "--html", page], tmp_path)
    document = json.loads(leader.stdout)
    assert (leader.returncode, leader.stderr) == (0, "")
    assert (document["verdict"], document["nnodes"], faults(document)) == ("pass", 3, {})
    assert [node["asked"] for node in document["nodes"]] == [1, 1, 1]
    ids = [check["id"] for check in document["checks"]]
    assert ids == ["nodes.joined", "nodes.interface", "nodes.ports", "nodes.clock"]
    for rank, done in enumerate(others, 1):
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.startswith(f"node {rank} of 3 (")
        assert done.stderr.endswith("1 checks, 0 fail, 0 warn; node 0 tells the rest\n")
    assert "No fault found on 3 nodes" in page.read_text(encoding="utf-8")


def test_started_twice_on_one_machine_is_told_and_strict_counts_it(tmp_path: Path) -> None:
    leader, other = run_nodes(2, ["doctor", "--only", "nodes.host,nodes.joined", "--strict"], tmp_path)
    assert (leader.returncode, other.returncode) == (1, 0)
    assert "WARN  nodes.host.twice" in leader.stdout
    assert "and are one machine" in leader.stdout


def test_a_fault_of_all_nodes_is_told_once_and_one_of_a_node_with_it(tmp_path: Path) -> None:
    checks = ("doctor", "--only", "nodes.joined,environment.leftovers")
    both, one = {**os.environ, "CUDA_LAUNCH_BLOCKING": "1"}, {1: {"NCCL_DEBUG": "INFO"}}
    leader, _ = run_nodes(2, checks, tmp_path, environment=both, of_node=one)
    said = leader.stdout
    assert leader.returncode == 0
    assert said.index("— On all 2 nodes —") < said.index("found   CUDA_LAUNCH_BLOCKING=1") < said.index("(node 1) —")
    assert said.index("(node 1) —") < said.index("found   NCCL_DEBUG=INFO")
    assert (said.count("found   CUDA"), said.count("found   NCCL")) == (1, 1)


@pytest.mark.slow
def test_who_never_joins_is_named_and_the_others_are_checked(tmp_path: Path) -> None:
    with started_nodes(3, [*QUICK, "--join-seconds", 30, "--json"], tmp_path, only=[0, 1]) as nodes:
        leader, other = nodes.wait()
    document = json.loads(leader.stdout)
    assert (leader.returncode, other.returncode) == (1, 0)
    assert faults(document) == {2: ["nodes.joined.never"]}
    assert [node["state"] for node in document["nodes"]] == ["there", "there", "missing"]
    assert document["headline"] == "1 of 3 nodes has a fault: node 2"
    assert next(check for check in document["checks"] if check["id"] == "nodes.ports")["verdict"] == "pass"


WAITS = """
import sys, threading
from llmbench.doctor.nodes import serve
serve.Node.check = lambda self, request, send: (print("asked", flush=True, file=sys.stderr), threading.Event().wait())
from llmbench.start import main
main()
"""


class Started:
    """Nodes 0 and 1 as they are, and the last one stuck in its own checks, of which it has been asked."""

    def __init__(self, count: int, folder: Path) -> None:
        self._place = ["--nodes", count, "--master-addr", "127.0.0.1", "--master-port", free_port(), "--json"]
        self._folder = folder
        programs = [llmbench_command()] * (count - 1) + [[sys.executable, "-c", WAITS]]
        self.nodes = [self._start(rank, program) for rank, program in enumerate(programs)]

    def __enter__(self) -> list[subprocess.Popen[str]]:
        stuck = self.nodes[-1]
        assert stuck.stderr is not None
        assert stuck.stderr.readline() == "asked\n"
        return self.nodes

    def __exit__(self, *_: object) -> None:
        for process in self.nodes:
            process.kill()
            process.communicate()

    def _start(self, rank: int, program: list[str]) -> subprocess.Popen[str]:
        command = [*program, *map(str, [*QUICK, *self._place, "--node-rank", rank])]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=with_checkout(), cwd=self._folder, text=True, stdout=pipe, stderr=pipe)


def test_a_node_that_is_killed_in_mid_check_is_named(tmp_path: Path) -> None:
    with Started(3, tmp_path) as (leader, good, victim):
        victim.kill()
        document = json.loads(leader.communicate(timeout=200)[0])
        assert good.wait(60) == 0
    assert leader.returncode == 1
    assert faults(document) == {2: ["nodes.joined.lost"]}
    assert document["nodes"][2]["reason"].startswith("connection")


def test_the_others_say_that_node_0_is_gone(tmp_path: Path) -> None:
    with Started(2, tmp_path) as (leader, other):
        leader.kill()
        said = other.communicate(timeout=100)[1]
    assert other.returncode == 2
    assert "llmbench: node 0 (127.0.0.1) is gone: connection" in said
    assert "Traceback" not in said


def test_a_port_in_use_is_a_finding(llmbench: Command) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        place = ("--nodes", 2, "--node-rank", 0, "--master-addr", "127.0.0.1", "--master-port", port)
        done = llmbench("doctor", *place, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["checks"][0]["findings"][0]["fault"] == "nodes.ports.taken"
    assert f"port {port} of this node is in use" in document["checks"][0]["findings"][0]["evidence"]


def test_without_a_number_the_launcher_says_it(tmp_path: Path) -> None:
    port = free_port()
    job = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    command = llmbench_command(*QUICK, "--nodes", "--json")
    started = [
        subprocess.Popen(
            command, env=with_checkout() | job | {"PET_NODE_RANK": str(rank)}, text=True, stdout=subprocess.PIPE
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert json.loads(printed[0])["nnodes"] == 2
    assert printed[1] == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nodes",), "how many nodes?"),
        (("--nodes", "2"), "which of the 2 nodes is this?"),
        (("--nodes", "two"), "--nodes two: not a number of nodes"),
        (("--nodes", "2", "--node-rank", "2"), "--node-rank 2: of 2 nodes the last one is 1"),
        (("--nodes", "2", "--node-rank", "1"), "where is node 0?"),
        (("--nodes", "1", "--fix"), "--fix is for one machine, --nodes for several"),
        (("--nodes", "1", "--only", "nodez"), "--only nodez: no such area or check"),
        (("--node-rank", "1"), "--node-rank is for several nodes"),
    ],
)
def test_wrong_usage(llmbench: Command, options: tuple[str, ...], said: str) -> None:
    done = llmbench("doctor", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "--nnodes" not in done.stderr
    assert "Traceback" not in done.stderr


def test_one_node_is_enough(llmbench: Command) -> None:
    started = time.monotonic()
    done = llmbench("doctor", *QUICK[1:], "--nodes", 1, "--markdown", "--master-port", free_port())
    assert done.returncode == 0, done.stderr
    assert "### llmbench doctor: The only node has no fault" in done.stdout
    assert time.monotonic() - started < 120


def test_the_ids_are_explained(llmbench: Command) -> None:
    assert "nodes.clock" in llmbench("doctor", "--explain", "nodes").stdout
    assert "timedatectl" in llmbench("doctor", "--explain", "nodes.clock.off").stdout
    assert "nodes.same.torch" in llmbench("list", "faults").stdout


def test_the_port_where_the_nodes_meet_is_not_taken_for_anothers(tmp_path: Path) -> None:
    port = free_port()
    place = ("--nodes", "1", "--master-port", str(port), "--only", "network.port,nodes.joined", "--json")
    command = llmbench_command("doctor", *place)
    done = subprocess.run(command, env=with_checkout() | {"MASTER_PORT": str(port)}, capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert (done.returncode, faults(document)) == (0, {})
    assert document["nodes"][0]["asked"] >= 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_nodes_and_what_they_started(tmp_path: Path, how: signal.Signals) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 987\n")
    python.chmod(0o755)
    with started_nodes(2, [*QUICK, "--python", python, "--patience", 20], tmp_path) as nodes:
        wait_for(lambda: len(sleeping(tmp_path)) == 2, seconds=60)
        os.kill(nodes[0].process.pid, how)
        assert nodes[0].process.wait(60) == 128 + how
        assert nodes[1].process.wait(60) == 130
        assert "Traceback" not in nodes.printed()
    assert sleeping(tmp_path) == []


def sleeping(folder: Path) -> list[int]:
    """The stub interpreters of the nodes that work in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[:2] == [b"sleep", b"987"] and folder in Path(os.readlink(process / "cwd")).parents:
                found.append(int(process.name))
        except OSError:
            continue
    return found
