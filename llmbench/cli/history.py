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


def history(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders with runs, at any depth, e.g. reports/runs.")
    ],
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case", metavar="GLOB", help="Only these cases, e.g. 'gpt-*/ws1'. May be repeated.", rich_help_panel=_WHAT
        ),
    ] = None,
    metric: Annotated[
        MetricName, typer.Option("--metric", help="What to follow of each case.", rich_help_panel=_WHAT)
    ] = MetricName.throughput,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="CASE|eager",
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

    Runs that are still going on, or were killed, count with what they have. What cannot be read is named on stderr.

    Exit codes: 0 · 1 with --fail-worse, a case got worse · 2 wrong usage, or no run.

    Examples:
    - `llmbench history reports/runs` prints the steps and a line a case.

    - `llmbench history nightly --html history.html` writes the page, too.

    - `llmbench history nightly --reference eager --fail-worse 5` fails for a step of more than 5 % against eager.

    - `llmbench history nightly --metric memory --case 'gpt-*' --last 60` follows the peak memory of gpt.
    """
    import json

    from llmbench.report.history import history_page
    from llmbench.report.history.document import history_document
    from llmbench.report.history.markdown import history_markdown
    from llmbench.report.history.text import history_text
    from llmbench.report.outputs.files import check_writable, write
    from llmbench.results.history import read_history
    from llmbench.stats.metrics import METRICS
    from llmbench.stats.trends import fallen, trends

    check_writable(html=html, markdown=markdown)
    past = read_history(folders)
    for fault in past.faults:
        typer.echo(f"llmbench: left out: {fault}", err=True)
    chosen = METRICS[metric.value]
    found = trends(
        past, chosen, cases=set(past.cases(case or [])), reference=reference, last=last, smallest=smallest / 100
    )
    if html:
        write(html, history_page(past, found, chosen, reference=reference, file=html))
    if markdown:
        write(markdown, history_markdown(past, found, chosen, reference))
    if as_json:
        typer.echo(json.dumps(history_document(past, found, chosen, reference), ensure_ascii=False))
    else:
        typer.echo(history_text(past, found, chosen, reference))
        for file in filter(None, (html, markdown)):
            typer.echo(f"written: {file}")
    worse = fallen(found, fail_worse / 100) if fail_worse is not None else []
    if worse:
        typer.echo(f"llmbench: worse by more than {fail_worse:g} %: {', '.join(one.case for one in worse)}", err=True)
        raise typer.Exit(1)
