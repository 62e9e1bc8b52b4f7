"""``llmbench scan``: finds the slow node or the slow link of a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def scan(
    simulate: Annotated[
        str | None,
        typer.Option(
            "--simulate",
            metavar="SPEC",
            help="Scan a made-up cluster: KEY=VALUE, separated by commas. Keys: nodes, slow (nodes), slowdown "
            "(LOW:HIGH), noise, links (slow ones), dead (nodes), hiccups, fault (network, compute, both, mixed), seed.",
        ),
    ] = None,
    links: Annotated[
        bool, typer.Option("--links", help="Test every pair, in n - 1 rounds, instead of one random matching.")
    ] = False,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", metavar="N", min=1, help="At most so many rounds; with --links, one less after the n - 1."
        ),
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")] = None,
) -> None:
    """Find the slow node or the slow link of a cluster, in three rounds for any number of nodes.

    **Measuring real nodes is not built yet**: today this simulates a cluster, with the code that will decide on real
    measurements, and without --simulate it ends with exit code 2.

    Every node is measured on its own, then in one random pairing; whoever is in a low pair is paired again with nodes
    known to be fast. What is low is told from the cluster's own median and spread.

    Exit codes: 0 nothing slow was found · 1 a slow or failed node or link · 2 wrong usage.

    Examples:
    - `llmbench scan --simulate nodes=1024,slow=3,slowdown=0.1:0.3,noise=0.015,seed=1`

    - `llmbench scan --simulate nodes=64,slow=2,links=1 --html scan.html`

    - `llmbench scan --simulate nodes=32,links=2 --links --json > scan.json; llmbench report scan.json`
    """
    from llmbench.errors import UserError
    from llmbench.report.scan.headline import terminal_lines
    from llmbench.stats.scan.document import simulated_scan
    from llmbench.stats.scan.simulate import MOST_LINKED, parse_spec

    if simulate is None:
        raise UserError(
            "measuring real nodes is not built yet: nothing was measured",
            "llmbench scan --simulate nodes=64,slow=2 shows what a scan will look like",
        )
    spec = parse_spec(simulate)
    if links and spec.nodes > MOST_LINKED:
        raise UserError(
            f"--links: nodes={spec.nodes} has {spec.nodes * (spec.nodes - 1) // 2} pairs",
            f"at most nodes={MOST_LINKED} with --links; without it any number takes three rounds",
        )
    done = simulated_scan(spec, command=["llmbench", *sys.argv[1:]], every_link=links, rounds=rounds)
    if html:
        from llmbench.report.page import write_page
        from llmbench.report.scan import scan_page

        try:
            write_page(html, scan_page(done))
        except OSError as error:
            raise UserError(f"cannot write {html}: {error.strerror}", "choose another file with --html") from None
    typer.echo(done.model_dump_json(indent=1) if as_json else "\n".join(terminal_lines(done)))
    raise typer.Exit(1 if done.found else 0)
