"""A run as text in a log: how it leaves a pod that nobody can reach into any more."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llmbench.errors import UserError

BEGIN = "-----BEGIN LLMBENCH RUN-----"
END = "-----END LLMBENCH RUN "
LINE = 4000  # characters; runtimes of containers cut longer ones at 16 KiB
# Nodes keep the last 10 MiB of a log (containerLogMaxSize), and the rest of it wants a place there, too.
MOST_BYTES = 6_000_000
MOST_UNPACKED = 1_000_000_000
# What a run cannot do without comes first; what there is no room for is left out whole.
_ORDER = ("run.json", "records.jsonl", "series/", "evidence/", "logs/")


def pack(run: Path, most_bytes: int = MOST_BYTES) -> tuple[list[str], list[str]]:
    """The lines of a run, and the files that there was no room for.

    The page is not packed: it is made of the rest.

    Raises:
        UserError: there is no run.
    """
    if not (run / "run.json").is_file():
        raise UserError(f"{run} is not a run", "name the folder that `llmbench run` wrote (its --out)")
    left_out: list[str] = []
    buffer = io.BytesIO()
    budget = most_bytes * 3 // 4  # base64 makes four characters of three bytes
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in _files(run):
            content = (run / name).read_bytes()
            needed = min(_compressed(content), len(content)) + 2 * len(name) + 200
            if buffer.tell() + needed > budget:
                left_out.append(name)
                continue
            archive.writestr(name, content)
    content = buffer.getvalue()
    text = base64.b64encode(content).decode()
    lines = [text[start : start + LINE] for start in range(0, len(text), LINE)]
    return [BEGIN, *lines, f"{END}{hashlib.sha256(content).hexdigest()}-----"], left_out


def unpack(log: Iterable[str], folder: Path) -> bool:
    """Writes the last run of a log into a folder; whether there is one.

    Raises:
        UserError: it is damaged.
    """
    found = _last(log)
    if found is None:
        return False
    lines, digest = found
    try:
        content = base64.b64decode("".join(lines), validate=True)
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError("the run in the log of node 0 is damaged: its checksum is another", None)
        _extract(content, folder)
    except (binascii.Error, zipfile.BadZipFile) as error:
        raise UserError(f"the run in the log of node 0 is damaged: {error}", None) from None
    return True


def _extract(content: bytes, folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > MOST_UNPACKED:
            raise UserError(f"the run in the log of node 0 would be {size / 1e9:.1f} GB", None)
        # extract() follows no path out of the folder, and makes no links.
        archive.extractall(folder)


def _last(log: Iterable[str]) -> tuple[list[str], str] | None:
    found: tuple[list[str], str] | None = None
    lines: list[str] | None = None
    for line in log:
        line = line.strip()
        end = re.fullmatch(re.escape(END) + r"([0-9a-f]{64})-----", line)
        if line == BEGIN:
            lines = []
        elif end and lines is not None:
            found, lines = (lines, end[1]), None
        elif lines is not None and re.fullmatch(r"[A-Za-z0-9+/]+=*", line):  # others may write between the lines
            lines.append(line)
    return found


def without(log: Iterable[str]) -> Iterator[str]:
    """The lines of a log without those of a run."""
    inside = False
    for line in log:
        if line.strip() == BEGIN:
            inside = True
        elif line.startswith(END):
            inside = False
        elif not inside:
            yield line


def _files(run: Path) -> Sequence[str]:
    names = [str(path.relative_to(run)) for path in sorted(run.rglob("*")) if path.is_file() and not path.is_symlink()]
    kept = [name for name in names if name.startswith(_ORDER)]
    return sorted(kept, key=lambda name: next(rank for rank, start in enumerate(_ORDER) if name.startswith(start)))


def _compressed(content: bytes) -> int:
    import zlib

    return len(zlib.compress(content, 9))
