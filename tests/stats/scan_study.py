"""How often scans are right, ours and others', on the same simulated clusters: the tables of ``docs/scan.md``.

``python -m tests.stats.scan_study [SEEDS]`` prints them as Markdown. No test: it takes minutes.
"""

from __future__ import annotations

import statistics
import sys
from random import Random

from llmbench.stats.scan import judge, scan
from llmbench.stats.scan.simulate import SimulatedCluster, parse_spec

OURS = (
    "nodes=1024,slow=3",
    "nodes=1024,slow=3,fault=network",
    "nodes=1024,slow=3,links=4",
    "nodes=1024,slow=100",
    "nodes=1024",
    "nodes=64,slow=3,links=2",
    "nodes=64,slow=3,hiccups=0.02",
    "nodes=64,slow=3,noise=0.005,slowdown=0.05:0.1",
    "nodes=64,slow=20",
    "nodes=16,slow=3",
    "nodes=8,slow=2,links=1",
    "nodes=16,slow=3,links=1",
    "nodes=8,slow=3,fault=network",
    "nodes=4,links=1",
    "nodes=4",
)
PEERS = ("nodes=128,slow=3,fault=network", "nodes=128,fault=network,hiccups=0.02", "nodes=16,slow=4,fault=network")


def matching(nodes, random):
    shuffled = list(nodes)
    random.shuffle(shuffled)
    return [(min(pair), max(pair)) for pair in zip(shuffled[::2], shuffled[1::2], strict=False)]


def ours(cluster, seed):
    found = judge(scan(cluster.nodes, cluster, seed=seed))
    nodes = {node.name for node in found.nodes if node.verdict == "slow"}
    links = {(link.a, link.b) for link in found.links if link.verdict == "slow"}
    return nodes, links, len(found.pairs), found.rounds


def repeated_with_known_good(cluster, seed, repetitions, gate=0.95):
    """A random matching, a fixed gate, and each suspect again with good nodes: slow if low every time."""
    random = Random(seed)
    values = cluster.pair(matching(cluster.nodes, random))
    limit = gate * statistics.median(values.values())
    good = [node for pair, value in values.items() if value >= limit for node in pair]
    suspects = [node for pair, value in values.items() if value < limit for node in pair]
    tests = len(values)
    for _ in range(repetitions):
        random.shuffle(good)
        again = {(min(pair), max(pair)): pair[0] for pair in zip(suspects, good, strict=False)}
        tests += len(again)
        suspects = [again[pair] for pair, value in cluster.pair(list(again)).items() if value < limit]
    return set(suspects), set(), tests, 1 + repetitions


def fastest_with_slowest(cluster, seed):
    """A random matching, then the fastest with the slowest; slow is what takes twice the median time."""
    first = cluster.pair(matching(cluster.nodes, Random(seed)))
    order = sorted((value, node) for pair, value in first.items() for node in pair)
    half = len(order) // 2
    pairs = [(min(a, b), max(a, b)) for (_, a), (_, b) in zip(order[:half], reversed(order[half:]), strict=True)]
    second = cluster.pair(pairs)
    best = {node: value for pair, value in first.items() for node in pair}
    best |= {node: max(best[node], value) for pair, value in second.items() for node in pair}
    limit = statistics.median(best.values()) / 2
    return {node for node, value in best.items() if value < limit}, set(), len(first) + len(second), 2


ALGORITHMS = {
    "llmbench scan": ours,
    "matching, one repetition, 5 % gate (Google's way)": lambda c, s: repeated_with_known_good(c, s, 1),
    "matching, two repetitions, 5 % gate": lambda c, s: repeated_with_known_good(c, s, 2),
    "fastest with slowest, 2 × median (DLRover's way)": fastest_with_slowest,
}


def row(name, algorithm, text, seeds):
    planted = found = named = links = links_found = links_named = right = 0
    most_tests = most_rounds = 0
    for seed in range(seeds):
        cluster = SimulatedCluster(parse_spec(f"{text},seed={seed}"))
        nodes, low, tests, rounds = algorithm(cluster, seed)
        truth, slow = cluster.truth, set(cluster.truth.slow_nodes)
        planted, found, named = planted + len(slow), found + len(slow & nodes), named + len(nodes)
        links += len(truth.slow_links)
        links_found += len(set(truth.slow_links) & low)
        links_named += len(low)
        right += nodes == slow and low == set(truth.slow_links)
        most_tests, most_rounds = max(most_tests, tests), max(most_rounds, rounds)

    def share(part, whole):
        return f"{part / whole:.4f}" if whole else "–"

    cells = (share(found, planted), share(found, named), share(links_found, links), share(links_found, links_named))
    tests = f"{most_tests / len(cluster.nodes):.2f} n"
    print(f"| {name} | {' | '.join(cells)} | {right / seeds:.3f} | {most_rounds} | {tests} |", flush=True)


def main():
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    heads = "node recall | node precision | link recall | link precision | all right | rounds ≤ | tests ≤"
    for title, rows in (
        ("cluster", [(text, f"`{text}`", ours) for text in OURS]),
        ("`{}`", [(text, name, algorithm) for text in PEERS for name, algorithm in ALGORITHMS.items()]),
    ):
        shown = None
        for text, name, algorithm in rows:
            head = title.format(text)
            if head != shown:
                print(f"\n| {head} | {heads} |\n|---|---|---|---|---|---|---|---|")
                shown = head
            row(name, algorithm, text, seeds)


if __name__ == "__main__":
    main()
