"""``llmbench history``: cases over many runs, their steps, and what changed there."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_WHAT = "What to follow"
_STEPS = "What counts as a step"
_OUTPUT = "What to write"


class MetricName(StrEnum):
    throughput = "throughput"
    step = "step"
    memory = "memory"
    loss = "loss"
    energy = "energy"
    ratio = "ratio"
    ratio_total = "ratio-total"


def history(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR…",
            help="Folders with runs or comparisons, at any depth; also URLs such as s3://bucket/nightly.",
        ),
    ],
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case", metavar="GLOB", help="Only these cases, e.g. 'gpt-*/ws1'. May be repeated.", rich_help_panel=_WHAT
        ),
    ] = None,
    metric: Annotated[
        MetricName | None,
        typer.Option(
            "--metric",
            help="What to follow of each case.",
            show_default="ratio where there are comparisons, else throughput",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="CASE|eager|none",
            help="Divide by this case of the same run; eager: by that of the same workload.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", min=1, metavar="N", help="Only the newest N runs of each case.", rich_help_panel=_WHAT),
    ] = None,
    smallest: Annotated[
        float,
        typer.Option("--smallest", min=0, metavar="P", help="Steps of less than P % are none.", rich_help_panel=_STEPS),
    ] = 1.0,
    fail_worse: Annotated[
        float | None,
        typer.Option(
            "--fail-worse",
            min=0,
            metavar="P",
            help="Exit with 1 if the newest step of a case is for the worse by more than P %.",
            rich_help_panel=_STEPS,
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.", rich_help_panel=_OUTPUT)
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Also write Markdown.", rich_help_panel=_OUTPUT)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Follow the cases of many runs: where a level changed and stayed, in which run, and what else changed there.

    Comparisons of `llmbench ab` are followed by the ratio to their base, where there are any, else runs by their
    throughput. What is still going on, or was killed, counts with what it has. What cannot be read is named on stderr.

    Exit codes: 0 · 1 with --fail-worse, a case got worse · 2 wrong usage, or no run.

    Examples:
    - `llmbench history reports/runs` prints the steps and a line a case.

    - `llmbench history nightly --html history.html` writes the page, too.

    - `llmbench history nightly --reference eager --fail-worse 5` fails for a step of more than 5 % against eager.

    - `llmbench history s3://bucket/nightly --last 60` reads runs where they lie, through fsspec.

    - `llmbench history nightly --metric memory --case 'gpt-*' --last 60` follows the peak memory of gpt.
    """
    import json

    from llmbench.report.history import history_page
    from llmbench.report.history.document import history_document
    from llmbench.report.history.markdown import history_markdown
    from llmbench.report.history.text import history_text
    from llmbench.report.outputs.files import check_writable, write
    from llmbench.results.history import read_history
    from llmbench.stats.followed import followed
    from llmbench.stats.selfcheck import judged_self_checks
    from llmbench.stats.trends import fallen, trends

    check_writable(html=html, markdown=markdown)
    read = read_history(folders)
    reference = None if reference == "none" else reference
    past, chosen = followed(read, metric.value if metric else None, reference)
    checks = judged_self_checks(read.comparisons)
    past.faults += checks.faults
    for fault in past.faults:
        typer.echo(f"llmbench: left out: {fault}", err=True)
    found = trends(
        past, chosen, cases=set(past.cases(case or [])), reference=reference, last=last, smallest=smallest / 100
    )
    if html:
        write(html, history_page(past, found, chosen, reference=reference, checks=checks, file=html))
    if markdown:
        write(markdown, history_markdown(past, found, chosen, reference, checks))
    if as_json:
        typer.echo(json.dumps(history_document(past, found, chosen, reference, checks), ensure_ascii=False))
    else:
        typer.echo(history_text(past, found, chosen, reference, checks))
        for file in filter(None, (html, markdown)):
            typer.echo(f"written: {file}")
    if checks.distrusted:
        typer.echo("llmbench: warning: more false alarms than chance explains: do not gate here", err=True)
    worse = fallen(found, fail_worse / 100) if fail_worse is not None else []
    if worse:
        typer.echo(f"llmbench: worse by more than {fail_worse:g} %: {', '.join(one.case for one in worse)}", err=True)
        raise typer.Exit(1)
