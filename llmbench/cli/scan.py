"""``llmbench scan``: finds the slow node or the slow link of a cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.options import DeviceKind

if TYPE_CHECKING:
    from llmbench.launch.scan import Settings
    from llmbench.results.scan import Scan

_WHERE = "Where the nodes are"


def scan(
    nnodes: Annotated[
        int | None,
        typer.Option(
            "--nnodes",
            metavar="N",
            min=1,
            help="Nodes. The command is started once on each; under srun and in a Job's pods N need not be given.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option("--node-rank", metavar="I", min=0, help="Which one this is; 0 leads.", rich_help_panel=_WHERE),
    ] = None,
    master_addr: Annotated[
        str | None,
        typer.Option("--master-addr", metavar="HOST", help="Name or address of node 0.", rich_help_panel=_WHERE),
    ] = None,
    master_port: Annotated[
        int | None,
        typer.Option(
            "--master-port", metavar="PORT", min=1, max=65535, help="At which node 0 listens.", rich_help_panel=_WHERE
        ),
    ] = None,
    join: Annotated[
        float,
        typer.Option(
            "--join",
            metavar="SECONDS",
            min=0.1,
            help="To wait for the others; a node that never joins has failed.",
            rich_help_panel=_WHERE,
        ),
    ] = 300.0,
    python: Annotated[
        str | None,
        typer.Option("--python", metavar="PATH", help="Measure in the environment of this interpreter on every node."),
    ] = None,
    device: Annotated[DeviceKind, typer.Option("--device", help="auto: what most nodes have.")] = DeviceKind.auto,
    links: Annotated[
        bool, typer.Option("--links", help="Test every pair, in n - 1 rounds, instead of one random matching.")
    ] = False,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", metavar="N", min=1, help="At most so many rounds; with --links, one less after the n - 1."
        ),
    ] = 3,
    deadline: Annotated[
        float,
        typer.Option("--deadline", metavar="SECONDS", min=1, help="For one test, until it is given up as failed."),
    ] = 120.0,
    simulate: Annotated[
        str | None,
        typer.Option(
            "--simulate",
            metavar="SPEC",
            help="Scan a made-up cluster: KEY=VALUE, separated by commas. Keys: nodes, slow (nodes), slowdown "
            "(LOW:HIGH), noise, links (slow ones), dead (nodes), hiccups, fault (network, compute, both, mixed), seed.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")] = None,
) -> None:
    """Find the slow node or the slow link of a cluster, in three rounds for any number of nodes.

    Start it once on every node, by hand, by srun or by a Job's pods. Node 0 leads and prints what was found; the others
    measure when it asks.

    Every node is measured on its own, then in one random pairing; whoever is in a low pair is paired again with nodes
    known to be fast. What is low is told from the cluster's own median and spread.

    Exit codes: 0 nothing slow was found, or this is not node 0 · 1 a slow or failed node or link · 2 wrong usage, or
    node 0 is gone · 130 interrupted.

    Examples:
    - `srun --ntasks-per-node=1 llmbench scan`

    - `llmbench scan --nnodes 4 --node-rank 0 --master-addr h0 --html scan.html`

    - `llmbench scan --simulate nodes=1024,slow=3,slowdown=0.1:0.3,noise=0.015,seed=1`

    - `llmbench scan --simulate nodes=32,links=2 --links --json > scan.json; llmbench report scan.json`
    """
    from llmbench.launch.scan import Settings
    from llmbench.report.scan.headline import terminal_lines

    if simulate is not None:
        _refuse_places({"--nnodes": nnodes, "--node-rank": node_rank, "--master-addr": master_addr})
        done = _simulated(simulate, links, rounds)
    else:
        _check_writable(html)
        settings = Settings(
            python=python or sys.executable,
            device=device.value,
            every_link=links,
            rounds=rounds,
            deadline=deadline,
            join_seconds=join,
        )
        measured = _measured(settings, nnodes, node_rank, master_addr, master_port)
        if measured is None:
            raise typer.Exit(0)
        done = measured
    if html:
        from llmbench.report.page import write_page
        from llmbench.report.scan import scan_page

        try:
            write_page(html, scan_page(done))
        except OSError as error:
            raise _cannot_write(html, error) from None
    typer.echo(done.model_dump_json(indent=1) if as_json else "\n".join(terminal_lines(done)))
    raise typer.Exit(1 if done.found else 0)


def _measured(
    settings: Settings, nnodes: int | None, node_rank: int | None, master_addr: str | None, master_port: int | None
) -> Scan | None:
    """The scan, if this is node 0."""
    from llmbench.cluster.channel import LeaderLost
    from llmbench.cluster.place import find_place
    from llmbench.errors import UserError
    from llmbench.launch.scan import follow, lead

    place = find_place(os.environ, nnodes, node_rank, None, master_addr, master_port)
    if place.leads:
        return lead(place, settings, ["llmbench", *sys.argv[1:]], _say)
    try:
        follow(place, settings, _say)
    except LeaderLost as reason:
        raise UserError(str(reason), "its own output says why; nothing is left running here") from None
    return None


def _simulated(spec: str, links: bool, rounds: int) -> Scan:
    from llmbench.errors import UserError
    from llmbench.stats.scan.document import simulated_scan
    from llmbench.stats.scan.simulate import MOST_LINKED, parse_spec

    cluster = parse_spec(spec)
    if links and cluster.nodes > MOST_LINKED:
        raise UserError(
            f"--links: nodes={cluster.nodes} has {cluster.nodes * (cluster.nodes - 1) // 2} pairs",
            f"at most nodes={MOST_LINKED} with --links; without it any number takes three rounds",
        )
    return simulated_scan(cluster, command=["llmbench", *sys.argv[1:]], every_link=links, rounds=rounds)


def _refuse_places(given: dict[str, object]) -> None:
    from llmbench.errors import UserError

    named = [option for option, value in given.items() if value is not None]
    if named:
        raise UserError(f"--simulate needs no nodes, but {', '.join(named)} is given", "leave one of them out")


def _check_writable(html: Path | None) -> None:
    """Before anything long begins."""
    from llmbench.report.outputs.files import check_writable

    check_writable(html=html)


def _cannot_write(html: Path, error: OSError) -> Exception:
    from llmbench.errors import UserError

    return UserError(f"cannot write {html}: {error.strerror}", "choose another file with --html")


def _say(message: str) -> None:
    """Progress, which is for people."""
    typer.echo(f"scan: {message}", err=True)
