"""The command line: one file per command; it parses, calls and prints, and holds no logic."""

from __future__ import annotations

import os
import signal
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmbench import __version__
from llmbench.cli.ab import ab
from llmbench.cli.compare import compare
from llmbench.cli.doctor import DoctorCommand, doctor
from llmbench.cli.gate import gate
from llmbench.cli.history import history
from llmbench.cli.interrupts import exit_code, terminable
from llmbench.cli.list import list_
from llmbench.cli.report import report
from llmbench.cli.run import run
from llmbench.cli.scan import scan
from llmbench.cli.submit import submit
from llmbench.start import complain


class Commands(TyperGroup):
    """Ends as a shell expects it when somebody interrupts, or no longer listens."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with terminable():
                return super().invoke(ctx)
        except KeyboardInterrupt as reason:
            complain("llmbench: interrupted")
            raise typer.Exit(exit_code(reason)) from None
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
app.command(cls=DoctorCommand)(doctor)
app.command()(run)
app.command()(report)
app.command()(compare)
app.command()(ab)
app.command()(history)
app.command()(scan)
app.command("list")(list_)
app.add_typer(gate, name="gate")
app.add_typer(submit, name="submit")


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
