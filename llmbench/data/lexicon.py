"""The invented words of the generated corpus: pronounceable, no two spelt alike, the same on every machine."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterator
from functools import cache
from typing import TypeAlias

TOPICS = 12
GENDERS = 2
VERB_KINDS = ("transitive", "prepositional", "intransitive")

Key: TypeAlias = tuple[str | int, ...]
"""Names a list of words: ``("noun", topic, gender)``, ``("verb", topic, kind, gender)``, ``("adverb", topic)`` …"""

_ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "br",
    "dr",
    "gl",
    "kr",
    "pl",
    "st",
    "tr",
)
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "", "l", "m", "n", "r", "s")
# What agreement looks like: one ending per gender.
_NOUN_ENDINGS = ("on", "ira")
_NAME_ENDINGS = ("us", "ia")
_ADJECTIVE_ENDINGS = ("ol", "ala")
_VERB_ENDINGS = ("ek", "ate")


def draws(seed: str) -> Iterator[int]:
    """Endless uniform 32-bit integers, a function of ``seed`` alone: SHAKE-256 (FIPS 202) of the seed and a counter."""
    for block in itertools.count():
        digest = hashlib.shake_256(f"{seed}/{block}".encode()).digest(1 << 16)
        yield from struct.unpack("<16384I", digest)


@cache
def lexicon() -> dict[Key, tuple[str, ...]]:
    """Every list of words. A word stands in one list only, so a reader knows from the word which list it came from."""
    stems = _stems()
    words: dict[Key, tuple[str, ...]] = {}

    def add(count: int, syllables: int, endings: tuple[str, ...], *keys: Key) -> None:
        """Adds a list per ending, all of them of the same new stems."""
        new = [next(stems[syllables]) for _ in range(count)]
        for key, ending in zip(keys, endings, strict=True):
            words[key] = tuple(stem + ending for stem in new)

    for gender in range(GENDERS):
        add(5, 1, ("",), ("determiner", gender))
    for name, count in (("question", 1), ("of", 1), ("connective", 8), ("conjunction", 4)):
        add(count, 1, ("",), (name,))
    for topic in range(TOPICS):
        add(1, 1, ("",), ("preposition", topic))
        for gender in range(GENDERS):
            add(40, 2, (_NOUN_ENDINGS[gender],), ("noun", topic, gender))
            add(4, 2, (_NAME_ENDINGS[gender],), ("name", topic, gender))
        add(14, 2, _ADJECTIVE_ENDINGS, *(("adjective", topic, gender) for gender in range(GENDERS)))
        for kind in VERB_KINDS:
            add(6, 2, _VERB_ENDINGS, *(("verb", topic, kind, gender) for gender in range(GENDERS)))
        add(8, 2, ("em",), ("adverb", topic))
    return words


def _stems() -> dict[int, Iterator[str]]:
    """Endless different stems, by number of syllables. A stem of two ends in a consonant, for an ending to follow."""
    draw = draws("llmbench lexicon 1").__next__

    def pick(letters: tuple[str, ...]) -> str:
        return letters[draw() % len(letters)]

    def one() -> Iterator[str]:
        while True:
            yield pick(_ONSETS) + pick(_VOWELS) + pick(_CODAS)

    def two() -> Iterator[str]:
        while True:
            yield pick(_ONSETS) + pick(_VOWELS) + pick(_CODAS) + pick(_ONSETS)

    return {1: _different(one()), 2: _different(two())}


def _different(words: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for word in words:
        if word not in seen:
            seen.add(word)
            yield word
