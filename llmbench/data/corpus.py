"""The generated corpus: text of a known source, so that the loss of a perfect model is known too.

The text is a function of this package's code alone: the same bytes on every machine and Python version.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from llmbench.data.chain import Node, source
from llmbench.data.grammar import Dialect
from llmbench.data.lexicon import draws

TRAIN_BYTES = 1_000_000
VALID_BYTES = 100_000

DIALECTS = {"default": Dialect("default", shift=0), "base": Dialect("base", shift=5)}
"""``base`` is what the base model of LoRA learns first: the same words and grammar, other frequencies and other verbs,
adjectives and prepositions to a topic."""


class Facts(NamedTuple):
    """What is known of a split without generating it."""

    size: int
    """In bytes."""
    sha256: str
    nats: float
    """-ln P of the text under its source."""


@dataclass(frozen=True)
class Written:
    """A text of whole paragraphs, and -ln P of it under its source, in nats."""

    text: str
    nats: float

    @property
    def facts(self) -> Facts:
        data = self.text.encode()
        return Facts(len(data), hashlib.sha256(data).hexdigest(), self.nats)


@dataclass(frozen=True)
class Generated:
    """The two splits of a dialect; ``valid`` is what the source writes after ``train``."""

    train: Written
    valid: Written


FACTS = {
    "default": {
        "train": Facts(1_000_148, "5358f63af943d0c9901f2a5aa728fe05bbc362f165cc113d0cae835a7cbf366f", 504625.490),
        "valid": Facts(100_503, "0d1b7ba0cba5fc6bf7a7e43c8ab08b4039129df056ec4469f605e199635bc012", 50591.210),
    },
    "base": {
        "train": Facts(1_001_314, "6500af2fe18124283c3a5b1893af9d08fc516ef6d52f3d707eaa5006b54f66be", 503509.336),
        "valid": Facts(100_180, "a01a9321aefffc8b06ba8ea8ab09b466b844e910cbfbae32b40d87741fa3916c", 50540.909),
    },
}
"""Of each split of each dialect. They are written down so that a run whose token files are cached need not generate the
text; ``generate`` refuses to give any other."""


@cache
def generate(dialect: str = "default") -> Generated:
    """The corpus of a dialect (a key of ``DIALECTS``): about 1 MB to train on and 100 kB held out.

    Raises:
        RuntimeError: this Python did not generate the text that ``FACTS`` describes.
    """
    start = source(DIALECTS[dialect])[0]
    draw = draws(f"llmbench corpus 1 {dialect}").__next__
    made = Generated(_write(start, draw, TRAIN_BYTES), _write(start, draw, VALID_BYTES))
    for name, split in (("train", made.train), ("valid", made.valid)):
        if split.facts.sha256 != FACTS[dialect][name].sha256:
            raise RuntimeError(
                f"the generated corpus {dialect}/{name} differs from what corpus.FACTS says: {split.facts}"
            )
    return made


def _write(start: Node, draw: Callable[[], int], size: int) -> Written:
    """Whole paragraphs of at least ``size`` bytes."""
    node, pieces, written, nats = start, [], 0, 0.0
    while written < size or node is not start:
        option = node.options[bisect_right(node.distribution.cumulative, draw())]
        words = option.words.distribution
        word = bisect_right(words.cumulative, draw())
        piece = option.spelt[word]
        pieces.append(piece)
        written += len(piece)
        nats += option.nats + words.nats[word]
        node = option.target
    return Written("".join(pieces), nats)
