"""Folders with runs and comparisons below some place: a local folder, or a URL of an object store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmbench.errors import UserError

Location = Path | str
"""A path on this machine, or a URL without its password."""

FILES = {"run.json": "records.jsonl", "ab.json": "sessions.jsonl"}
"""What makes a folder a run or a comparison, and what lies beside it. Nothing else is read."""
_AN = {"run.json": "a run.json", "ab.json": "an ab.json"}
OURS = frozenset({"series", "logs", "evidence"})
"""Folders of a run, in which no other run lies."""


@dataclass(frozen=True)
class Fault:
    """What could not be read."""

    path: Location
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}{f', line {self.line}' if self.line else ''}: {self.message}"


class Folder(Protocol):
    """A folder that holds one of ``FILES``.

    Attributes:
        kind: that file.
        has_report: whether a ``report.html`` lies on this machine.
    """

    @property
    def location(self) -> Location: ...

    @property
    def kind(self) -> str: ...

    @property
    def has_report(self) -> bool: ...

    def read(self, name: str) -> bytes:
        """Raises: OSError: it is not there, or cannot be read."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    location: Path
    kind: str
    has_report: bool

    def read(self, name: str) -> bytes:
        return (self.location / name).read_bytes()


@dataclass
class Names:
    """What lies in a folder: all names, and those of folders."""

    every: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str | None:
        return next((name for name in FILES if name in self.every), None)

    @property
    def stray(self) -> str | None:
        """What lies here without the file that would say what it is."""
        return next((f"{rest} without {_AN[name]}" for name, rest in FILES.items() if rest in self.every), None)

    def inner(self) -> list[str]:
        """Folders in which more may lie."""
        return sorted(name for name in self.folders if not (self.kind and name in OURS))


def join(location: Location, name: str) -> Location:
    return location / name if isinstance(location, Path) else f"{location}/{name}"


def _is_url(text: str) -> bool:
    return "://" in text or "::" in text


def folders_below(places: Sequence[Location], faults: list[Fault]) -> Iterator[Folder]:
    """Every folder with a run or a comparison, at any depth. What cannot be looked into is added to ``faults``.

    Raises:
        UserError: a place does not exist or is no folder, or a store cannot be opened.
    """
    here = [str(place).removeprefix("file://") for place in places]
    yield from _local_folders([Path(place) for place in here if not _is_url(place)], faults)
    for url in filter(_is_url, here):
        from llmbench.results.objects import stored_folders

        yield from stored_folders(url, faults)


def _local_folders(places: Sequence[Path], faults: list[Fault]) -> Iterator[LocalFolder]:
    """Links are followed, but none in a circle."""
    for place in places:
        try:
            if not stat.S_ISDIR(os.stat(place).st_mode):
                raise UserError(f"{place} is no folder", "name a folder with runs; one page: llmbench report")
        except OSError as error:
            raise UserError(f"{place}: {error.strerror}", "name a folder with runs, e.g. reports/runs") from None
    seen: set[tuple[int, int]] = set()
    waiting = list(reversed(places))
    while waiting:
        folder = waiting.pop()
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            names = _listed(folder, faults)
        except OSError as error:
            faults.append(Fault(folder, error.strerror or str(error)))
            continue
        if names.kind:
            yield LocalFolder(folder, names.kind, "report.html" in names.every)
        elif names.stray:
            faults.append(Fault(folder, names.stray))
        waiting += [folder / name for name in reversed(names.inner())]


def _listed(folder: Path, faults: list[Fault]) -> Names:
    names = Names()
    with os.scandir(folder) as entries:
        for entry in entries:
            names.every.add(entry.name)
            try:
                if entry.is_dir():
                    names.folders.append(entry.name)
            except OSError as error:
                faults.append(Fault(folder / entry.name, error.strerror or str(error)))
    return names
