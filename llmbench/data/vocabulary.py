"""Tokenizers trained on the text at hand: byte-level BPE for GPT, WordPiece for BERT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llmbench.data.blocks import blocks
from llmbench.errors import UserError

Kind = Literal["bpe", "wordpiece"]

SPECIAL: dict[Kind, tuple[str, ...]] = {
    "bpe": ("<|endoftext|>",),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
}
"""Special tokens of each kind, with ids from 0 in this order."""

SMALLEST: dict[Kind, int] = {"bpe": 256 + len(SPECIAL["bpe"]), "wordpiece": 64}
"""Least vocabulary: every byte has a token in BPE; WordPiece would be left with hardly a letter."""

BLOCK_BYTES = 1 << 13
"""Text goes into the library in pieces of this size: it is slower on longer strings."""

TRAIN_BYTES = 32 << 20
"""A tokenizer is trained on this much from the beginning of the text: more would hardly change its merges."""

_PREFIX = "##"
_LONGEST_WORD = 100  # as in BERT; a longer one becomes [UNK]


def train(text: bytes, kind: Kind, vocab_size: int) -> Tokenizer:
    """Trains a tokenizer on UTF-8 text. The same text gives the same tokenizer in every process.

    It has at most ``vocab_size`` tokens, and fewer when the text is too short for so many merges.

    Raises:
        UserError: ``vocab_size`` is less than ``SMALLEST``.
    """
    if vocab_size < SMALLEST[kind]:
        raise UserError(f"a {kind} vocabulary of {vocab_size} is too small", f"{SMALLEST[kind]} is the least")
    return _bpe(text, vocab_size) if kind == "bpe" else _wordpiece(text, vocab_size)


def _beginning(text: bytes) -> Iterator[str]:
    return (block.decode() for block in islice(blocks(text, BLOCK_BYTES), TRAIN_BYTES // BLOCK_BYTES))


def _bpe(text: bytes, vocab_size: int) -> Tokenizer:
    """GPT-2's tokenizer (Radford et al. 2019): BPE over bytes, so that no text is unknown and decoding is lossless."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL["bpe"]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_beginning(text), trainer)
    return tokenizer


def _wordpiece(text: bytes, vocab_size: int) -> Tokenizer:
    """BERT's uncased tokenizer (Devlin et al. 2019).

    The library's trainer gives ids to letters inside a word ("##a") in the order of a randomly seeded hash map, and
    breaks ties between merges by id, so it trains another tokenizer in every process
    (github.com/huggingface/tokenizers/issues/1794). Given those letters as special tokens, it has no id left to choose;
    the vocabulary that it finds is then moved into a tokenizer in which they are not special.
    """
    special = list(SPECIAL["wordpiece"])
    letters = _letters(text, vocab_size)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=special + [_PREFIX + letter for letter in letters],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    learner = _bert({})
    learner.train_from_iterator(_beginning(text), trainer)
    tokenizer = _bert(learner.get_vocab())
    tokenizer.add_special_tokens(special)
    return tokenizer


def _bert(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece(
            vocab=vocabulary,
            unk_token="[UNK]",  # noqa: S106
            max_input_chars_per_word=_LONGEST_WORD,
            continuing_subword_prefix=_PREFIX,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    return tokenizer


def _letters(text: bytes, vocab_size: int) -> list[str]:
    """The most frequent characters, sorted: at most so many that they and their "##" forms fill half the vocabulary."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for block in _beginning(text):
        counts.update(normalizer.normalize_str(block))
    frequent = sorted((-count, letter) for letter, count in counts.items() if not letter.isspace())
    return sorted(letter for _, letter in frequent[: vocab_size // 4])
