"""``llmbench report``: (re)builds the pages of runs and A/B comparisons, and of JSON files of pytest-benchmark."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.options import JunitFile, MarkdownFile

if TYPE_CHECKING:
    from llmbench.results.ab_folder import AbFolder
    from llmbench.results.store import RunFolder


class Assets(StrEnum):
    """Where a page has its style and script."""

    INLINE = "inline"
    SPLIT = "split"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…",
            help="Folders that `llmbench run` or `llmbench ab` wrote, or JSON files of `pytest --benchmark-json`.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page's file; without it RUN/report.html, or F.html for F.json."
        ),
    ] = None,
    assets: Annotated[
        Assets,
        typer.Option(
            "--assets",
            help="inline: one file that holds everything. split: style and script in files beside it, for a server "
            "that forbids what is inlined, as Jenkins does; charts and tables need no script.",
        ),
    ] = Assets.INLINE,
    junit: JunitFile = None,
    markdown: MarkdownFile = None,
) -> None:
    """Build the page of each run anew, and print where it is. It opens in any browser and needs no server.

    A run or a comparison that is still going on, or was killed, has a page too. So has a file of pytest-benchmark, such
    as `pytest suites/ --benchmark-only --benchmark-json=F.json` writes. A damaged record is shown as such, and counts
    nowhere.

    Exit codes: 0 written · 2 wrong usage, none of a run, a scan and a file of pytest-benchmark, or a page of damaged
    records (each named on stderr with its file, line and field).

    Examples:
    - `llmbench report reports/runs/20261122-081204-7f3a` writes `report.html` into the run.

    - `llmbench report reports/ab/20261123-091500-ab12 --junit junit.xml`: the same for a comparison of `llmbench ab`.

    - `llmbench report r1 --out for-a-colleague.html` writes it elsewhere.

    - `llmbench report micro.json` writes `micro.html` beside the file; `scan.json` of `llmbench scan --json` likewise.

    - `llmbench report r1 --assets split` writes `report.html`, `report.css` and `report.js`, for Jenkins to archive.

    - `llmbench report r1 r2 --junit junit.xml` writes both runs to one JUnit file too.
    """
    from llmbench.errors import UserError
    from llmbench.report import run_page
    from llmbench.report.outputs.files import check_writable
    from llmbench.report.page import in_files, write_page
    from llmbench.report.run.outputs import write_outputs
    from llmbench.results.ab_folder import AbFolder
    from llmbench.results.store import RunFolder
    from llmbench.start import USAGE

    damaged = False
    comparisons = [path for path in runs if _is_comparison(path)]
    if (junit or markdown) and comparisons and len(runs) > 1:
        raise UserError(f"--junit and --markdown tell of {comparisons[0]} alone", "name it in a command of its own")
    if out and assets is Assets.SPLIT and out.suffix in (".css", ".js"):
        raise UserError(
            f"--out {out} is the name of a file beside the page", "name the page, such as `--out page.html`"
        )
    if out and len(runs) > 1:
        raise UserError(f"--out {out} is one file, but {len(runs)} runs were named", "without --out each has its own")
    check_writable(junit=junit, markdown=markdown)
    for path in runs:
        if not os.path.exists(path):
            hint = "name a folder that `llmbench run` or `ab` wrote, or a file that `pytest --benchmark-json` wrote"
            raise UserError(f"{path}: no such file or folder", hint)
        is_file = os.path.isfile(path)
        if is_file and (junit or markdown):
            raise UserError(f"--junit and --markdown tell of runs, and {path} is a file", "leave it out")
        folder = AbFolder(path) if path in comparisons else RunFolder(path)
        file = out or (path.with_suffix(".html") if is_file else folder.report)
        if isinstance(folder, AbFolder):
            page = _page_of_comparison(folder, junit, markdown)
        else:
            page = _page_of_file(path) if is_file else run_page(folder)
        split = assets is Assets.SPLIT
        try:
            for name in in_files(file, page) if split else [file]:
                if is_file and name.exists() and name.samefile(path):
                    raise UserError(f"the page would overwrite {path}", "choose another file with --out")
            write_page(file, page, split=split)
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror}", "choose another file with --out") from None
        typer.echo(file)
        damaged = tell_damage(folder) or damaged
    if not comparisons:
        write_outputs([RunFolder(path) for path in runs], junit, markdown)
    if damaged:
        raise typer.Exit(USAGE)


def _is_comparison(path: Path) -> bool:
    return (path / "ab.json").is_file()


def _page_of_comparison(folder: AbFolder, junit: Path | None, markdown: Path | None) -> str:
    """The page; and its other outputs, if wanted."""
    from llmbench.report.ab import ab_page
    from llmbench.report.ab.outputs import ab_junit, ab_markdown
    from llmbench.report.outputs.files import write
    from llmbench.stats.ab import compared

    ab = folder.read()
    comparison = compared(ab, folder.recorded(), strict="--strict" in ab.command)
    if junit:
        write(junit, ab_junit(comparison, ab.command))
    if markdown:
        write(markdown, ab_markdown(comparison, ab.command))
    return ab_page(comparison, folder)


def tell_damage(folder: RunFolder | AbFolder) -> bool:
    """Names on stderr what was found damaged; whether there was any."""
    from llmbench.report.format import printable
    from llmbench.start import complain

    complain(*(f"error: {printable(fault)}" for fault in folder.damage))
    return bool(folder.damage)


def _page_of_file(path: Path) -> str:
    """A scan's document says that it is one; else it is pytest-benchmark's."""
    from llmbench.report.benchmarks import benchmarks_page
    from llmbench.report.scan import scan_page
    from llmbench.results.scan import read_scan

    scan = read_scan(path)
    return scan_page(scan) if scan else benchmarks_page(path)
