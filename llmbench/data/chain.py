"""The source of the generated corpus: a Markov chain over the grammar's states that writes a word at every step.

The chain is unifilar: from any state a word leads to one state only, so who reads the text knows the state. That makes
the probability of a text, and the entropy of the source, exactly computable (Shannon 1948, theorem 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from llmbench.data.grammar import MARKS, START, Dialect, State, options, zipf
from llmbench.data.lexicon import lexicon

UNIT = 1 << 32
"""Probabilities are integers that sum to this, so that a 32-bit draw chooses without a float and without bias."""


class Distribution(NamedTuple):
    """Over a list of choices, each of them possible."""

    cumulative: list[int]
    """Of ``UNIT``, up to and with each choice; the last is ``UNIT``."""
    probability: list[float]
    nats: list[float]
    """-ln of the probability."""

    @classmethod
    def of(cls, weights: list[int]) -> Distribution:
        total = sum(weights)
        cumulative = [running * UNIT // total for running in accumulate(weights)]
        probability = [(high - low) / UNIT for low, high in pairwise([0, *cumulative])]
        return cls(cumulative, probability, [-math.log(p) for p in probability])

    def mean(self, values: list[float]) -> float:
        return sum(p * value for p, value in zip(self.probability, values, strict=True))


@dataclass(frozen=True, eq=False)
class Words:
    """A list of words, the most frequent first."""

    words: tuple[str, ...]
    distribution: Distribution

    @classmethod
    def of(cls, words: list[str]) -> Words:
        return cls(tuple(words), Distribution.of(zipf(len(words))))

    @property
    def entropy(self) -> float:
        """In nats."""
        return self.distribution.mean(self.distribution.nats)


@dataclass(slots=True, eq=False)
class Node:
    """A state, and the ways to go on from it."""

    state: State
    distribution: Distribution = field(init=False)
    options: list[Option] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Option:
    """One way to go on: writes a word of a list."""

    words: Words
    spelt: tuple[str, ...]
    """The words as they stand in the text here."""
    nats: float
    """-ln of the probability of this option."""
    target: Node

    @property
    def length(self) -> float:
        """Expected, in bytes."""
        return self.words.distribution.mean([float(len(word)) for word in self.spelt])


@cache
def source(dialect: Dialect) -> list[Node]:
    """Every state that can be reached, in the order of a sentence, the start of a paragraph first."""
    words = {key: Words.of(dialect.order(listed)) for key, listed in lexicon().items()}
    words |= {(mark,): Words.of([mark]) for mark in MARKS}
    nodes = {START: Node(START)}
    waiting = [START]
    for state in waiting:
        node, choices = nodes[state], options(state, dialect)
        node.distribution = Distribution.of([choice.weight for choice in choices])
        for choice, nats in zip(choices, node.distribution.nats, strict=True):
            if choice.target not in nodes:
                nodes[choice.target] = Node(choice.target)
                waiting.append(choice.target)
            listed = words[choice.key]
            node.options.append(Option(listed, _spelt(listed, state.slot), nats, nodes[choice.target]))
    return list(nodes.values())


@cache
def _spelt(words: Words, slot: str) -> tuple[str, ...]:
    return tuple(spell(word, slot) for word in words.words)


def spell(word: str, slot: str) -> str:
    """A word as it stands in the text when it is written from a state of this slot, with the space before it."""
    if word in MARKS:
        return word
    if slot == "paragraph":
        return word.capitalize()
    return " " + (word.capitalize() if slot == "sentence" else word)


class EntropyRate(NamedTuple):
    """Entropy of a source, in nats. A word is one between spaces; its punctuation counts towards it."""

    nats_per_word: float
    nats_per_byte: float


def entropy_rate(dialect: Dialect) -> EntropyRate:
    """Entropy of a step, averaged over the stationary distribution of the chain, by the words and bytes of a step.

    Paragraphs are independent of each other, so the stationary distribution is that of the visits to each state from
    one start of a paragraph to the next.
    """
    nats, words, size = 0.0, 0.0, 0.0
    for node, visits in _visits(source(dialect)):
        choice = node.distribution
        nats += visits * (choice.mean(choice.nats) + choice.mean([option.words.entropy for option in node.options]))
        words += visits * choice.mean([float(option.words.words[0] not in MARKS) for option in node.options])
        size += visits * choice.mean([option.length for option in node.options])
    return EntropyRate(nats / words, nats / size)


def _visits(nodes: list[Node]) -> list[tuple[Node, float]]:
    """Expected visits to each node in a paragraph: what has arrived is passed on, until nearly all has left."""
    start = nodes[0]
    arrived = dict.fromkeys(nodes, 0.0)
    visits = dict(arrived)
    arrived[start] = 1.0
    while sum(arrived.values()) > 1e-12:
        for node in nodes:
            share, arrived[node] = arrived[node], 0.0
            visits[node] += share
            for p, option in zip(node.distribution.probability, node.options, strict=True):
                if option.target is not start:
                    arrived[option.target] += share * p
    return list(visits.items())
