"""``llmbench submit``: runs a suite on a cluster, and brings the run back."""

from __future__ import annotations

import typer

from llmbench.cli.submit.jobs import cancel, fetch, status

submit = typer.Typer(no_args_is_help=True)
submit.command()(status)
submit.command()(fetch)
submit.command()(cancel)


@submit.callback()
def _group() -> None:
    """Run a suite on a cluster, follow the job, and bring the run back.

    Examples:
    - `llmbench submit status` lists what was submitted from here.
    """
