"""``llmbench scan`` finds the throttled one of four hosts, or their throttled link; where nothing is slow, nobody."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts
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
    route = ["ip", "route", "%s", "prohibit", f"{four.address(2)}/32"]
    subprocess.run(_inside(four, 0, route, "add"), check=True)
    try:
        found = scan(four, tmp_path, environment, "--deadline", "60")
    finally:
        subprocess.run(_inside(four, 0, route, "del"), check=True)
    assert found["slow_nodes"] == [], why(found)
    low = [pair for pair in found["pairs"] if pair["verdict"] == "failed"]
    assert {(pair["a"], pair["b"]) for pair in low} == {("h0", "h2")}


def _inside(four: Hosts, host: int, command: list[str], verb: str) -> list[str]:
    namespace = f"{four.names['LLB_PREFIX']}-h{host}"
    return ["ip", "netns", "exec", namespace, *(verb if part == "%s" else part for part in command)]
