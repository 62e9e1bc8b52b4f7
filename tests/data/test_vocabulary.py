"""Tokenizers: lossless or BERT's, and the same in every process."""

import os
import subprocess
import sys

import pytest

from llmbench.data import corpus, vocabulary
from llmbench.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def text() -> bytes:
    return corpus.generate().valid.text.encode()


def test_bpe_is_lossless_on_any_text(text: bytes) -> None:
    tokenizer = vocabulary.train(text, "bpe", 512)
    for sample in ("  Naïve 漢字 🤗\r\n\n\tend ", text.decode()[:2000]):
        assert tokenizer.decode(tokenizer.encode(sample).ids) == sample
    assert tokenizer.get_vocab_size() == 512
    assert tokenizer.token_to_id("<|endoftext|>") == 0


def test_bpe_learns_whole_words(text: bytes) -> None:
    tokens = vocabulary.train(text, "bpe", 1024).encode(text.decode()).tokens
    assert len(text) / len(tokens) > 3
    assert "Ġsto" in tokens


def test_wordpiece_is_that_of_bert(text: bytes) -> None:
    tokenizer = vocabulary.train(text, "wordpiece", 512)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer.get_vocab_size() == 512
    assert tokenizer.encode("Sto, STO").tokens == ["sto", ",", "sto"]
    assert tokenizer.encode("sto [MASK] 漢").tokens == ["sto", "[MASK]", "[UNK]"]
    assert tokenizer.encode("x" * 101).tokens == ["[UNK]"]
    sample = text.decode().splitlines()[0].split(" ")[0].lower()
    assert tokenizer.decode(tokenizer.encode(sample).ids) == sample


def test_text_that_looks_like_a_piece_of_a_word_is_not_special(text: bytes) -> None:
    tokenizer = vocabulary.train(text + b"### ##a\n" * 50, "wordpiece", 512)
    assert tokenizer.encode("##a").tokens == ["#", "#", "a"]
    assert sorted(token.content for token in tokenizer.get_added_tokens_decoder().values()) == sorted(SPECIAL)


def test_rare_letters_do_not_fill_the_vocabulary_of_wordpiece() -> None:
    rare = "".join(chr(0x4E00 + i) for i in range(5000))
    tokenizer = vocabulary.train((rare + " " + "the other word " * 500).encode(), "wordpiece", 256)
    assert tokenizer.get_vocab_size() <= 256
    assert tokenizer.encode("the other word").tokens == ["the", "other", "word"]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_short_text_gives_a_smaller_vocabulary(kind: vocabulary.Kind) -> None:
    assert vocabulary.train(b"so short a text", kind, 4096).get_vocab_size() < 300


@pytest.mark.parametrize(("kind", "least"), [("bpe", 257), ("wordpiece", 64)])
def test_a_vocabulary_too_small_is_refused(kind: vocabulary.Kind, least: int, text: bytes) -> None:
    with pytest.raises(UserError, match=f"vocabulary of {least - 1} is too small"):
        vocabulary.train(text, kind, least - 1)
    assert vocabulary.train(text, kind, least).get_vocab_size() == least


def test_only_the_beginning_of_a_huge_text_is_learnt_from(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "TRAIN_BYTES", vocabulary.BLOCK_BYTES)
    beginning = text[: vocabulary.BLOCK_BYTES]
    beginning = beginning[: beginning.rindex(b"\n") + 1]
    assert vocabulary.train(text, "bpe", 512).to_str() == vocabulary.train(beginning, "bpe", 512).to_str()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_every_process_trains_the_same_tokenizer(kind: str) -> None:
    # Few words of equal frequency: nearly every merge is a tie, and letters compete for the last places.
    code = (
        "import hashlib\n"
        "from llmbench.data import vocabulary\n"
        "words = ' '.join(a + b + c + d for a in 'bdfgkl' for b in 'aeiou' for c in 'mnprst' for d in 'aeo')\n"
        "letters = ' '.join(chr(0x4e00 + i) for i in range(200))\n"
        f"tokenizer = vocabulary.train((words + letters).encode(), '{kind}', 400)\n"
        "print(sorted(tokenizer.get_vocab().items()), tokenizer.to_str())\n"
    )
    settings = [("0", "false", "1"), ("1", "true", "1"), ("2", "true", "2"), ("3", "true", "4"), ("4", "true", "3")]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for seed, parallel, threads in settings
    }
    assert len(outputs) == 1
