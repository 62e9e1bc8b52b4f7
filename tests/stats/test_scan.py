"""The decisions of a scan, on clusters whose speeds are known exactly."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from llmbench.results.scan import Point
from llmbench.stats.scan import Reading, judge, scan
from llmbench.stats.scan.gates import gate


class Cluster:
    """Nodes and links with the speeds given, else 1; without noise. Remembers what it was asked."""

    def __init__(self, count, *, nodes=None, links=None, solo=None):
        self.nodes = [f"n{number:02}" for number in range(count)]
        self.speeds = nodes or {}
        self.links = {frozenset(pair): value for pair, value in (links or {}).items()}
        self.own = solo or {}
        self.solo_asked, self.pairs_asked = [], []

    def solo(self, nodes):
        self.solo_asked.append(list(nodes))
        return {node: self.own.get(node, {"matmul": 7e14}) for node in nodes if self.own.get(node) != "silent"}

    def pair(self, pairs):
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy)), "a node in two pairs at once"
        assert all(a < b for a, b in pairs)
        self.pairs_asked.append(list(pairs))
        return {(a, b): self._speed(a, b) for a, b in pairs}

    def _speed(self, a, b):
        known = self.links.get(frozenset((a, b)), 1)
        if isinstance(known, str) or known is None or not 0 < known < 2:
            return known
        return 5e10 * min(self.speeds.get(a, 1), self.speeds.get(b, 1), known)


def verdicts(cluster, seed=0, **options):
    found = judge(scan(cluster.nodes, cluster, seed=seed, **options))
    nodes = {node.name: node.verdict for node in found.nodes if node.verdict != "ok"}
    return found, nodes, {(link.a, link.b): link.verdict for link in found.links}


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 31, 33, 64, 101])
def test_nobody_is_named_where_nothing_is_slow(count):
    found, nodes, links = verdicts(Cluster(count))
    assert (nodes, links) == ({}, {})
    assert found.rounds <= 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [3, 4, 5, 8, 9, 33, 64, 101])
def test_a_slow_node_is_named_and_no_link(count, seed):
    cluster = Cluster(count, nodes={"n01": 0.8})
    found, nodes, links = verdicts(cluster, seed)
    assert (nodes, links) == ({"n01": "slow"}, {})
    slow = found.nodes[1]
    assert slow.metrics == ["bus_bandwidth"]
    assert slow.below == pytest.approx(0.2)
    assert "40.0 GB/s with n" in slow.evidence
    assert found.rounds <= 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [8, 16, 33])
def test_several_slow_nodes(count, seed):
    """They may meet each other, and then neither tells of the other."""
    _, nodes, links = verdicts(Cluster(count, nodes={"n00": 0.7, "n05": 0.85}), seed)
    assert (nodes, links) == ({"n00": "slow", "n05": "slow"}, {})


@pytest.mark.parametrize("seed", range(8))
def test_a_slow_link_of_four_nodes_is_named_wherever_it_is(seed):
    """In three rounds four nodes meet all others."""
    found, nodes, links = verdicts(Cluster(4, links={("n01", "n03"): 0.7}), seed)
    assert (nodes, links) == ({}, {("n01", "n03"): "slow"})
    assert "30 % below the median" in found.links[0].evidence


def test_a_link_is_repeated_before_it_is_named():
    cluster = Cluster(64)
    scan(cluster.nodes, cluster)
    pair = cluster.pairs_asked[0][7]
    slow = Cluster(64, links={pair: 0.9})
    found, nodes, links = verdicts(slow)
    assert (nodes, links) == ({}, {pair: "slow"})
    assert sum(pair in asked for asked in slow.pairs_asked) == 2
    assert found.pairs[-1].verdict == "low"
    assert len(found.pairs) == 32 + 2 + 1  # the matching, each node with another, and the pair again


class Hiccup(Cluster):
    """A cluster in which the first test of every fourth pair is low, for no reason."""

    def pair(self, pairs):
        answers = super().pair(pairs)
        if len(self.pairs_asked) == 1:
            answers |= dict.fromkeys(pairs[::4], 30000000000.0)
        return answers


def test_what_was_low_once_and_never_again_is_not_named():
    found, nodes, links = verdicts(Hiccup(64))
    assert (nodes, links) == ({}, {})
    assert sum(test.verdict == "low" for test in found.pairs) == 8


def test_slow_on_its_own_is_repeated_and_named_with_the_metric():
    own = {"n07": {"matmul": 6e14, "memory_bandwidth": 3e12}}
    cluster = Cluster(64, solo={f"n{k:02}": {"matmul": 7e14, "memory_bandwidth": 3e12} for k in range(64)} | own)
    found, nodes, _ = verdicts(cluster)
    assert nodes == {"n07": "slow"}
    assert found.nodes[7].metrics == ["matmul"]
    assert (
        found.nodes[7].evidence
        == "matmul 14 % below the median: 600 TFLOP/s against 700 TFLOP/s, best of 2 repetitions"
    )
    assert cluster.solo_asked == [cluster.nodes, ["n07"], ["n07"]]


def test_of_two_nodes_the_one_that_is_slow_on_its_own_is_named_and_the_link_is_not_judged():
    found, nodes, links = verdicts(Cluster(2, solo={"n01": {"matmul": 5e14}}))
    assert (nodes, links) == ({"n01": "slow"}, {})
    assert [test.verdict for test in found.pairs] == ["unknown"]


def test_one_node_has_nothing_to_be_compared_with():
    found, nodes, _ = verdicts(Cluster(1))
    assert nodes == {}
    assert found.nodes[0].evidence == "nothing to compare it with"
    assert found.pairs == []


def test_a_node_that_never_answers_has_failed_and_is_in_no_pair():
    cluster = Cluster(9, solo={"n04": "silent", "n05": "CUDA error: out of memory"})
    found, nodes, links = verdicts(cluster)
    assert (nodes, links) == ({"n04": "failed", "n05": "failed"}, {})
    assert found.nodes[4].evidence == "no answer (3 of 3 times)"
    assert found.nodes[5].evidence == "CUDA error: out of memory (3 of 3 times)"
    assert not any({"n04", "n05"} & set(pair) for asked in cluster.pairs_asked for pair in asked)


class Late(Cluster):
    def solo(self, nodes):
        answers = super().solo(nodes)
        return answers if len(self.solo_asked) > 1 else {n: a for n, a in answers.items() if n != "n03"}


def test_a_node_that_answers_late_is_still_tested():
    found, nodes, _ = verdicts(Late(64, nodes={"n03": 0.8}))
    assert nodes == {"n03": "slow"}
    assert [test.round for test in found.pairs if "n03" in (test.a, test.b)] == [2, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, None, "timed out after 60 s"])
def test_a_node_with_which_no_test_works_has_failed(value):
    links = {("n02", f"n{other:02}"): value for other in range(33) if other != 2}
    found, nodes, named = verdicts(Cluster(33, links=links))
    assert (nodes, named) == ({"n02": "failed"}, {})
    assert found.nodes[2].evidence.startswith("every pair test failed: ")
    assert str(value) in found.nodes[2].evidence


def test_a_link_over_which_no_test_works_has_failed():
    first = Cluster(64)
    scan(first.nodes, first)
    pair = first.pairs_asked[0][0]
    found, nodes, links = verdicts(Cluster(64, links={pair: "connection reset"}))
    assert (nodes, links) == ({}, {pair: "failed"})
    assert "connection reset" in found.links[0].evidence


@pytest.mark.parametrize("value", [math.nan, -math.inf, 0, None])
def test_a_metric_that_is_no_number_has_failed(value):
    found, nodes, _ = verdicts(Cluster(40, solo={"n09": {"matmul": value}}))
    assert nodes == {"n09": "failed"}
    assert found.nodes[9].evidence.startswith(f"matmul was {value}")
    assert found.nodes[9].estimates["matmul"] is None


def test_nothing_answers():
    found, nodes, links = verdicts(Cluster(4, solo=dict.fromkeys(("n00", "n01", "n02", "n03"), "silent")))
    assert set(nodes.values()) == {"failed"}
    assert (found.gates, found.pairs, links, found.rounds) == ([], [], {}, 0)


def test_no_pair_works():
    """Whose fault it is cannot be told."""
    every = {(f"n{a:02}", f"n{b:02}"): "refused" for a in range(6) for b in range(a)}
    _, nodes, links = verdicts(Cluster(6, links=every))
    assert (set(nodes.values()), len(nodes), links) == ({"suspect"}, 6, {})


def test_without_a_round_to_repeat_it_a_node_is_a_suspect():
    cluster = Cluster(64, nodes={"n03": 0.8})
    _, nodes, links = verdicts(cluster, rounds=1)
    assert nodes["n03"] == "suspect"
    assert list(nodes.values()) == ["suspect", "suspect"]  # its partner, too
    assert links == {}


def test_more_rounds_tell_where_many_are_slow():
    """15 of 40: with two of three pairs low the median is that of slow ones, until all have met several others."""
    slow = {f"n{number:02}": 0.7 for number in range(15)}
    for seed in range(5):
        _, nodes, _ = verdicts(Cluster(40, nodes=slow), seed, rounds=8)
        assert nodes == dict.fromkeys(slow, "slow")


def test_every_link_is_tested_once_and_the_slow_ones_again():
    slow = {("n01", "n03"): 0.8, ("n02", "n11"): 0.9}
    cluster = Cluster(13, links=slow)
    _, nodes, links = verdicts(cluster, every_link=True)
    assert (nodes, links) == ({}, dict.fromkeys(slow, "slow"))
    first = [pair for asked in cluster.pairs_asked[:13] for pair in asked]
    assert len(first) == len(set(first)) == 13 * 12 // 2


def test_the_same_seed_asks_the_same():
    asked = []
    for seed in (4, 4, 5):
        cluster = Cluster(50, nodes={"n03": 0.8})
        scan(cluster.nodes, cluster, seed=seed)
        asked.append(cluster.pairs_asked)
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("count", "slow"), [(6, ["n01"]), (64, ["n10", "n20", "n30"])])
def test_a_suspect_meets_three_different_nodes(count, slow, seed):
    cluster = Cluster(count, nodes=dict.fromkeys(slow, 0.8))
    tests = scan(cluster.nodes, cluster, seed=seed).pairs
    for name in slow:
        partners = [test.partner(name) for test in tests if name in (test.a, test.b)]
        assert len(set(partners)) == len(partners) == 3


def test_the_gate_is_of_the_values_alone():
    normal = NormalDist(100, 1.5)
    values = [normal.inv_cdf((place + 0.5) / 501) for place in range(501)] + [60.0] * 8
    one, scaled = gate("x", "", values), gate("x", "", [1e9 * value for value in values])
    assert one.median == pytest.approx(100, rel=1e-3)
    assert one.spread == pytest.approx(0.015, rel=0.05)
    assert 0.04 < one.share < 0.05
    assert scaled.threshold == pytest.approx(1e9 * one.threshold)


def test_a_quiet_cluster_has_a_narrow_gate_and_no_narrower_than_two_percent():
    assert gate("x", "", [100.0, 100.1] * 1000).share == 0.02


def test_few_values_do_not_tell_their_spread():
    assert gate("x", "", [100.0, 100.0, 100.0]).share > 0.04


class Disturbed(Cluster):
    """Nodes that share a machine: values differ by factors, and readings know it."""

    def __init__(self, count, *, at_best=1.0, times=1, **cluster):
        super().__init__(count, **cluster)
        self.at_best, self.times = at_best, times

    def solo(self, nodes):
        return {
            node: {name: Reading(value, uncertainty=0.4, note="a quota") for name, value in own.items()}
            for node, own in super().solo(nodes).items()
        }

    def pair(self, pairs):
        point = Point(collective="sendrecv", message_bytes=1024, bus_bandwidth_bytes_per_s=5e9)
        return {
            pair: Reading(value, self.at_best * value, 0.5, self.times, points=(point,))
            for pair, value in super().pair(pairs).items()
        }


def test_who_reached_the_gate_once_is_not_low():
    link = {("n01", "n03"): 0.3}
    assert verdicts(Disturbed(4, at_best=2.0, times=2, links=link))[1:] == ({}, {})
    found, nodes, links = verdicts(Disturbed(4, at_best=1.1, times=2, links=link))
    assert (nodes, links) == ({}, {("n01", "n03"): "slow"})
    low = next(test for test in found.pairs if test.verdict == "low")
    assert low.best_bytes_per_s == pytest.approx(1.1 * low.bus_bandwidth_bytes_per_s)
    assert low.points[0].bus_bandwidth_bytes_per_s == 5e9


def test_an_uncertain_measurement_convicts_nobody_unless_it_was_repeated():
    link, seen = ("n01", "n03"), set()
    for seed in range(8):
        found, _, links = verdicts(Disturbed(4, links={link: 0.1}), seed)
        tests = sum((test.a, test.b) == link for test in found.pairs)
        seen.add(tests)
        assert links == {link: "slow" if tests > 1 else "suspect"}
        assert verdicts(Disturbed(4, times=2, links={link: 0.1}), seed)[2] == {link: "slow"}
    assert seen == {1, 2}


@pytest.mark.parametrize(("speed", "expected"), [(0.65, {}), (0.5, {"n02": "slow"})])
def test_nothing_is_low_that_lacks_less_than_the_uncertainty(speed, expected):
    own = {"n02": {"matmul": speed * 7e14}}
    found, nodes, _ = verdicts(Disturbed(4, solo=own))
    assert nodes == expected
    assert ("(a quota)" in found.nodes[2].evidence) == bool(expected)


def test_values_that_differ_by_factors_have_a_gate_that_is_not_zero():
    values = [100.0, 100.0, 100.0, 300.0, 300.0, 900.0, 2700.0]
    assert gate("x", "", values).threshold == 0
    assert 0 < gate("x", "", values, uncertainty=0.5).threshold < 0.5 * 300
