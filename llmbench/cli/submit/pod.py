"""``llmbench submit pod``: what the pods of a submission run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def pod(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="-- ARGUMENTS…", help="Of llmbench.")] = None,
    hand_over: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Print this run into the log at the end.")
    ] = None,
    report_code: Annotated[
        bool, typer.Option("--report-code", help="End with 0; the exit code is in the pod's status.")
    ] = False,
) -> None:
    """Run llmbench in a pod, and hand the run over through the log. `llmbench submit kubernetes` writes this command.

    Without ARGUMENTS it only prints the run.
    """
    from llmbench.errors import UserError
    from llmbench.submit.pod import print_run, run_pod

    if not arguments:
        if hand_over is None:
            raise UserError("nothing to do: neither ARGUMENTS nor --hand-over RUN", None)
        raise typer.Exit(0 if print_run(hand_over) else 2)
    raise typer.Exit(run_pod(arguments, hand_over, os.environ, report_code=report_code))
