"""``llmbench doctor``: names every fault of an environment, its cause and its fix."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from llmbench.errors import UserError

if TYPE_CHECKING:
    from llmbench.doctor.runner import Event


def _complete_area(incomplete: str) -> list[str]:
    from llmbench.doctor.checks import AREAS

    return [area for area in AREAS if area.startswith(incomplete)]


def doctor(
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="Interpreter to judge (this one); llmbench need not be installed there."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="AREA",
            help="Only this area or check, and what it needs; may be repeated.",
            autocompletion=_complete_area,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning too.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Do slow, thorough work too.")] = False,
) -> None:
    """Check this environment: does PyTorch work here, and if not, why, and what mends it?

    Exit code 0: nothing failed; 1: something did, or with --strict warned.

    For example:

        llmbench doctor

        llmbench doctor --python .venv/bin/python --only compile --only storage

        llmbench doctor --json > doctor.json
    """
    from llmbench.doctor.runner import diagnose

    with _Progress(sys.stderr) as progress:
        diagnosis = diagnose(python, only or (), deep=deep, on_event=progress)
    document = diagnosis.to_json()
    if html:
        _write_page(html, document)
    _print(_json(document) if as_json else _text(document))
    raise typer.Exit(diagnosis.exit_code(strict))


def _json(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _text(document: dict[str, Any]) -> str:
    from llmbench.doctor.render import text

    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return text(document, shutil.get_terminal_size((100, 24)).columns, on_terminal)


def _write_page(file: Path, document: dict[str, Any]) -> None:
    from llmbench.report import doctor_page
    from llmbench.results.store import write_atomically

    try:
        write_atomically(file, doctor_page(document))
    except OSError as error:
        raise UserError(f"--html {file}: {error.strerror}", "name a file in a folder that can be written") from None


def _print(text: str) -> None:
    """To stdout, whatever its encoding; to nowhere if it is closed, since the exit code is an answer too.

    Raises:
        UserError: it cannot be written, e.g. because the disk is full.
        BrokenPipeError: the reader has gone.
    """
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "ascii"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What could not be written stays buffered, and would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise UserError(f"cannot write to standard output: {error.strerror}") from None


class _Progress:
    """In a terminal one line that says what runs, gone at the end; nothing elsewhere, where nobody waits for it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._running: list[str] = []
        self._done = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *details: object) -> None:
        self._write("")

    def __call__(self, event: Event) -> None:
        from llmbench.doctor.runner import Started

        if isinstance(event, Started):
            self._running.append(event.check.id)
        else:
            self._done += 1
            if event.answer.check.id in self._running:
                self._running.remove(event.answer.check.id)
        columns = shutil.get_terminal_size((80, 24)).columns
        self._write(f"{self._done}/{event.total} {', '.join(self._running)}"[: columns - 1])

    def _write(self, line: str) -> None:
        if self._stream is not None:
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()
