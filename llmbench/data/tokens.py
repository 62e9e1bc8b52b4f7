"""Token files: a text, tokenized once and cached by its content, for the worker to map into memory."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from llmbench.data import vocabulary
from llmbench.data.blocks import blocks
from llmbench.data.text import Split, Text
from llmbench.data.vocabulary import SPECIAL, Kind
from llmbench.errors import UserError
from llmbench.paths import cache_folder, locked

FORMAT = 1
"""Of a cache entry, and of how a text is cut and encoded: a new number leaves all older entries unread."""

_BLOCKS_AT_ONCE = 64
_TRAIN, _VALID, _TOKENIZER, _FACTS = "train.int32", "valid.int32", "tokenizer.json", "facts.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class TokenFiles:
    """A tokenized text. Token files are little-endian int32, without a header.

    Args:
        text: name of the text.
        vocab_size: of the tokenizer; may be less than was asked for.
        special: id of each special token.
        sha256: of both token files and the tokenizer.
        floor: nats per held-out token that a perfect model of the source would reach: -ln P(text) / tokens, as no two
            texts have the same tokens. None where the source is unknown, and for WordPiece: it drops letter case and
            spaces, and a masked model is asked another question.
        bytes_per_token: of the held-out text.
    """

    text: str
    train: Path
    valid: Path
    tokenizer: Path
    train_tokens: int
    valid_tokens: int
    vocab_size: int
    special: dict[str, int]
    sha256: str
    floor: float | None
    bytes_per_token: float


def prepare(
    text: Text, kind: Kind, vocab_size: int, tokenizer_text: Text | None = None, on_progress: Say = lambda message: None
) -> TokenFiles:
    """The token files of a text, from the cache or made now.

    Args:
        text: both its splits are tokenized.
        kind: of tokenizer.
        vocab_size: tokens that the tokenizer may have.
        tokenizer_text: what the tokenizer is trained on; by default ``text`` itself.
        on_progress: is told what is done now, when it takes time.

    Raises:
        UserError: ``vocab_size`` is too small, or the cache cannot be written.
    """
    teacher = None
    if tokenizer_text is not None and tokenizer_text.sha256 != text.sha256:
        teacher = prepare(tokenizer_text, kind, vocab_size, on_progress=on_progress)
    identity = [FORMAT, tokenizers.__version__, kind, vocab_size, text.sha256, teacher and teacher.sha256]
    entry = cache_folder() / "tokens" / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    try:
        entry.parent.mkdir(exist_ok=True)
        with locked(entry, lambda: on_progress("waiting for another llmbench that tokenizes the same text")):
            facts = _read(entry, on_progress)
            if facts is None:
                _make(entry, text, kind, vocab_size, teacher, on_progress)
                facts = json.loads((entry / _FACTS).read_text())
    except OSError as error:
        raise UserError(
            f"cannot keep token files in {entry.parent}: {error.strerror}",
            "set LLMBENCH_CACHE to a folder with space that you may write",
        ) from None
    return _token_files(entry, text, kind, facts)


def require(files: TokenFiles, *, batch_tokens: int, sequence: int, what: str) -> None:
    """Checks that there is a batch to train on and a sequence to evaluate on, each with the token that follows it.

    Args:
        files: the text.
        batch_tokens: tokens of one training batch, a multiple of ``sequence``.
        sequence: tokens of one sequence.
        what: who needs them, e.g. ``gpt-tiny``.

    Raises:
        UserError: the text is too short.
    """
    longer = "name a longer text with --data"
    if files.train_tokens < batch_tokens + 1:
        fitting = (files.train_tokens - 1) // sequence
        raise UserError(
            f"{files.text} has {files.train_tokens} tokens for training; {what} needs at least {batch_tokens + 1} "
            f"({batch_tokens // sequence} × {sequence} + 1)",
            f"{longer}, or make the batch smaller: --set micro_batch_size={fitting}" if fitting >= 1 else longer,
        )
    if files.valid_tokens < sequence + 1:
        raise UserError(
            f"{files.text} has {files.valid_tokens} held-out tokens; {what} needs at least {sequence + 1} "
            f"({sequence} + 1)",
            longer,
        )


def _read(entry: Path, say: Say) -> dict[str, Any] | None:
    """What is known of an entry; None where there is none, or one that was damaged since it was made."""
    if not entry.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads((entry / _FACTS).read_text())
        if facts["sha256"] == _digest(entry):
            return facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f": {error}"
    else:
        reason = ""
    say(f"the cached tokens in {entry} are damaged{reason}; making them anew")
    return None


def _digest(entry: Path) -> str:
    digests = []
    for name in (_TRAIN, _VALID, _TOKENIZER):
        with open(entry / name, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _make(entry: Path, text: Text, kind: Kind, vocab_size: int, teacher: TokenFiles | None, say: Say) -> None:
    """Makes an entry elsewhere and moves it into its place in one step: a kill leaves a whole entry or none."""
    for left_by_a_kill in entry.parent.glob(f"{entry.name}.*.tmp"):
        shutil.rmtree(left_by_a_kill)
    with tempfile.TemporaryDirectory(prefix=f"{entry.name}.", suffix=".tmp", dir=entry.parent) as temporary:
        new = Path(temporary) / "entry"
        new.mkdir()
        if teacher is None:
            say(f"training a {kind} tokenizer on {text.name}")
            tokenizer = vocabulary.train(text.train.read(), kind, vocab_size)
        else:
            tokenizer = tokenizers.Tokenizer.from_file(str(teacher.tokenizer))
        tokenizer.save(str(new / _TOKENIZER))
        _encode(tokenizer, text.train, new / _TRAIN, f"encoding {text.name} for training", say)
        _encode(tokenizer, text.valid, new / _VALID, f"encoding {text.name}, held-out part", say)
        facts = {"sha256": _digest(new), "vocab_size": tokenizer.get_vocab_size()}
        (new / _FACTS).write_text(json.dumps(facts))
        if entry.exists():
            shutil.rmtree(entry)
        new.rename(entry)


def _encode(tokenizer: tokenizers.Tokenizer, split: Split, file: Path, doing: str, say: Say) -> None:
    done = 0
    waiting: list[str] = []

    def write(out: Any) -> None:
        for encoding in tokenizer.encode_batch(waiting, add_special_tokens=False):
            ids = array("i", encoding.ids)
            if sys.byteorder == "big":
                ids.byteswap()
            ids.tofile(out)

    with open(file, "wb") as out:
        for block in blocks(split.read(), vocabulary.BLOCK_BYTES):
            waiting.append(block.decode())
            done += len(block)
            if len(waiting) == _BLOCKS_AT_ONCE or done == split.size:
                write(out)
                waiting.clear()
                say(f"{doing}: {done / split.size:.0%}")


def _token_files(entry: Path, text: Text, kind: Kind, facts: dict[str, Any]) -> TokenFiles:
    train_tokens, valid_tokens = ((entry / name).stat().st_size // 4 for name in (_TRAIN, _VALID))
    nats = text.valid.nats if kind == "bpe" else None
    per_token = max(valid_tokens, 1)  # without tokens, `require` refuses the text
    return TokenFiles(
        text=text.name,
        train=entry / _TRAIN,
        valid=entry / _VALID,
        tokenizer=entry / _TOKENIZER,
        train_tokens=train_tokens,
        valid_tokens=valid_tokens,
        vocab_size=facts["vocab_size"],
        special={token: index for index, token in enumerate(SPECIAL[kind])},
        sha256=facts["sha256"],
        floor=None if nats is None else nats / per_token,
        bytes_per_token=text.valid.size / per_token,
    )
