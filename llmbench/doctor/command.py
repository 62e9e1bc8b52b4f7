"""What ``llmbench doctor`` does with its options. Standard library only: it must start on a broken machine."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from llmbench.doctor.model import Diagnosis
from llmbench.doctor.runner import Event, Started, diagnose
from llmbench.errors import UserError
from llmbench.report.outputs.github import append_summary, harmless, on_actions


@dataclass(frozen=True)
class Options:
    """The options of the command, by their names.

    Attributes:
        nodes: how many, or ``environment``: the launcher says it. None: this machine alone.
        own_fault: why llmbench's own libraries cannot be imported, where that is so.
    """

    python: str | None = None
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    deep: bool = False
    baseline: Path | None = None
    patience: float = 1.0
    strict: bool = False
    verbose: bool = False
    json: bool = False
    markdown: bool = False
    github: bool = False
    fix: bool = False
    explain: str | None = None
    html: Path | None = None
    nodes: str | None = None
    node_rank: int | None = None
    nproc_per_node: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    join_seconds: float | None = None
    own_fault: str | None = None


class _Output(StrEnum):
    """What goes to stdout, by its option."""

    text = "text"
    json = "--json"
    markdown = "--markdown"
    github = "--github"
    fix = "--fix"
    explain = "--explain"


def carry_out(options: Options) -> int:
    """Asks, and prints what was found.

    Returns:
        The exit code: 0 if nothing failed, else 1.

    Raises:
        UserError: the options contradict each other, or name what there is not.
    """
    output = _output(options)
    if options.explain is not None:
        from llmbench.doctor.explain import explain

        _print(explain(options.explain, min(_columns(), 100)))
        return 0
    if not math.isfinite(options.patience) or options.patience <= 0:
        raise UserError(
            f"--patience {options.patience:g}: not a factor", "give a number above 0; 3 waits three times as long"
        )
    if options.nodes is not None:
        return _carry_out_on_nodes(options, output)
    _only_with_nodes(options)
    diagnosis = _diagnose(options)
    document = diagnosis.to_json()
    if options.html:
        from llmbench.report import doctor_page

        _write_page(options.html, doctor_page(document))
    _print(_drawn(document, output, options.verbose))
    if output is _Output.github or (output is _Output.text and on_actions()):
        _tell_github(document)
    return diagnosis.exit_code(options.strict)


def _output(options: Options) -> _Output:
    """The one output that was asked for.

    Raises:
        UserError: there are several.
    """
    outputs = [output for output in _Output if getattr(options, output.name, None) not in (None, False)]
    if len(outputs) > 1:
        raise UserError(f"{' and '.join(outputs)} are different outputs", "ask for one of them")
    return outputs[0] if outputs else _Output.text


def _only_with_nodes(options: Options) -> None:
    for name in ("node_rank", "nproc_per_node", "master_addr", "master_port", "join_seconds"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is for several nodes", "llmbench doctor --nodes N …")


def _carry_out_on_nodes(options: Options, output: _Output) -> int:
    """As ``carry_out``, as one of several nodes; only node 0 prints what was found."""
    from llmbench.doctor.nodes.command import diagnose_nodes
    from llmbench.doctor.nodes.render import markdown, text
    from llmbench.doctor.nodes.serve import Asked

    if output in (_Output.fix, _Output.github) or options.baseline:
        name = "--baseline" if options.baseline else output
        raise UserError(f"{name} is for one machine, --nodes for several", "ask for one of them")
    asked = Asked(tuple(_split(options.only)), tuple(_split(options.skip)), options.deep, options.patience)
    with _ended_as_interrupted():
        document = diagnose_nodes(options, asked)
    if isinstance(document, int):
        return document
    if options.html:
        from llmbench.report.doctor_nodes import doctor_nodes_page

        _write_page(options.html, doctor_nodes_page(document))
    if output is _Output.markdown:
        drawn = markdown(document)
    elif output is _Output.json:
        drawn = _json(document)
    else:
        drawn = text(document, _columns(), sys.stdout is not None and sys.stdout.isatty(), options.verbose)
    _print(drawn)
    verdict = document["verdict"]
    return int(verdict == "fail" or (options.strict and verdict == "warn"))


def _split(names: Sequence[str]) -> list[str]:
    return [name.strip() for given in names for name in given.split(",") if name.strip()]


def _diagnose(options: Options) -> Diagnosis:
    from llmbench.doctor import baseline as comparison

    golden = comparison.load(options.baseline) if options.baseline else None
    # What a plug-in prints has no place in a document.
    with _ended_as_interrupted(), _Progress(sys.stderr) as progress, contextlib.redirect_stdout(io.StringIO()):
        diagnosis = diagnose(
            options.python,
            _split(options.only),
            _split(options.skip),
            options.deep,
            options.patience,
            progress,
            options.own_fault,
        )
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
        return _json(document)
    if output is _Output.markdown:
        from llmbench.doctor.markdown import markdown

        return markdown(document)
    if output is _Output.fix:
        from llmbench.doctor.fix import fix_script

        return fix_script(document)
    if output is _Output.github:
        return ""
    from llmbench.doctor.render import text

    drawn = text(document, _columns(), sys.stdout is not None and sys.stdout.isatty(), verbose)
    return harmless(drawn) if on_actions() else drawn


def _json(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _tell_github(document: dict[str, Any]) -> None:
    """Annotations, and the summary of the step, where there is one."""
    from llmbench.doctor.github import workflow_commands
    from llmbench.doctor.markdown import markdown

    _print(workflow_commands(document))
    append_summary(markdown(document))


def _write_page(file: Path, page: str) -> None:
    from llmbench.report.page import write_page

    try:
        write_page(file, page)
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
