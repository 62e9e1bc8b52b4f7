"""``llmbench doctor``: names every fault of an environment, its cause and its fix."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from llmbench.cli.names import complete_check, complete_explained
from llmbench.errors import UserError

if TYPE_CHECKING:
    from llmbench.doctor.runner import Event

_WHAT = "What to ask"
_HOW = "How to ask"
_OUTPUT = "What to print (one of these)"
_BESIDE = "Beside it"


class _Output(StrEnum):
    """What goes to stdout, by its option."""

    text = "text"
    json = "--json"
    markdown = "--markdown"
    github = "--github"
    fix = "--fix"
    explain = "--explain"


def doctor(
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="PATH",
            help="Interpreter to judge (this one); llmbench need not be installed there.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="AREA|ID",
            help="Only these areas or checks, and what they need. May be repeated, or A,B.",
            autocompletion=complete_check,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            metavar="AREA|ID",
            help="Not these areas or checks, nor what needs them. May be repeated, or A,B.",
            autocompletion=complete_check,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Do slow, thorough work too: minutes.", rich_help_panel=_WHAT)
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="Compare with another machine: FILE is what --json printed there.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--patience", metavar="FACTOR", help="Factor of all deadlines, for slow machines.", rich_help_panel=_HOW
        ),
    ] = 1.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for a warning too.", rich_help_panel=_HOW)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List what is fine, too.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document and nothing else.", rich_help_panel=_OUTPUT)
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="For a bug report: one paste, no secrets.", rich_help_panel=_OUTPUT)
    ] = False,
    as_github: Annotated[
        bool,
        typer.Option(
            "--github",
            help="Annotations of GitHub Actions, where they follow the text anyway.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="A shell script of the safe fixes. Nothing is run.", rich_help_panel=_OUTPUT),
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="ID",
            help="What is known of an area, a check or a fault. Nothing is asked.",
            autocompletion=complete_explained,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.", rich_help_panel=_BESIDE)
    ] = None,
) -> None:
    """Check this environment: does PyTorch work here, and if not, why, and what mends it?

    Exit code 0: nothing failed; 1: something did, or with --strict warned; 2: wrong usage.

    For example:

        llmbench doctor

        llmbench doctor --python .venv/bin/python --only compile,storage

        llmbench doctor --markdown | xclip

        llmbench doctor --fix > fix.sh; less fix.sh; . ./fix.sh

        llmbench doctor --json > golden.json; ssh other llmbench doctor --baseline golden.json

        llmbench doctor --explain torch.import
    """
    output = _output(json=as_json, markdown=as_markdown, github=as_github, fix=fix, explain=explain is not None)
    if explain is not None:
        from llmbench.doctor.explain import explain as explanation

        _print(explanation(explain, min(_columns(), 100)))
        return
    if not math.isfinite(patience) or patience <= 0:
        raise UserError(f"--patience {patience:g}: not a factor", "give a number above 0; 3 waits three times as long")
    diagnosis = _diagnose(python, _split(only), _split(skip), deep, patience, baseline)
    document = diagnosis.to_json()
    if html:
        _write_page(html, document)
    _print(_drawn(document, output, verbose))
    if output is _Output.github or (output is _Output.text and _on_github()):
        _tell_github(document)
    raise typer.Exit(diagnosis.exit_code(strict))


def _output(**asked: bool) -> _Output:
    """The one output that was asked for.

    Raises:
        UserError: there are several.
    """
    outputs = [_Output[name] for name, wanted in asked.items() if wanted]
    if len(outputs) > 1:
        raise UserError(f"{' and '.join(outputs)} are different outputs", "ask for one of them")
    return outputs[0] if outputs else _Output.text


def _split(names: list[str] | None) -> list[str]:
    return [name.strip() for given in names or () for name in given.split(",") if name.strip()]


def _diagnose(
    python: str | None, only: list[str], skip: list[str], deep: bool, patience: float, baseline: Path | None
) -> Any:
    from llmbench.doctor import baseline as comparison
    from llmbench.doctor.runner import diagnose

    golden = comparison.load(baseline) if baseline else None
    # What a plug-in prints has no place in a document.
    with _ended_as_interrupted(), _Progress(sys.stderr) as progress, contextlib.redirect_stdout(io.StringIO()):
        diagnosis = diagnose(python, only, skip, deep, patience, progress)
    return comparison.compared(diagnosis, golden) if golden else diagnosis


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Whoever ends this process by a signal also ends those that it has started."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _drawn(document: dict[str, Any], output: _Output, verbose: bool) -> str:
    if output is _Output.json:
        import json

        return json.dumps(document, indent=2, allow_nan=False) + "\n"
    if output is _Output.markdown:
        from llmbench.doctor.markdown import markdown

        return markdown(document)
    if output is _Output.fix:
        from llmbench.doctor.fix import fix_script

        return fix_script(document)
    if output is _Output.github:
        return ""
    from llmbench.doctor.github import harmless
    from llmbench.doctor.render import text

    drawn = text(document, _columns(), sys.stdout is not None and sys.stdout.isatty(), verbose)
    return harmless(drawn) if _on_github() else drawn


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _on_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _tell_github(document: dict[str, Any]) -> None:
    """Annotations, and the summary of the step, where there is one."""
    from llmbench.doctor.github import workflow_commands
    from llmbench.doctor.markdown import markdown

    _print(workflow_commands(document))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(markdown(document))
        except OSError as error:
            typer.echo(f"llmbench: GITHUB_STEP_SUMMARY: {error.strerror}", err=True)


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
    try:
        sys.stdout.write(_encodable(text, sys.stdout.encoding or "ascii"))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What could not be written stays buffered, and would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise UserError(f"cannot write to standard output: {error.strerror}") from None


_ASCII = str.maketrans(
    {
        "≤": "<=",
        "≥": ">=",
        "×": "x",
        "→": "->",
        "…": "...",
        "–": "-",
        "—": "-",
        "·": "-",
        "−": "-",
        "±": "+-",
        "°": "deg ",
    }
    | {"‘": "'", "’": "'", "“": '"', "”": '"', "µ": "u", "✓": "ok", "²": "^2", "≠": "!="}
)


def _encodable(text: str, encoding: str) -> str:
    """The text with what the encoding lacks as something like it, or as its escape."""
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)


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
