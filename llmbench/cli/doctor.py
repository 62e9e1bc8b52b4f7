"""``llmbench doctor``: names every fault of an environment, its cause and its fix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmbench.cli.names import complete_check, complete_explained

_WHAT = "What to ask"
_HOW = "How to ask"
_OUTPUT = "What to print (one of these)"
_BESIDE = "Beside it"


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
    from llmbench.doctor.command import Options, carry_out

    raise typer.Exit(
        carry_out(
            Options(
                python=python,
                only=only or (),
                skip=skip or (),
                deep=deep,
                baseline=baseline,
                patience=patience,
                strict=strict,
                verbose=verbose,
                json=as_json,
                markdown=as_markdown,
                github=as_github,
                fix=fix,
                explain=explain,
                html=html,
            )
        )
    )
