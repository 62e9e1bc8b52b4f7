"""What is between nodes, from facts as data: who is named, and that nobody else is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from llmbench.doctor.checks import nodes as joined
from llmbench.doctor.checks import nodes_clock as clock
from llmbench.doctor.checks import nodes_host as host
from llmbench.doctor.checks import nodes_interface as interface
from llmbench.doctor.checks import nodes_ports as ports
from llmbench.doctor.checks import nodes_same as same
from llmbench.doctor.model import Finding
from llmbench.doctor.nodes.words import labels, odd_ones

KNOWN = {0: "h0", 1: "h1", 2: "h2", 3: "h3"}
Told = list[tuple[str | None, tuple[int, ...]]]


def told(findings: Iterable[Finding]) -> Told:
    """Fault and nodes of each finding; (None, ()) where nothing is wrong."""
    return [(finding.fault, finding.nodes) for finding in findings]


FINE: Told = [(None, ())]


class TestWords:
    def test_hosts_of_one_name_are_told_apart(self) -> None:
        assert labels({0: "a", 1: "b", 2: "a"}) == {0: "a (node 0)", 1: "b", 2: "a (node 2)"}

    def test_who_differs_from_most(self) -> None:
        odd = odd_ones({0: "2.13", 1: "2.13", 2: "2.12", 3: "2.13"}, KNOWN)
        assert odd is not None
        assert (odd.nodes, odd.shown) == ((2,), "2.12 on h2; 2.13 on 3 others")

    def test_of_two_neither_is_right(self) -> None:
        odd = odd_ones({0: "2.13", 1: "2.12"}, KNOWN)
        assert odd is not None
        assert (odd.nodes, odd.shown) == ((0, 1), "2.13 on h0; 2.12 on h1")

    def test_equal_values_are_not_odd(self) -> None:
        assert odd_ones({0: "a", 1: "a"}, KNOWN) is None
        assert odd_ones({}, KNOWN) is None


class TestJoined:
    def judge(self, missing: list[int], lost: Mapping[int, str]) -> list[Finding]:
        return list(joined.judge({0: "h0", 1: "h1"}, missing, lost, "h0", 29500, 300))

    def test_all_are_there(self) -> None:
        assert told(self.judge([], {})) == FINE

    def test_who_never_joined_and_who_was_lost(self) -> None:
        found = self.judge([2, 3], {1: "connection closed"})
        assert told(found) == [("nodes.joined.never", (2, 3)), ("nodes.joined.lost", (1,))]
        assert "nodes 2, 3 of 4 did not join within 300 s; there: h0, h1" in found[0].evidence
        assert "node 1 (h1): connection closed" in found[1].evidence
        assert "--master-addr h0" in str(found[0].fix)


def node(rank: int, **changes: Any) -> host.Node:
    values = {"host": f"h{rank}", "machine": f"m{rank}", "addresses": ("127.0.0.1", f"10.0.0.{rank}")}
    return host.Node(**values | changes)


def views(count: int, wrong: Mapping[tuple[int, int], Any], **hosts: Any) -> list[Finding]:
    """All see all rightly, but ``wrong`` (observer, subject): an address, or None if it does not resolve."""
    nodes = {rank: node(rank, **hosts.get(f"h{rank}", {})) for rank in range(count)}
    seen: dict[int, dict[int, dict[str, Any]]] = {}
    for one in nodes:
        for other in nodes:
            address = wrong.get((one, other), f"10.0.0.{other}")
            answer = {"addresses": [address] if address else [], "error": None if address else "Name not known"}
            seen.setdefault(one, {})[other] = answer | {"answered": None}
    return list(host.judge(labels({rank: each.host for rank, each in nodes.items()}), nodes, seen))


class TestHost:
    def test_all_names_lead_to_their_nodes(self) -> None:
        assert told(views(3, {})) == FINE

    def test_a_name_that_leads_all_others_astray(self) -> None:
        found = views(3, {(0, 1): "10.0.0.2", (2, 1): "10.0.0.2"})
        assert told(found) == [("nodes.host.elsewhere", (1,))]
        assert "is 10.0.0.2, which is h2's, seen from h0, h2; it has 10.0.0.1" in found[0].evidence

    def test_one_node_that_sees_another_wrongly_is_itself_named(self) -> None:
        found = views(3, {(2, 1): "10.9.9.9"})
        assert told(found) == [("nodes.host.elsewhere", (2,))]
        assert "on h2 the name h1 is 10.9.9.9, which no node here has" in found[0].evidence

    def test_a_name_on_loopback(self) -> None:
        found = views(3, {(1, 1): "127.0.1.1"})
        assert told(found) == [("nodes.host.loopback", (1,))]
        assert found[0].verdict == "fail"
        mild = views(3, {(1, 1): "127.0.1.1"}, h1={"by_interface": True})
        assert [finding.verdict for finding in mild] == ["warn"]

    def test_a_name_that_nobody_knows(self) -> None:
        found = views(3, dict.fromkeys([(0, 1), (1, 1), (2, 1)]))
        assert told(found) == [("nodes.host.unresolved", (1,))]
        assert found[0].verdict == "fail"

    def test_pods_know_only_themselves(self) -> None:
        found = views(3, {(a, b): None for a in range(3) for b in range(3) if a != b})
        assert told(found) == [("nodes.host.unresolved", (0, 1, 2))]
        assert found[0].verdict == "warn"

    def test_a_name_that_is_anothers(self) -> None:
        found = views(3, {(a, 1): "10.0.0.2" for a in range(3)}, h1={"host": "h2"})
        assert told(found) == [("nodes.host.twice", (1,))]
        assert "h2 (node 1), h2 (node 2) call themselves h2" in found[0].evidence

    def test_started_twice_on_one_machine(self) -> None:
        same_machine = {"host": "h0", "machine": "m0", "addresses": ("10.0.0.0",)}
        found = views(2, {(0, 1): "10.0.0.0", (1, 1): "10.0.0.0"}, h1=same_machine)
        assert told(found) == [("nodes.host.twice", (0, 1))]
        assert found[0].verdict == "warn"

    def test_an_address_that_no_interface_has_is_fine_if_the_node_answers_there(self) -> None:
        nodes = {rank: node(rank) for rank in range(2)}
        answer = {"addresses": ["198.51.100.7"], "error": None, "answered": 1}
        assert told(host.judge({0: "h0", 1: "h1"}, nodes, {0: {1: answer}})) == FINE


def links(address: str, network: str, mtu: int = 1500, **more: Any) -> interface.Links:
    eth = {"name": "eth0", "up": True, "address": address, "addresses6": [], "mtu": mtu, "network": network}
    other = eth | {"name": "mgmt0", "address": "192.168.0.1", "network": "192.168.0.0/16"}
    lo = eth | {"name": "lo", "address": "127.0.0.1", "network": None, "mtu": 65536}
    return interface.Links(address, (lo, eth, other), more.pop("variables", {}), **more)


class TestInterface:
    def judge(self, **changes: interface.Links) -> list[Finding]:
        nodes = {rank: changes.get(f"h{rank}", links(f"10.0.0.{rank}", "10.0.0.0/24")) for rank in range(3)}
        return list(interface.judge(KNOWN, nodes))

    def test_all_in_one_network(self) -> None:
        found = self.judge()
        assert told(found) == FINE
        assert found[0].evidence == "eth0 10.0.0.0/24 on h0, h1, h2"

    def test_a_variable_that_names_no_interface(self) -> None:
        wrong = {"GLOO_SOCKET_IFNAME": "ib0"}
        found = self.judge(h1=links("10.0.0.1", "10.0.0.0/24", variables=wrong))
        assert told(found) == [("nodes.interface.missing", (1,))]
        assert "on h1: export GLOO_SOCKET_IFNAME=eth0" in str(found[0].fix)
        assert told(self.judge(h1=links("10.0.0.1", "10.0.0.0/24", variables=wrong, told=True))) == FINE

    def test_nccl_takes_prefixes(self) -> None:
        found = self.judge(h1=links("10.0.0.1", "10.0.0.0/24", variables={"NCCL_SOCKET_IFNAME": "eth"}))
        assert told(found) == FINE

    def test_a_variable_that_leads_to_another_network(self) -> None:
        found = self.judge(h2=links("10.0.0.2", "10.0.0.0/24", variables={"NCCL_SOCKET_IFNAME": "mgmt0"}))
        assert told(found) == [("nodes.interface.subnet", (2,))]

    def test_pods_each_in_a_network_of_its_own(self) -> None:
        own = {f"h{rank}": links(f"10.0.{rank}.1", f"10.0.{rank}.0/24") for rank in range(3)}
        assert told(self.judge(**own)) == FINE

    def test_another_mtu(self) -> None:
        found = self.judge(h0=links("10.0.0.0", "10.0.0.0/24", 9000))
        assert told(found) == [("nodes.interface.mtu", (0,))]
        assert "MTU 9000 on h0; MTU 1500 on 2 others" in found[0].evidence
        assert "ip link set eth0 mtu 1500" in str(found[0].fix)

    def test_the_network_of_an_address(self) -> None:
        routes = (
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
            "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
            "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        )
        assert interface.network_of("10.0.0.7", routes) == "10.0.0.0/24"
        assert interface.network_of("10.1.0.7", routes) is None
        assert interface.network_of(None, routes) is None


class TestPorts:
    def judge(self, count: int, failed: Mapping[tuple[int, int], str]) -> list[Finding]:
        tried = {a: {b: failed.get((a, b)) for b in range(count) if a != b} for a in range(count)}
        return list(
            ports.judge({rank: KNOWN[rank] for rank in range(count)}, {r: f"10.0.0.{r}" for r in range(4)}, tried)
        )

    def test_all_connect(self) -> None:
        assert told(self.judge(4, {})) == FINE

    def test_a_node_that_nobody_reaches(self) -> None:
        found = self.judge(4, {(a, 2): "Connection refused" for a in (0, 1, 3)})
        assert told(found) == [("nodes.ports.inbound", (2,))]
        assert found[0].evidence == "connections to h2 (10.0.0.2) from h0, h1, h3: Connection refused"

    def test_a_node_that_reaches_nobody(self) -> None:
        found = self.judge(4, {(2, b): "no answer within 8 s" for b in (0, 1, 3)})
        assert told(found) == [("nodes.ports.outbound", (2,))]

    def test_a_node_cut_off_both_ways_is_told_once_each_way(self) -> None:
        failed = {(a, 2): "x" for a in (0, 1, 3)} | {(2, b): "x" for b in (0, 1, 3)}
        assert told(self.judge(4, failed)) == [("nodes.ports.inbound", (2,)), ("nodes.ports.outbound", (2,))]

    def test_a_pair(self) -> None:
        found = self.judge(4, {(1, 2): "No route to host", (2, 1): "No route to host"})
        assert told(found) == [("nodes.ports.pair", (1, 2))]
        assert found[0].evidence == "h1 to h2 (10.0.0.2): No route to host; nor back: No route to host"

    def test_of_two_nodes_the_pair_is_named(self) -> None:
        found = self.judge(2, {(0, 1): "Connection refused"})
        assert told(found) == [("nodes.ports.pair", (0, 1))]
        assert "; back it works" in found[0].evidence


def clocks(*seconds: float, within: float = 0.01) -> list[Finding]:
    offsets = {rank: clock.Offset(off, 0.0 if rank == 0 else within) for rank, off in enumerate(seconds)}
    return list(clock.judge(KNOWN, offsets))


class TestClock:
    def test_ntps_formula_and_the_shortest_trip(self) -> None:
        # There it is 600 s later; the first answer was held up for 8 s on its way back.
        found = clock.offset([(100.0, 701.0, 110.0), (120.0, 720.5, 121.0)])
        assert found == clock.Offset(600.0, 0.5)

    def test_clocks_that_agree(self) -> None:
        assert told(clocks(0, 0.4, -0.3, 0.1)) == FINE

    @pytest.mark.parametrize(("off", "verdict"), [(2.0, "warn"), (-59.0, "warn"), (600.0, "fail"), (-600.0, "fail")])
    def test_a_clock_that_is_off(self, off: float, verdict: str) -> None:
        found = clocks(0, 0.1, off, 0)
        assert told(found) == [("nodes.clock.off", (2,))]
        assert found[0].verdict == verdict

    def test_node_0_is_named_if_it_is_the_odd_one(self) -> None:
        found = clocks(0, 600, 600.1, 599.9)
        assert told(found) == [("nodes.clock.off", (0,))]
        assert "the clock of h0 is 10.0 min behind that of 3 of the 4 nodes" in found[0].evidence

    def test_of_two_the_one_that_does_not_lead_is_named_against_the_other(self) -> None:
        found = clocks(0, 600)
        assert told(found) == [("nodes.clock.off", (1,))]
        assert "ahead of that of h0" in found[0].evidence

    def test_slow_answers_convict_nobody(self) -> None:
        """On a busy machine a round trip of seconds says nothing of a clock."""
        assert told(clocks(0, 2.5, -2.5, within=3.0)) == FINE


FACTS: dict[str, Any] = {
    "torch": "2.13.0",
    "cuda": "13.0",
    "nccl": "2.30.1",
    "driver": "580.65.06",
    "gpus": "8 x NVIDIA H100",
    "python": "3.12.8",
    "llmbench": "0.1.0",
    "kernel": "6.8.0",
    "os": "Debian GNU/Linux 12",
    "cpu": "96 x AMD EPYC",
    "memory": 2**40,
    "variables": {"OMP_NUM_THREADS": "8"},
}
OTHER: dict[str, Any] = {
    "torch": "2.12.0",
    "cuda": "12.8",
    "nccl": "2.27.3",
    "driver": "570.1",
    "gpus": "7 x NVIDIA H100",
    "python": "3.11.7",
    "llmbench": "0.0.9",
    "kernel": "6.1.0",
    "os": "Ubuntu 24.04",
    "cpu": "64 x AMD EPYC",
    "memory": 2**39,
    "variables": {"OMP_NUM_THREADS": "8", "NCCL_ALGO": "Ring"},
}
SAME_FAULTS = (
    "nodes.same.torch",
    "nodes.same.cuda",
    "nodes.same.nccl",
    "nodes.same.driver",
    "nodes.same.gpus",
    "nodes.same.python",
    "nodes.same.llmbench",
    "nodes.same.kernel",
    "nodes.same.os",
    "nodes.same.cpu",
    "nodes.same.memory",
    "nodes.same.variables",
)


class TestSame:
    def judge(self, **changes: Any) -> list[Finding]:
        return list(same.judge(KNOWN, {rank: FACTS | (changes if rank == 2 else {}) for rank in range(4)}))

    def test_equal_nodes(self) -> None:
        found = self.judge()
        assert told(found) == FINE
        assert found[0].evidence.startswith("4 nodes: torch 2.13.0, CUDA 13.0, NCCL 2.30.1, driver 580.65.06")

    @pytest.mark.parametrize("fault", SAME_FAULTS)
    def test_each_difference_is_named(self, fault: str) -> None:
        topic = fault.rpartition(".")[2]
        assert told(self.judge(**{topic: OTHER[topic]})) == [(fault, (2,))]

    def test_in_words(self) -> None:
        (finding,) = self.judge(torch="2.12.0")
        assert finding.evidence == "torch 2.12.0 on h2; torch 2.13.0 on 3 others"
        (finding,) = self.judge(variables=OTHER["variables"])
        assert finding.evidence == "NCCL_ALGO=Ring on h2; no NCCL_ALGO on 3 others"
        (finding,) = self.judge(memory=2**39)
        assert finding.evidence == "512.0 GiB on h2; 1024.0 GiB on 3 others"

    def test_what_a_node_cannot_tell_is_not_compared(self) -> None:
        assert told(self.judge(torch=None, memory=None)) == FINE

    def test_memory_of_equal_machines_differs_a_little(self) -> None:
        assert told(self.judge(memory=int(2**40 * 0.97))) == FINE

    def test_every_topic_has_a_test(self) -> None:
        assert {f"nodes.same.{topic}" for topic in same.FAULTS} == set(SAME_FAULTS)
