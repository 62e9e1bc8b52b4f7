"""``llmbench report``: (re)builds the pages of runs, and of JSON files of pytest-benchmark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…", help="Folders that `llmbench run` wrote, or JSON files of `pytest --benchmark-json`."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page's file; without it RUN/report.html, or F.html for F.json."
        ),
    ] = None,
) -> None:
    """Build the page of each run anew, and print where it is. It opens in any browser and needs no server.

    A run that is still going on, or was killed, has a page too. So has a file of pytest-benchmark, such as
    `pytest suites/ --benchmark-only --benchmark-json=F.json` writes.

    Exit codes: 0 written · 2 wrong usage, or neither a run nor a file of pytest-benchmark.

    Examples:
    - `llmbench report reports/runs/20261122-081204-7f3a` writes `report.html` into the run.

    - `llmbench report r1 --out for-a-colleague.html` writes it elsewhere.

    - `llmbench report micro.json` writes `micro.html` beside the file.
    """
    from llmbench.errors import UserError
    from llmbench.report import run_page
    from llmbench.results.store import RunFolder, write_atomically

    if out and len(runs) > 1:
        raise UserError(f"--out {out} is one file, but {len(runs)} runs were named", "without --out each has its own")
    for path in runs:
        if not os.path.exists(path):
            hint = "name a folder that `llmbench run` wrote, or a file that `pytest --benchmark-json` wrote"
            raise UserError(f"{path}: no such file or folder", hint)
        is_file = os.path.isfile(path)
        file = out or (path.with_suffix(".html") if is_file else RunFolder(path).report)
        page = _page_of_file(path) if is_file else run_page(RunFolder(path))
        try:
            if is_file and file.exists() and file.samefile(path):
                raise UserError(f"the page would overwrite {path}", "choose another file with --out")
            write_atomically(file, page)
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror}", "choose another file with --out") from None
        typer.echo(file)


def _page_of_file(path: Path) -> str:
    """A scan's document says that it is one; else it is pytest-benchmark's."""
    from llmbench.report.benchmarks import benchmarks_page
    from llmbench.report.scan import scan_page
    from llmbench.results.scan import read_scan

    scan = read_scan(path)
    return scan_page(scan) if scan else benchmarks_page(path)
