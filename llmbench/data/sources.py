"""From ``--data`` to a text: the generated corpus, a file, a folder, or WikiText from Hugging Face."""

from __future__ import annotations

import difflib
import os
import re
import stat
from pathlib import Path

from llmbench.data import corpus
from llmbench.data.blocks import blocks, cut
from llmbench.data.text import Split, Text
from llmbench.errors import UserError

TEXT_SUFFIXES = (".txt", ".text", ".tokens", ".raw")
HELD_OUT = 0.05
"""Share of a text that is held out where its files do not say what to hold out."""

_SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
_WIKITEXT = {"wikitext-2": "wikitext-2-raw-v1", "wikitext-103": "wikitext-103-raw-v1"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHECKED_BYTES = 1 << 24


def load(data: str | None) -> Text:
    """The text that ``--data`` names; None is the generated corpus.

    Raises:
        UserError: no such path, no text there, not UTF-8, not readable; or WikiText cannot be had.
    """
    if data is None:
        return generated("default")
    if not data:
        raise UserError("--data is empty", "name a file or folder of UTF-8 text, or leave --data out")
    path = Path(data).expanduser()
    if data in _WIKITEXT and not path.exists():
        return _wikitext(data)
    return _folder(path, data) if stat.S_ISDIR(_mode(path)) else _whole([path], path.stem, data)


def generated(dialect: str) -> Text:
    """The generated corpus of a dialect (``corpus.DIALECTS``), which is generated when a split of it is read."""

    def split(part: str) -> Split:
        def read() -> bytes:
            made: corpus.Written = getattr(corpus.generate(dialect), part)
            return made.text.encode()

        size, sha256, nats = corpus.FACTS[dialect][part]
        return Split(size, sha256, read, (f"generated corpus, dialect {dialect}",), nats)

    name = "generated" if dialect == "default" else f"generated ({dialect})"
    return Text(name, None, split("train"), split("valid"))


def _folder(folder: Path, data: str) -> Text:
    """Train and held-out files by their names; without such names, the last part of everything is held out."""
    files = _text_files(folder)
    parts: dict[str, list[Path]] = {"train": [], "valid": [], "test": []}
    for file in files:
        if part := _part(file):
            parts[part].append(file)
    name = folder.resolve().name
    match [part for part, found in parts.items() if found]:
        case ["train", held_out, *_]:
            return _pair(parts["train"], parts[held_out], name, data)
        case ["valid", "test"]:
            return _pair(parts["valid"], parts["test"], name, data)
        case ["train"]:
            return _whole(parts["train"], name, data)
        case _:
            return _whole(files, name, data)


def _text_files(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from None
    files = [folder / name for name in names if name.lower().endswith(TEXT_SUFFIXES) and not name.startswith(".")]
    files = [file for file in files if not file.is_dir()]
    if not files:
        looked_for = ", ".join(f"*{suffix}" for suffix in TEXT_SUFFIXES)
        raise UserError(f"--data {folder}: no text file in this folder", f"looked for {looked_for}, not in subfolders")
    return files


def _part(file: Path) -> str | None:
    """Which split a file belongs to by its name, e.g. ``wiki.train.tokens`` or ``valid-00001-of-00002.txt``."""
    named = (_SPLIT_NAMES.get(word) for word in re.split(r"[._-]", file.name.lower()))
    return next((part for part in named if part), None)


def _pair(train: list[Path], valid: list[Path], name: str, data: str) -> Text:
    return Text(name, data, Split.of(_read_all(train), *_names(train)), Split.of(_read_all(valid), *_names(valid)))


def _whole(files: list[Path], name: str, data: str) -> Text:
    """One text, whose last part is held out."""
    text = _read_all(files)
    held_out = int(len(text) * HELD_OUT)
    if not held_out:
        raise UserError(
            f"--data {data}: {len(text)} bytes are too short to hold {HELD_OUT:.0%} out", "name a longer text"
        )
    # A cut at a line end may hold out somewhat more than its share, but never more than double.
    end = cut(text, len(text) - 2 * held_out, len(text) - held_out)
    origin = _names(files)
    return Text(
        name,
        data,
        Split.of(text[:end], *origin, f"all but the last {HELD_OUT:.0%}"),
        Split.of(text[end:], *origin, f"the last {HELD_OUT:.0%}"),
    )


def _names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def _read_all(files: list[Path]) -> bytes:
    """The files one after the other."""
    text = b"".join(_read(file) for file in files)
    if not text.strip():
        raise UserError(
            f"--data: {', '.join(map(str, files))}: nothing but white space", "name a file or folder of UTF-8 text"
        )
    return text


def _read(file: Path) -> bytes:
    """A file of UTF-8 text, without a byte order mark; line ends stay as they are, so that the bytes are the file's."""
    if not stat.S_ISREG(_mode(file)):
        raise UserError(f"--data {file}: not a regular file", "name a file or folder of UTF-8 text")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None
    _check_utf8(file, data)
    return data.removeprefix(_BYTE_ORDER_MARK)


def _check_utf8(file: Path, data: bytes) -> None:
    offset = 0
    for block in blocks(data, _CHECKED_BYTES):
        try:
            block.decode()
        except UnicodeDecodeError as error:
            at = offset + error.start
            raise UserError(
                f"--data {file}: not UTF-8 text: byte {data[at]:#04x} at offset {at}: {error.reason}",
                f"convert it: iconv -f LATIN1 -t UTF-8 {file.name} > utf8.txt (with the encoding that it has)",
            ) from None
        offset += len(block)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"--data {path}: no such file or folder", _near(path)) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _near(path: Path) -> str:
    """What there is instead of a missing path."""
    missing = path
    while missing.parent != missing and not missing.parent.is_dir():
        missing = missing.parent
    try:
        siblings = sorted(os.listdir(missing.parent))
    except OSError:
        siblings = []
    if close := difflib.get_close_matches(missing.name, [*siblings, *_WIKITEXT], n=3, cutoff=0.5):
        return f"did you mean {' or '.join(close)}?"
    return f"there is no {missing.name} in {missing.parent}"


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"--data {path}: cannot be read: {error.strerror}", "name a file or folder that you may read")


def _wikitext(name: str) -> Text:
    """WikiText (Merity et al. 2016), detokenized as little as it comes, from Hugging Face."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"--data {name}: no such path, and the package datasets that would download it is not installed",
            "pip install 'llmbench[hf]', or name a file or folder of text: --data FOLDER",
        ) from None
    try:
        splits = load_dataset("Salesforce/wikitext", _WIKITEXT[name])
        train, valid = ("".join(splits[part]["text"]).encode() for part in ("train", "validation"))
    except Exception as error:  # the package raises errors of its own, of requests, of pyarrow, of the file system …
        raise UserError(
            f"--data {name}: the download failed: {type(error).__name__}: {error}",
            "without a network, name a file or folder of text: --data FOLDER",
        ) from None
    origin = f"Hugging Face Salesforce/wikitext {_WIKITEXT[name]}"
    return Text(name, name, Split.of(train, f"{origin}, train"), Split.of(valid, f"{origin}, validation"))
