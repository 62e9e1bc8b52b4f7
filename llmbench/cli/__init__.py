"""The command line: one file per command; it parses, calls and prints, and holds no logic."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmbench import __version__
from llmbench.cli.doctor import doctor
from llmbench.cli.list import list_
from llmbench.cli.report import report
from llmbench.cli.run import run
from llmbench.errors import UserError
from llmbench.results.redact import redact

USAGE = 2
INTERRUPTED = 130


class Commands(TyperGroup):
    """Ends as a shell expects it when somebody interrupts, or no longer listens."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _complain("llmbench: interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has gone, and the interpreter shall not try to flush what is left either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(128 + signal.SIGPIPE) from None


app = typer.Typer(
    name="llmbench",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)
app.command()(doctor)
app.command()(run)
app.command()(report)
app.command("list")(list_)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"llmbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Does this PyTorch machine work, how fast and how right does it train, and did it get worse?

    Exit codes: 0 all is well · 1 the answer is no · 2 wrong usage or input · 3 a case failed · 130 interrupted.
    """


def main() -> None:
    """Entry point. Faults of user, machine or input end in a line and an exit code, never in a traceback."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments  # wherever it stands: who needs it appends it to the command that failed
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except UserError as error:
        if debug:
            raise
        _complain(f"llmbench: {error.message}", *([f"  {error.hint}"] if error.hint else []))
        sys.exit(USAGE)
    except OSError as error:  # a full disk, a folder that vanished: a fault of the machine
        if debug:
            raise
        _complain(f"llmbench: {error}")
        sys.exit(USAGE)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is left is to end, which needs no traceback


def _complain(*lines: str) -> None:
    """To stderr, without secrets; to nowhere if it is closed or full, since the exit code says it too."""
    if sys.stderr is None:
        return
    try:
        for line in lines:
            print(redact(line), file=sys.stderr)
        sys.stderr.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
