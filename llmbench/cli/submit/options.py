"""Options that several commands of ``llmbench submit`` have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT = Path("reports", "jobs")
JobsFolder = Annotated[
    Path,
    typer.Option("--jobs", envvar="LLMBENCH_JOBS", metavar="DIR", help="Where submitted jobs are kept."),
]
JobName = Annotated[str, typer.Argument(metavar="ID", help="Of the job: llmbench's, or the scheduler's.")]
