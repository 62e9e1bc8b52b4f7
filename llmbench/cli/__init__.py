"""The command line: one file per command; it parses, calls and prints, and holds no logic."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import click
import typer

from llmbench import __version__
from llmbench.cli.doctor import doctor
from llmbench.cli.list import list_
from llmbench.cli.report import report
from llmbench.cli.run import run
from llmbench.errors import UserError

USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="llmbench",
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
    sys.exit(_main([argument for argument in arguments if argument != "--debug"], debug))


def _main(arguments: list[str], debug: bool) -> int:
    try:
        return app(arguments, standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("llmbench: interrupted", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        if debug:
            raise
        print(f"llmbench: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing more to say, and the interpreter shall not try to flush either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
