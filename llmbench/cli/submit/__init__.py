"""``llmbench submit``: runs a suite on a cluster, and brings the run back."""

from __future__ import annotations

import typer

from llmbench.cli.submit.jobs import cancel, fetch, status
from llmbench.cli.submit.kubernetes import kubernetes
from llmbench.cli.submit.pod import pod
from llmbench.cli.submit.slurm import slurm

submit = typer.Typer(no_args_is_help=True)
submit.command()(slurm)
submit.command()(kubernetes)
submit.command()(status)
submit.command()(fetch)
submit.command()(cancel)
submit.command(hidden=True)(pod)


@submit.callback()
def _group() -> None:
    """Run a suite on a cluster, follow the job, and bring the run back.

    Examples:
    - `llmbench submit slurm smoke-ddp --nodes 2 --gpus-per-node 8`

    - `llmbench submit kubernetes smoke-ddp --nodes 2 --gpus-per-node 8 --image ghcr.io/me/llmbench:1`

    - `llmbench submit status` lists what was submitted from here.
    """
