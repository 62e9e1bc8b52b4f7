"""How what is stored is written so that it survives, and read so that a fault is named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llmbench.errors import UserError
from llmbench.results.salvage import first_fault

_BEGINNING = b'{"schema_version":'

Model = TypeVar("Model", bound=BaseModel)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader sees the old text or the new one, never half of it, power cuts included."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _named(path), open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def append_line(path: Path, text: str) -> None:
    """Adds a line; on return it survives ``kill -9`` and a power cut."""
    with _named(path), open(path, "a+b") as file:
        # Who was killed in mid-write left half a line: end it, so that it cannot swallow this one.
        if file.tell() and _last_byte(file) != b"\n":
            file.write(b"\n")
        file.write(text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of the disk names the file: by itself it does so only when a file is opened."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # else it has words of its own, and shows no name
            error.filename = str(path)
        raise


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each with its number, from 1; none of a file that is not there.

    Raises:
        UserError: it is there and cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    yield from enumerate(data.splitlines(), start=1)


def torn(line: bytes) -> bool:
    """Whether a line is the beginning of a record, but not a whole one: what a kill in mid-write leaves.

    A power cut may leave zeros where the rest was to be.
    """
    line = line.rstrip(b"\0")
    if not line.startswith(_BEGINNING[: len(line)]):
        return False
    try:
        text = line.decode()
        json.loads(text)
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    except json.JSONDecodeError as error:
        # Where only the end is missing, all before it is right.
        return error.msg.startswith("Unterminated string") or len(text) - error.pos <= len("-Infinity")
    except (ValueError, RecursionError):
        return False
    return False


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return bytes(file.read(1))


def inside(folder: Path, name: str | None) -> Path | None:
    """A file of a folder by the name that a record gives; None for a name that leads out of the folder."""
    if not name:
        return None
    try:
        file = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or a loop of links
        return None
    return file if file.is_relative_to(folder.resolve()) else None


def last_lines(file: Path | None, amount: int) -> list[str]:
    """Of a text that somebody else wrote; none of a file that is not there."""
    if file is None:
        return []
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-amount:]


def parse(model: type[Model], text: bytes, file: Path) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise unreadable(error, file) from None


def unreadable(error: ValidationError, file: Path, line: int | None = None) -> UserError:
    where = f"{file}, line {line}" if line else str(file)
    return UserError(f"{where}: {first_fault(error)}", "the file was not written by this version of llmbench")
