"""``llmbench doctor``: names every fault of an environment, its cause and its fix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from llmbench.cli.names import complete_check, complete_explained

_WHAT = "What to ask"
_HOW = "How to ask"
_NODES = "On several nodes, started once on each"
_OUTPUT = "What to print (one of these)"
_BESIDE = "Beside it"


class DoctorCommand(TyperCommand):
    """Takes ``--nodes`` without a number, too: the launcher's variables then say how many there are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any command."""
        from llmbench.doctor.nodes.command import FROM_ENVIRONMENT

        for place, argument in enumerate(args):
            if argument == "--nodes" and (place + 1 == len(args) or args[place + 1].startswith("-")):
                args = [*args[:place], f"--nodes={FROM_ENVIRONMENT}", *args[place + 1 :]]
        return super().parse_args(ctx, args)


def doctor(
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="PATH",
            help="Interpreter to judge (this one); llmbench need not be installed there.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="AREA|ID",
            help="Only these areas or checks, and what they need. May be repeated, or A,B.",
            autocompletion=complete_check,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            metavar="AREA|ID",
            help="Not these areas or checks, nor what needs them. May be repeated, or A,B.",
            autocompletion=complete_check,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Do slow, thorough work too: minutes.", rich_help_panel=_WHAT)
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="Compare with another machine: FILE is what --json printed there.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--patience", metavar="FACTOR", help="Factor of all deadlines, for slow machines.", rich_help_panel=_HOW
        ),
    ] = 1.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for a warning too.", rich_help_panel=_HOW)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List what is fine, too.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document and nothing else.", rich_help_panel=_OUTPUT)
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="For a bug report: one paste, no secrets.", rich_help_panel=_OUTPUT)
    ] = False,
    as_github: Annotated[
        bool,
        typer.Option(
            "--github",
            help="Annotations of GitHub Actions, where they follow the text anyway.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="A shell script of the safe fixes. Nothing is run.", rich_help_panel=_OUTPUT),
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="ID",
            help="What is known of an area, a check or a fault. Nothing is asked.",
            autocompletion=complete_explained,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.", rich_help_panel=_BESIDE)
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(
            "--nodes",
            "--nnodes",
            metavar="[N]",
            help="Check so many nodes, and then what is between them. Without a number the launcher says it "
            "(PET_*, SLURM_*).",
            rich_help_panel=_NODES,
        ),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option(
            "--node-rank", metavar="I", min=0, help="Which node this is; 0 asks and tells.", rich_help_panel=_NODES
        ),
    ] = None,
    nproc_per_node: Annotated[
        int | None,
        typer.Option(
            "--nproc-per-node",
            metavar="K",
            min=1,
            help="Ranks of a node in the all-reduce (one for each GPU, on CPUs one).",
            rich_help_panel=_NODES,
        ),
    ] = None,
    master_addr: Annotated[
        str | None,
        typer.Option("--master-addr", metavar="HOST", help="Where node 0 is.", rich_help_panel=_NODES),
    ] = None,
    master_port: Annotated[
        int | None,
        typer.Option(
            "--master-port",
            metavar="PORT",
            min=1,
            max=65535,
            help="Port of node 0 to meet at (29500).",
            rich_help_panel=_NODES,
        ),
    ] = None,
    join_seconds: Annotated[
        float | None,
        typer.Option(
            "--join-seconds", metavar="S", min=1, help="Wait so long for the others (300).", rich_help_panel=_NODES
        ),
    ] = None,
) -> None:
    """Check this environment: does PyTorch work here, and if not, why, and what mends it?

    Exit code 0: nothing failed; 1: something did, or with --strict warned; 2: wrong usage.

    For example:

        llmbench doctor

        llmbench doctor --python .venv/bin/python --only compile,storage

        llmbench doctor --markdown | xclip

        llmbench doctor --fix > fix.sh; less fix.sh; . ./fix.sh

        llmbench doctor --json > golden.json; ssh other llmbench doctor --baseline golden.json

        llmbench doctor --explain torch.import

        llmbench doctor --nodes 4 --node-rank 0 --master-addr h0 --html nodes.html (and 1, 2, 3 on the others)

        srun --ntasks-per-node=1 llmbench doctor --nodes
    """
    from llmbench.doctor.command import Options, carry_out

    raise typer.Exit(
        carry_out(
            Options(
                python=python,
                only=only or (),
                skip=skip or (),
                deep=deep,
                baseline=baseline,
                patience=patience,
                strict=strict,
                verbose=verbose,
                json=as_json,
                markdown=as_markdown,
                github=as_github,
                fix=fix,
                explain=explain,
                html=html,
                nodes=nodes,
                node_rank=node_rank,
                nproc_per_node=nproc_per_node,
                master_addr=master_addr,
                master_port=master_port,
                join_seconds=join_seconds,
            )
        )
    )
