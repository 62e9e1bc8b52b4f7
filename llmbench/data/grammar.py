"""The grammar of the generated corpus: which words may follow in a state, and which state each of them leads to.

A sentence: determiner, adjective and noun agree in gender; the verb agrees with its subject, even past an "of" phrase;
verbs, adjectives, adverbs and prepositions depend on the topic of the last noun; the topic tends to stay; a sentence
that a question word opens ends in a question mark.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from llmbench.data.lexicon import GENDERS, TOPICS, VERB_KINDS, Key

STAY = 4
"""How many times likelier the topic of the last noun is than all other topics together."""

FULL_STOP, QUESTION_MARK, COMMA, NEWLINE = ".", "?", ",", "\n"
MARKS = (FULL_STOP, QUESTION_MARK, COMMA, NEWLINE)


class State(NamedTuple):
    """All of the text so far that the next word depends on."""

    slot: str
    topic: int | None = None
    """Of the last noun; None where the paragraph has none yet."""
    question: bool = False
    subject: int | None = None
    """Gender that the verb will agree with."""
    role: str = ""
    """What the noun phrase that was begun is to the sentence."""
    gender: int | None = None
    """Of the noun phrase that was begun."""


START = State("paragraph")


class Option(NamedTuple):
    """One way to go on: ``weight`` is relative to the other options of the same state."""

    weight: int
    key: Key
    target: State


Options: TypeAlias = list[Option]


@dataclass(frozen=True)
class Dialect:
    """Preferences of a source. All dialects share the lexicon and the grammar.

    Args:
        name: also decides which words of a list are the frequent ones.
        shift: topic ``t`` takes its verbs, adjectives, adverbs and preposition from topic ``t + shift``.
    """

    name: str
    shift: int

    def related(self, topic: int) -> int:
        return (topic + self.shift) % TOPICS

    def order(self, words: tuple[str, ...]) -> list[str]:
        """The words of a list, the most frequent first."""
        return sorted(words, key=lambda word: hashlib.sha256(f"{self.name}/{word}".encode()).digest())

    def topics(self, last: int | None) -> list[tuple[int, int]]:
        """Weight of each topic after topic ``last``, as (weight, topic)."""
        order = [int(topic) for topic in self.order(tuple(map(str, range(TOPICS))))]
        weights = dict(zip(order, zipf(TOPICS), strict=True))
        if last is not None:
            weights[last] = STAY * (sum(weights.values()) - weights[last])
        return [(weight, topic) for topic, weight in weights.items()]


def zipf(count: int) -> list[int]:
    """Weights of ranks 1 to ``count``: inverse to the rank (Zipf 1949)."""
    return [1_000_000 // rank for rank in range(1, count + 1)]


def mix(*parts: tuple[int, Options]) -> Options:
    """Options of several groups: (weight of the group, options whose weights count within the group)."""
    totals = [sum(option.weight for option in options) for _, options in parts]
    common = math.lcm(*totals)
    return [
        option._replace(weight=option.weight * share * (common // total))
        for (share, options), total in zip(parts, totals, strict=True)
        for option in options
    ]


def options(at: State, dialect: Dialect) -> Options:
    """What may follow in a state."""
    match at.slot:
        case "paragraph":
            return mix((10, _question(at)), (90, _subject(at, dialect)))
        case "sentence":
            connective = [Option(1, ("connective",), at._replace(slot="connective"))]
            newline = [Option(1, (NEWLINE,), START)]
            return mix((16, newline), (10, connective), (10, _question(at)), (64, _subject(at, dialect)))
        case "connective":
            return [Option(1, (COMMA,), at._replace(slot="clause"))]
        case "clause":
            return _subject(at, dialect)
        case "determined":
            nouns = _nouns(at, dialect)
            if at.topic is None:
                return nouns
            adjective = Option(
                1, ("adjective", dialect.related(at.topic), at.gender or 0), at._replace(slot="described")
            )
            return mix((35, [adjective]), (65, nouns))
        case "described":
            return _nouns(at, dialect)
        case "subject":
            of = [Option(1, ("of",), at._replace(slot="of"))]
            return mix((15, of), (85, _verbs(at, dialect)))
        case "of":
            return _determiners(at, "of")
        case "predicate":
            return _verbs(at, dialect)
        case "transitive":
            return _determiners(at, "object")
        case "prepositional":
            return _prepositions(at, dialect)
        case "preposition":
            return _determiners(at, "oblique")
        case "intransitive":
            adverb = [Option(1, ("adverb", dialect.related(at.topic or 0)), at._replace(slot="end"))]
            return mix((55, adverb), (45, _end(at)))
        case "object":
            return mix((25, _prepositions(at, dialect)), (75, _end(at)))
        case "end":
            return _end(at)
        case "comma":
            return [Option(1, ("conjunction",), at._replace(slot="clause"))]
        case other:
            raise AssertionError(other)


def _question(at: State) -> Options:
    return [Option(1, ("question",), at._replace(slot="clause", question=True))]


def _subject(at: State, dialect: Dialect) -> Options:
    names = [
        Option(weight, ("name", topic, gender), State("subject", topic, at.question, subject=gender))
        for weight, topic in dialect.topics(at.topic)
        for gender in range(GENDERS)
    ]
    return mix((70, _determiners(at, "subject")), (30, names))


def _determiners(at: State, role: str) -> Options:
    return [
        Option(1, ("determiner", gender), at._replace(slot="determined", role=role, gender=gender))
        for gender in range(GENDERS)
    ]


def _nouns(at: State, dialect: Dialect) -> Options:
    gender = at.gender or 0

    def after(topic: int) -> State:
        match at.role:
            case "subject":
                return State("subject", topic, at.question, subject=gender)
            case "of":
                return State("predicate", topic, at.question, subject=at.subject)
            case "object":
                return State("object", topic, at.question)
            case _:
                return State("end", topic, at.question)

    return [Option(weight, ("noun", topic, gender), after(topic)) for weight, topic in dialect.topics(at.topic)]


def _verbs(at: State, dialect: Dialect) -> Options:
    topic = dialect.related(at.topic or 0)
    return [
        Option(weight, ("verb", topic, kind, at.subject or 0), State(kind, at.topic, at.question))
        for weight, kind in zip((45, 25, 30), VERB_KINDS, strict=True)
    ]


def _prepositions(at: State, dialect: Dialect) -> Options:
    """Nine times in ten the one that the topic governs."""
    governed = dialect.related(at.topic or 0)
    target = State("preposition", at.topic, at.question)
    return [
        Option(9 * (TOPICS - 1) if topic == governed else 1, ("preposition", topic), target) for topic in range(TOPICS)
    ]


def _end(at: State) -> Options:
    if at.question:
        return [Option(1, (QUESTION_MARK,), State("sentence", at.topic))]
    return [Option(75, (FULL_STOP,), State("sentence", at.topic)), Option(25, (COMMA,), State("comma", at.topic))]
