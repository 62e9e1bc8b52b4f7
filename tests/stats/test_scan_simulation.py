"""How often a scan is right, on simulated clusters with noise: the limits that ``docs/scan.md`` states."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llmbench.errors import UserError
from llmbench.stats.scan.document import simulated_scan
from llmbench.stats.scan.simulate import Spec, parse_spec

pytestmark = pytest.mark.slow


@dataclass
class Score:
    """Over many seeds: what was planted and named, and the most that it cost."""

    planted: int = 0
    found: int = 0
    wrong: int = 0
    clean: int = 0
    rounds: int = 0
    tests: float = 0.0

    @property
    def recall(self):
        return self.found / self.planted

    @property
    def precision(self):
        return self.found / (self.found + self.wrong)


def score(text, seeds, of="nodes", **options):
    total = Score()
    for seed in range(seeds):
        done = simulated_scan(parse_spec(f"{text},seed={seed}"), command=[], **options)
        if of == "nodes":
            planted, named = set(done.truth.slow_nodes), set(done.slow_nodes)
        else:
            planted, named = set(done.truth.slow_links), set(done.slow_links)
        total.planted += len(planted)
        total.found += len(planted & named)
        total.wrong += len(named - planted)
        total.clean += not done.found
        total.rounds = max(total.rounds, done.rounds)
        total.tests = max(total.tests, done.pair_tests / len(done.nodes))
    return total


THOUSAND = "nodes=1024,slow=3,slowdown=0.1:0.3,noise=0.015"


def assert_within_limits(total):
    assert total.recall >= 0.99
    assert total.precision >= 0.99
    assert total.rounds <= 3
    assert total.tests <= 0.6


@pytest.mark.parametrize("fault", ["network", "compute", "both", "mixed"])
def test_three_slow_nodes_of_a_thousand(fault):
    assert_within_limits(score(f"{THOUSAND},fault={fault}", 60))


def test_slow_links_of_a_thousand_nodes():
    total = score(f"{THOUSAND},links=4", 8, of="links")
    assert total.recall >= 0.99
    assert total.precision >= 0.99


@pytest.mark.parametrize(
    "text",
    [
        "nodes=8,slow=2",
        "nodes=16,slow=3",
        "nodes=64,slow=5",
        "nodes=64,slow=3,noise=0.005,slowdown=0.05:0.1",
        "nodes=7,slow=1,dead=1",
        "nodes=64,slow=3,hiccups=0.02",
    ],
)
def test_slow_nodes_of_small_clusters(text):
    total = score(text, 150)
    assert total.recall >= 0.98
    assert total.precision >= 0.98
    assert total.rounds <= 3


@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 8, 16, 32, 33, 64])
def test_nobody_is_named_where_nothing_is_slow(nodes):
    assert score(f"nodes={nodes}", 100).clean >= 99


@pytest.mark.parametrize("text", ["nodes=1024", "nodes=1024,noise=0.03", "nodes=64,hiccups=0.02", "nodes=8", "nodes=4"])
def test_nobody_is_named_where_nothing_is_slow_over_many_seeds(text):
    assert score(text, 100).clean >= 99


@pytest.mark.parametrize("text", ["nodes=64,links=3", "nodes=4,links=1", "nodes=16,links=2", "nodes=8,links=1,slow=1"])
def test_slow_links_of_small_clusters(text):
    total = score(text, 150, of="links")
    assert total.recall >= 0.96
    assert total.precision >= 0.99


def test_a_fourth_round_names_the_links_that_two_slow_nodes_of_eight_leave_in_doubt():
    assert score("nodes=8,slow=2,links=1", 150, of="links", rounds=4).recall >= 0.99


def test_slow_links_anywhere_if_every_link_is_tested():
    total = score("nodes=40,links=3,slow=1", 10, of="links", every_link=True)
    assert total.recall >= 0.96
    assert total.precision >= 0.96


def test_a_simulation_is_the_same_every_time():
    one, other = (simulated_scan(parse_spec("nodes=40,slow=2,seed=7"), command=[]) for _ in range(2))
    assert one.nodes == other.nodes
    assert one.pairs == other.pairs
    assert one.truth == other.truth


def test_the_truth_is_what_was_asked_for():
    done = simulated_scan(parse_spec("nodes=50,slow=4,links=3,dead=2,slowdown=0.2:0.25"), command=["llmbench"])
    assert done.simulated
    assert len(done.truth.slow_nodes) == len(done.truth.slowdown) == len(done.truth.fault) == 4
    assert all(0.2 <= share <= 0.25 for share in done.truth.slowdown.values())
    assert len(done.truth.slow_links) == 3
    assert len(done.truth.failed_nodes) == 2
    assert set(done.failed_nodes) == set(done.truth.failed_nodes)


def test_spec_is_read():
    assert parse_spec("nodes=1024, slow=3,slowdown=0.1:0.3,noise=0.015,seed=8") == Spec(
        nodes=1024, slow=3, slowdown=(0.1, 0.3), noise=0.015, seed=8
    )
    assert parse_spec("nodes=8,slowdown=0.2").slowdown == (0.2, 0.2)


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("", "``", "nodes=1024"),
        ("nodes", "`nodes`: is not KEY=VALUE", "nodes=1024"),
        ("nodes=8,slwo=1", "`slwo=1`: there is no slwo", "slow"),
        ("nodes=many", "`nodes=many`: not a whole number", ""),
        ("nodes=0", "`nodes=0`: not from 1 to 16384", ""),
        ("nodes=8,nodes=9", "`nodes=9`: nodes is there twice", ""),
        ("nodes=8,slow=-1", "`slow=-1`: not from 0", ""),
        ("nodes=8,slow=9", "9 slow and dead nodes of 8", "fewer"),
        ("nodes=8,slow=4,dead=5", "9 slow and dead nodes of 8", "fewer"),
        ("nodes=8,links=5", "5 slow links", "fewer"),
        ("nodes=8,slow=2,links=3", "3 slow links", "fewer"),
        ("nodes=8,noise=nan", "`noise=nan`: not a share", ""),
        ("nodes=8,noise=0.5", "`noise=0.5`: not a share from 0 to below 0.5", ""),
        ("nodes=8,noise=x", "`noise=x`: not a number", ""),
        ("nodes=8,slowdown=0.3:0.1", "`slowdown=0.3:0.1`: not LOW:HIGH", ""),
        ("nodes=8,slowdown=0", "`slowdown=0`: not LOW:HIGH", ""),
        ("nodes=8,slowdown=1", "`slowdown=1`: not a share", ""),
        ("nodes=8,fault=netwrok", "`fault=netwrok`: not a kind of fault", "network"),
    ],
)
def test_a_bad_spec_names_the_part(text, named, hint):
    with pytest.raises(UserError) as raised:
        parse_spec(text)
    assert named in raised.value.message
    assert hint in raised.value.hint
