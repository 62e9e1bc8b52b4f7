"""Runs in object stores and on other machines, through fsspec: listed by folder and read in place, many at once.

A round trip takes tens of milliseconds, so what counts is how many are under way. A driver of fsspec may raise whatever
its protocol's library does: every exception of one is told as a fault here, or as a ``UserError`` where it is of the
place that was named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from llmbench.errors import UserError
from llmbench.results.redact import redact
from llmbench.results.tree import FILES, Fault, Names

AT_ONCE = 32
"""Round trips under way; a driver may allow fewer."""
_LONGEST = 300  # characters that are told of a driver's message
_CREDENTIALS = "is it there, and do the credentials that its driver finds in the environment allow to list it?"


@dataclass(frozen=True)
class StoredFolder:
    """A folder with a run or a comparison, fetched."""

    location: str
    kind: str
    contents: dict[str, bytes | OSError]
    has_report: bool = False  # none that a page could link to

    def read(self, name: str) -> bytes:
        found = self.contents.get(name, FileNotFoundError(name))
        if isinstance(found, OSError):
            raise found
        return found


@dataclass(frozen=True)
class _Listing:
    """What a folder answered: its entries, or why there are none."""

    folder: str
    entries: list[dict[str, Any]]
    error: Exception | None = None


_Answer = _Listing | StoredFolder


def stored_folders(url: str, faults: list[Fault]) -> Iterator[StoredFolder]:
    """Every folder with a run or a comparison below a URL, in the order of the answers.

    Raises:
        UserError: fsspec or the driver is not installed, the URL cannot be opened or listed, or is no folder.
    """
    shown = redact(url.rstrip("/"))
    store, root = _opened(url, shown)
    yield from _walked(store, root, shown, faults)


def _opened(url: str, shown: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(
            f"{shown}: URLs need fsspec, which is not installed",
            "pip install 'llmbench[cloud]' and the driver, e.g. s3fs for s3://, gcsfs for gs://, adlfs for az://",
        ) from None
    try:
        store, root = url_to_fs(url)
        store.invalidate_cache()
    except ImportError as error:
        raise UserError(f"{shown}: its driver is not installed: {_told(error)}", "install it beside llmbench") from None
    except ValueError as error:
        raise UserError(f"{shown}: {_told(error)}", "a URL such as s3://bucket/nightly, or a folder") from None
    except Exception as error:
        raise UserError(f"{shown} cannot be opened: {_told(error)}", _CREDENTIALS) from None
    return store, root.rstrip("/")


def _walked(store: Any, root: str, shown: str, faults: list[Fault]) -> Iterator[StoredFolder]:
    answers: SimpleQueue[_Answer] = SimpleQueue()
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="llmbench-history")

    def ask(task: Callable[..., _Answer], *arguments: Any) -> None:
        pool.submit(lambda: answers.put(task(store, *arguments)))

    def named(folder: str) -> str:
        inner = folder.removeprefix(root).strip("/")
        return f"{shown}/{inner}" if inner else shown

    ask(_list, root)
    asked = 1
    try:
        while asked:
            answer = answers.get()
            asked -= 1
            if isinstance(answer, StoredFolder):
                yield answer
                continue
            names = _names(answer)
            if answer.folder == root:
                _check_root(answer, names, shown)
            if answer.error is not None:
                faults.append(Fault(named(answer.folder), f"cannot be listed: {_told(answer.error)}"))
            if names.kind:
                wanted = [name for name in (names.kind, FILES[names.kind]) if name in names.every]
                ask(_fetch, answer.folder, named(answer.folder), names.kind, wanted)
                asked += 1
            elif names.stray:
                faults.append(Fault(named(answer.folder), names.stray))
            for name in names.inner():
                ask(_list, f"{answer.folder}/{name}" if answer.folder else name)
                asked += 1
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _check_root(answer: _Listing, names: Names, shown: str) -> None:
    if answer.error is not None:
        raise UserError(f"{shown} cannot be listed: {_told(answer.error)}", _CREDENTIALS)
    itself = [entry for entry in answer.entries if _path(entry) == answer.folder.strip("/")]
    if not names.every and any(entry.get("type") == "file" and entry.get("size") for entry in itself):
        raise UserError(f"{shown} is no folder", "name what holds the folders of the runs")


def _list(store: Any, folder: str) -> _Listing:
    try:
        return _Listing(folder, store.ls(folder, detail=True))
    except Exception as error:
        return _Listing(folder, [], error)


def _fetch(store: Any, folder: str, shown: str, kind: str, names: list[str]) -> StoredFolder:
    contents: dict[str, bytes | OSError] = {}
    for name in names:
        try:
            contents[name] = store.cat_file(f"{folder}/{name}" if folder else name)
        except FileNotFoundError:
            contents[name] = OSError("gone since it was listed")
        except Exception as error:
            contents[name] = OSError(_told(error))
    return StoredFolder(shown, kind, contents)


def _names(answer: _Listing) -> Names:
    """Of what lies in the folder itself: neither the empty object that stands for it, nor what a page links to."""
    names = Names()
    above = f"{answer.folder.strip('/')}/".lstrip("/")
    for entry in answer.entries:
        path = _path(entry)
        inner = path.removeprefix(above)
        if not inner or "/" in inner or path != above + inner:
            continue
        names.every.add(inner)
        if entry.get("type") == "directory":
            names.folders.append(inner)
    return names


def _path(entry: dict[str, Any]) -> str:
    return str(entry.get("name", "")).strip("/")


def _told(error: Exception) -> str:
    """An exception in one line, without secrets; by its name where it is none that was meant for people."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    plain = text and isinstance(error, ImportError | ValueError)
    return redact(text if plain else f"{type(error).__name__}: {text}".rstrip(": "))[:_LONGEST]
