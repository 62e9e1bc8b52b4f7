"""``llmbench scan`` finds the throttled one of four hosts, or their throttled link; where nothing is slow, nobody."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for

from .hosts import Hosts
from .nodes import started_nodes
from .quiet_scans import named, scan, why

pytestmark = [pytest.mark.slow, pytest.mark.hosts, pytest.mark.timeout(600)]
RATE = "200mbit"


@pytest.fixture
def four(hosts4: Hosts) -> Iterator[Hosts]:
    """Four hosts; what a test did to them is undone."""
    yield hosts4
    for host in range(4):
        hosts4.fast(host)
        hosts4.cpu(host, None)


@pytest.mark.parametrize("time", range(3))
def test_with_nothing_throttled_nobody_is_named(
    four: Hosts, tmp_path: Path, environment: dict[str, str], time: int
) -> None:
    found = scan(four, tmp_path, environment)
    assert named(found) == [], why(found)
    assert (found["machines"], len(found["nodes"])) == (1, 4)


def test_one_throttled_link_is_named_exactly(four: Hosts, tmp_path: Path, environment: dict[str, str]) -> None:
    four.slow_link(1, 3, RATE)
    found = scan(four, tmp_path, environment)
    assert named(found) == [["h1", "h3"]], why(found)
    assert found["exclude"] == []
    (link,) = (link for link in found["links"] if link["verdict"] == "slow")
    assert "with others h1 reaches" in link["evidence"]


def test_a_host_whose_cable_is_throttled_is_named_by_its_network(
    four: Hosts, tmp_path: Path, environment: dict[str, str]
) -> None:
    four.slow(2, RATE)
    found = scan(four, tmp_path, environment)
    assert named(found) == ["h2"], why(found)
    assert found["exclude"] == ["h2"]
    assert found["nodes"][2]["metrics"] == ["bus_bandwidth"]
    assert "bus bandwidth low with each of" in found["nodes"][2]["evidence"]


@pytest.mark.parametrize("percent", [20, 40])
def test_a_host_whose_cpu_is_throttled_is_named_by_its_work(
    four: Hosts, tmp_path: Path, environment: dict[str, str], percent: int
) -> None:
    four.cpu(1, percent)
    found = scan(four, tmp_path, environment)
    assert named(found) == ["h1"], why(found)
    assert set(found["nodes"][1]["metrics"]) == {"matmul", "memory_bandwidth"}
    assert f"a quota of {percent / 100:g} CPUs" in found["nodes"][1]["evidence"]


def test_two_hosts_that_cannot_reach_each_other_are_a_failed_link(
    four: Hosts, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Both reach node 0 and each of the others."""
    _route(four, 1, "add", 3)
    try:
        found = scan(four, tmp_path, environment, "--deadline", "60")
    finally:
        _route(four, 1, "del", 3)
    assert named(found) == [["h1", "h3"]], why(found)
    (link,) = (link for link in found["links"] if link["verdict"] == "failed")
    assert "with others h1 reaches" in link["evidence"]


def test_a_host_whose_cable_is_pulled_has_failed(four: Hosts, tmp_path: Path, environment: dict[str, str]) -> None:
    with started_nodes(4, ["scan", "--json", "--device", "cpu"], tmp_path, four, environment) as nodes:
        wait_for(lambda: "alone: 4 nodes" in nodes[0].stderr)
        four.cut(3)
        try:
            ended = [nodes[rank].process.wait(300) for rank in range(3)]
            assert nodes[3].process.wait(120) == 2  # it cannot know that it is the one
        finally:
            four.heal(3)
    assert ended == [1, 0, 0], nodes.printed()
    found = json.loads(nodes[0].stdout)
    assert named(found) == ["h3"], why(found)
    assert "silent for 10 s" in found["nodes"][3]["evidence"]
    assert "is gone: silent for 10 s" in nodes[3].stderr


def _route(four: Hosts, host: int, verb: str, peer: int) -> None:
    """Refuses what a host sends to a peer, or no longer."""
    inside = ["ip", "netns", "exec", f"{four.names['LLB_PREFIX']}-h{host}"]
    subprocess.run([*inside, "ip", "route", verb, "prohibit", f"{four.address(peer)}/32"], check=True)
