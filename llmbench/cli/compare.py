"""``llmbench compare``: holds stored runs against each other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmbench.report.compare.environment import Environments
    from llmbench.stats.comparison import Comparison


def compare(
    base: Annotated[
        Path,
        typer.Argument(metavar="BASE", help="A run, or a folder of several; or JSON of pytest-benchmark."),
    ],
    cand: Annotated[Path, typer.Argument(metavar="CAND", help="The same, to be judged against it.")],
    fail_slower: Annotated[
        str, typer.Option("--fail-slower", metavar="PERCENT", help="Let a slower case lose so much before it fails.")
    ] = "0",
    equal_within: Annotated[
        str, typer.Option("--equal-within", metavar="PERCENT", help="Throughputs so close are the same.")
    ] = "2",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 also where nothing could be told.")] = False,
    across_hardware: Annotated[
        bool, typer.Option("--across-hardware", help="Call it a regression although the hardware differs.")
    ] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Did it get worse? A verdict for each case of two stored runs, and for all of them together.

    A case is faster, slower or the same only if the whole interval of the ratio says so; else it is inconclusive.
    Memory and loss have verdicts of their own. Several runs on each side tell more than one.

    Exit codes: 0 no regression · 1 a regression (with `--strict` also where nothing could be told) · 2 wrong usage.

    Examples:
    - `llmbench compare runs/monday runs/tuesday`

    - `llmbench compare base/ cand/ --fail-slower 5% --html compare.html` takes every run below both folders.

    - `llmbench compare base.json cand.json` of files that `pytest --benchmark-json` wrote, by the same rules.

    - `llmbench compare r1 r2 --junit compare.xml --strict` in CI; where there is a GITHUB_STEP_SUMMARY, it is added to.
    """
    from llmbench.report.compare.environment import environments
    from llmbench.report.outputs.files import check_writable
    from llmbench.results.redact import command as redacted
    from llmbench.results.sides import load
    from llmbench.stats.comparison import Rules
    from llmbench.stats.judge import compare_sides

    rules = Rules(share("--equal-within", equal_within), share("--fail-slower", fail_slower), strict, across_hardware)
    check_writable(junit=junit, markdown=markdown, html=html)
    sides = load(base, cand)
    comparison = compare_sides(*sides, rules)
    found = environments(sides[0].runs, sides[1].runs)
    command = redacted(["llmbench", *sys.argv[1:]])
    _write(comparison, found, command, junit, markdown, html)
    _print(comparison, found, command, as_json)
    _warn(comparison)
    raise typer.Exit(comparison.exit_code)


def share(option: str, text: str) -> float:
    """``5`` or ``5%`` as 0.05."""
    from llmbench.errors import UserError

    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise UserError(f"{option} {text}: no percentage from 0 to below 100", f"such as {option} 5")
    return percent / 100


def _write(
    comparison: Comparison,
    found: Environments,
    command: list[str],
    junit: Path | None,
    markdown: Path | None,
    html: Path | None,
) -> None:
    from llmbench.report.compare import compare_page
    from llmbench.report.compare.outputs import comparison_junit, comparison_markdown
    from llmbench.report.outputs.files import write
    from llmbench.report.outputs.github import append_summary

    if junit:
        write(junit, comparison_junit(comparison, found, command))
    if markdown:
        write(markdown, comparison_markdown(comparison, found, command))
    if html:
        write(html, compare_page(comparison, found, command))
    append_summary(comparison_markdown(comparison, found, command))


def _print(comparison: Comparison, found: Environments, command: list[str], as_json: bool) -> None:
    if as_json:
        from llmbench.report.compare.document import document

        typer.echo(json.dumps(document(comparison, found, command), indent=2))
        return
    from llmbench.cli.compared import comparison_text

    typer.echo(comparison_text(comparison, found))


def _warn(comparison: Comparison) -> None:
    """On stderr: what could not be read, what could not be told; on GitHub also as annotations."""
    from llmbench.report.compare.verdicts import OUTCOMES
    from llmbench.report.format import count, one_line
    from llmbench.report.outputs.github import MOST_ANNOTATIONS, annotate
    from llmbench.start import complain

    for fault in (*comparison.base.damage, *comparison.cand.damage):
        complain(one_line(f"llmbench: damaged: {fault}"))
    for row, failure in comparison.failures[:MOST_ANNOTATIONS]:
        annotate("error", one_line(f"{row.case}: {failure}"), "llmbench compare")
    if comparison.undecided:
        kinds = {OUTCOMES[row.outcome].word: None for row in comparison.undecided}
        message = f"{count(len(comparison.undecided), 'case')} could not be told ({', '.join(kinds)})"
        complain(f"llmbench: warning: {message}")
        annotate("warning", message, "llmbench compare")
