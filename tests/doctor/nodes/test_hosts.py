"""On hosts of their own: who lies about its name, has another torch or clock, or goes, is named, and no one else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Hosts, hosts, llmbench_command, with_checkout
from tests.cluster.nodes import free_port

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(600)]

ALL_NODES = ("--only", "nodes")
TEN_MINUTES_AHEAD = """
import time
from llmbench.doctor.nodes import clocks
clocks.now = lambda: time.time() + 600
from llmbench.start import main
main()
"""
WAITS = """
import sys, threading
from llmbench.doctor.nodes import serve
serve.Node.check = lambda self, request, send: (print("asked", flush=True, file=sys.stderr), threading.Event().wait())
from llmbench.start import main
main()
"""
OWN_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'


@pytest.fixture(scope="module")
def hosts4() -> Iterator[Hosts]:
    with hosts(4) as made:
        yield made


class Doctor:
    """``llmbench doctor --nodes`` on the first ``count`` of some hosts."""

    def __init__(self, made: Hosts, count: int, folder: Path, *options: object) -> None:
        self.made, self.count, self.folder = made, count, folder
        place = ["--nodes", count, "--master-addr", "h0", "--master-port", free_port(), "--json"]
        self.options = [str(option) for option in (*options, *place)]
        self.processes: dict[int, subprocess.Popen[str]] = {}

    def start(
        self, rank: int, program: list[str] | None = None, before: list[str] | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        """One node; ``program`` instead of llmbench, ``before`` what starts it."""
        command = [*(program or llmbench_command()), "doctor", *self.options, "--node-rank", str(rank)]
        own = self.folder / f"node{rank}"
        own.mkdir(exist_ok=True)
        environment = with_checkout() | variables
        self.processes[rank] = self.made.start(rank, [*(before or []), *command], environment, own)
        return self.processes[rank]

    def told(self, seconds: float = 400) -> dict[str, Any]:
        """Starts the nodes that were not, and waits for all."""
        for rank in range(self.count):
            if rank not in self.processes:
                self.start(rank)
        printed = {rank: process.communicate(timeout=seconds) for rank, process in self.processes.items()}
        assert printed[0][0], printed
        document: dict[str, Any] = json.loads(printed[0][0])
        assert self.processes[0].returncode == int(document["verdict"] == "fail")
        return document


def faults(document: Mapping[str, Any]) -> dict[int, list[str]]:
    """What each node is blamed for."""
    return {node["node"]: node["faults"] for node in document["nodes"] if node["faults"]}


def evidence(document: Mapping[str, Any], fault: str) -> str:
    found = [finding for check in document["checks"] for finding in check["findings"] if finding["fault"] == fault]
    assert len(found) == 1, found
    return str(found[0]["evidence"])


def hosts_file(made: Hosts, folder: Path, wrong: Mapping[str, str]) -> Path:
    """As on all hosts, but for some names."""
    lines = ["127.0.0.1 localhost"]
    lines += [f"{wrong.get(made.name(host), made.address(host))} {made.name(host)}" for host in range(made.count)]
    file = folder / "hosts"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@pytest.mark.parametrize("time", range(10))
def test_all_is_well(hosts4: Hosts, tmp_path: Path, time: int) -> None:
    document = Doctor(hosts4, 3, tmp_path, *ALL_NODES).told()
    assert (document["verdict"], faults(document), document["counts"]["warn"]) == ("pass", {}, 0)
    assert {check["verdict"] for check in document["checks"]} == {"pass"}
    assert document["headline"].startswith("3 nodes work together: all-reduce of 16 MiB at ")
    assert [rate["bytes"] for rate in document["allreduce"]["rates"]] == [2**20, 2**24]


def test_a_liar_another_torch_and_a_wrong_clock_are_each_named(hosts4: Hosts, tmp_path: Path) -> None:
    doctor = Doctor(hosts4, 4, tmp_path, *ALL_NODES)
    liar = hosts_file(hosts4, tmp_path, {"h1": "127.0.1.1"})
    stub = tmp_path / "stub" / "torch"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("__version__ = '2.12.0'\n")
    doctor.start(1, before=["sh", "-c", OWN_HOSTS, str(liar)])
    doctor.start(2, PYTHONPATH=f"{with_checkout()['PYTHONPATH']}:{stub.parent}")
    doctor.start(3, [sys.executable, "-c", TEN_MINUTES_AHEAD])
    document = doctor.told()
    assert faults(document) == {1: ["nodes.host.loopback"], 2: ["nodes.same.torch"], 3: ["nodes.clock.off"]}
    assert document["headline"] == "3 of 4 nodes have faults: h1, h2, h3"
    assert "the name h1 of node 1 is 127.0.1.1, seen from h1" in evidence(document, "nodes.host.loopback")
    assert evidence(document, "nodes.same.torch").startswith("torch 2.12.0 on h2; torch ")
    assert evidence(document, "nodes.same.torch").endswith(" on 3 others")
    assert "the clock of h3 is 10.0 min ahead of that of 3 of the 4 nodes" in evidence(document, "nodes.clock.off")


def test_a_host_that_has_the_name_of_another_is_named_and_so_is_node_0_with_its_clock(
    hosts4: Hosts, tmp_path: Path
) -> None:
    doctor = Doctor(hosts4, 4, tmp_path, "--only", "nodes.joined,nodes.host,nodes.clock")
    doctor.start(0, [sys.executable, "-c", TEN_MINUTES_AHEAD])
    doctor.start(1, before=["sh", "-c", 'hostname h2 && exec "$@"', "sh"])
    document = doctor.told()
    assert faults(document) == {0: ["nodes.clock.off"], 1: ["nodes.host.twice"]}
    assert "the name leads to h2 (node 2)" in evidence(document, "nodes.host.twice")


def test_who_sees_another_at_a_wrong_address_is_named(hosts4: Hosts, tmp_path: Path) -> None:
    doctor = Doctor(hosts4, 3, tmp_path, "--only", "nodes.joined,nodes.host,nodes.ports,nodes.clock")
    wrong = hosts_file(hosts4, tmp_path, {"h1": hosts4.address(0)})
    doctor.start(2, before=["sh", "-c", OWN_HOSTS, str(wrong)])
    document = doctor.told()
    assert faults(document) == {2: ["nodes.host.elsewhere"]}
    assert f"on h2 the name h1 is {hosts4.address(0)}, which is h0's" in evidence(document, "nodes.host.elsewhere")


def test_a_pair_that_cannot_connect_is_named_and_the_all_reduce_not_tried(hosts4: Hosts, tmp_path: Path) -> None:
    doctor = Doctor(hosts4, 3, tmp_path, *ALL_NODES)
    closed = f'ip route add unreachable {hosts4.address(1)} && exec "$@"'
    doctor.start(2, before=["sh", "-c", closed, "sh"])
    try:
        document = doctor.told()
    finally:
        hosts4.run(2, ["ip", "route", "del", "unreachable", hosts4.address(1)])
    assert faults(document) == {1: ["nodes.ports.pair"], 2: ["nodes.ports.pair"]}
    reduced = next(check for check in document["checks"] if check["id"] == "nodes.allreduce")
    assert [finding["root"] for finding in reduced["findings"]] == ["nodes.ports"]


def test_an_interface_that_only_one_node_lacks(hosts4: Hosts, tmp_path: Path) -> None:
    doctor = Doctor(hosts4, 3, tmp_path, *ALL_NODES)
    for rank in range(3):
        doctor.start(rank, GLOO_SOCKET_IFNAME="ib0" if rank == 1 else "eth0")
    document = doctor.told()
    assert faults(document) == {1: ["nodes.interface.missing"]}
    reduced = next(check for check in document["checks"] if check["id"] == "nodes.allreduce")
    assert [finding["root"] for finding in reduced["findings"]] == ["nodes.interface"]
    assert "h1: " in reduced["findings"][0]["evidence"]


def test_a_cable_that_is_pulled_in_mid_check(hosts4: Hosts, tmp_path: Path) -> None:
    doctor = Doctor(hosts4, 3, tmp_path, *ALL_NODES)
    victim = doctor.start(2, [sys.executable, "-c", WAITS])
    for rank in (0, 1):
        doctor.start(rank)
    assert victim.stderr is not None
    assert victim.stderr.readline() == "asked\n"
    hosts4.cut(2)
    try:
        del doctor.processes[2]
        doctor.count = 2
        document = doctor.told()
        left = victim.wait(60)
    finally:
        hosts4.heal(2)
        victim.kill()
    assert faults(document) == {2: ["nodes.joined.lost"]}
    assert "node 2 (h2): silent for 10 s" in evidence(document, "nodes.joined.lost")
    assert left == 2
    assert document["allreduce"]["ranks"] == 2


def test_whose_torch_fails_in_the_all_reduce_is_named(hosts4: Hosts, tmp_path: Path) -> None:
    """The others, which wait for it, are not."""
    slow = tmp_path / "slow" / "torch"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text(
        "import sys\n"
        "if 'nodes_allreduce' in sys.argv[1]:\n"
        "    raise ImportError('libgomp.so.1: cannot open shared object file')\n"
        f"sys.path.remove({str(slow.parent)!r})\n"
        "del sys.modules['torch']\n"
        "import torch\n"
    )
    doctor = Doctor(hosts4, 3, tmp_path, *ALL_NODES)
    doctor.start(1, PYTHONPATH=f"{slow.parent}:{with_checkout()['PYTHONPATH']}")
    document = doctor.told()
    assert faults(document) == {1: ["nodes.allreduce.failed"]}
    assert "libgomp.so.1" in evidence(document, "nodes.allreduce.failed")
