"""``llmbench report``: (re)builds the pages of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders that `llmbench run` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page's file; without it RUN/report.html.")
    ] = None,
) -> None:
    """Build the page of each run anew, and print where it is. It opens in any browser and needs no server.

    A run that is still going on, or was killed, has a page too.

    Exit codes: 0 written · 2 wrong usage, or a folder that is no run.

    Examples:
    - `llmbench report reports/runs/20261122-081204-7f3a` writes `report.html` into the run.

    - `llmbench report r1 --out for-a-colleague.html` writes it elsewhere.
    """
    from llmbench.errors import UserError
    from llmbench.report import run_page
    from llmbench.results.store import RunFolder, write_atomically

    if out and len(runs) > 1:
        raise UserError(f"--out {out} is one file, but {len(runs)} runs were named", "without --out each has its own")
    for folder in map(RunFolder, runs):
        file = out or folder.report
        page = run_page(folder)
        try:
            write_atomically(file, page)
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror}", "choose another file with --out") from None
        typer.echo(file)
