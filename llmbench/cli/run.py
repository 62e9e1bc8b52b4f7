"""``llmbench run``: trains the cases of a suite, and writes the run and its report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.chosen import Changes, Device, Modes, SuiteName, Workloads, cases_of, only_resume
from llmbench.cli.nodes import (
    JOIN_SECONDS,
    JoinSeconds,
    MasterAddress,
    MasterPort,
    NodeCount,
    NodeOptions,
    NodeRank,
    ProcessCount,
    follow,
    led,
    processes_here,
)
from llmbench.cli.options import BenchmarkFile, DeviceKind, JunitFile, MarkdownFile, ProgressKind
from llmbench.cli.outputs import Outputs
from llmbench.start import CASE_FAILED

if TYPE_CHECKING:
    from llmbench.cli.nodes import Led
    from llmbench.cluster.allocation import Allocation
    from llmbench.cluster.place import Place
    from llmbench.launch.session import Request, Session
    from llmbench.launch.trains import Trains
    from llmbench.results.schema import Run
    from llmbench.results.store import RunFolder
    from llmbench.suite.cases import Case


def run(
    suite: SuiteName = None,
    workload: Workloads = None,
    mode: Modes = None,
    python: Annotated[
        str, typer.Option("--python", help="Interpreter that trains; llmbench need not be installed there.")
    ] = sys.executable,
    world_size: Annotated[
        list[int] | None,
        typer.Option("--world-size", min=1, help="Processes of a parallel mode, instead of the suite's."),
    ] = None,
    device: Device = DeviceKind.auto,
    data: Annotated[
        str | None,
        typer.Option(help="Text to train on: file or folder (UTF-8), or wikitext-2, wikitext-103. Default: generated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: reports/runs/ID.")] = None,
    change: Changes = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would run, and what it would cost.")] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder: run what is missing or failed.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the run and its records as one JSON document.")
    ] = False,
    progress: Annotated[ProgressKind, typer.Option(help="How to show progress, on stderr.")] = ProgressKind.auto,
    junit: JunitFile = None,
    markdown: MarkdownFile = None,
    benchmark_json: BenchmarkFile = None,
    nnodes: NodeCount = None,
    node_rank: NodeRank = None,
    nproc_per_node: ProcessCount = None,
    master_addr: MasterAddress = None,
    master_port: MasterPort = None,
    join_seconds: JoinSeconds = JOIN_SECONDS,
) -> None:
    """Train the cases of a suite; record throughput, memory, energy and loss; write a report.

    Every case runs in a fresh process. Exit code 0: all cases trained, and trained right; 3: a case did not.
    In GitHub Actions it annotates what failed, and appends the result to the summary of the step.

    With --nnodes it is started on every node with the same options; parallel modes train on all of them together.

    Examples:
        llmbench run smoke

        llmbench run smoke --workload gpt --mode compile+bf16 --set steps=300

        llmbench run my-suite.toml --data corpus/ --python ~/venvs/nightly/bin/python --out runs/nightly

        llmbench run --resume runs/nightly

        llmbench run ci --junit junit.xml --markdown comment.md

        llmbench run smoke-ddp --nnodes 2 --node-rank 0 --master-addr host0    # on host0; on host1: --node-rank 1
    """
    command = ["llmbench", *sys.argv[1:]]
    outputs = Outputs(as_json, junit, markdown, benchmark_json)
    outputs.check(plan=plan)
    options = NodeOptions(nnodes, node_rank, nproc_per_node, master_addr, master_port, join_seconds)
    allocation = options.allocation()
    place = None if allocation else options.place()
    processes = processes_here(place.nproc_per_node if place else nproc_per_node, device) if place or allocation else 1
    if place is not None and not place.leads:
        raise typer.Exit(follow(place, interpreter(python), processes, join_seconds, progress))
    nodes = Nodes(place, allocation, processes, join_seconds) if place or allocation else None
    if resume is not None:
        only_resume(suite, workload, mode, world_size, data, out, change)
        raise typer.Exit(_resume(resume, outputs, progress, nodes))
    python = interpreter(python)

    def resolved(ranks: int | None) -> Request:
        """What is asked for, with so many ranks of a parallel mode unless the command line says how many."""
        sizes = world_size or ([ranks] if ranks else None)
        cases, file = cases_of(python, suite, workload, mode, sizes, change)
        from llmbench.launch.session import Request, new_id

        return Request(
            suite=file.name,
            suite_file=str(file.path),
            description=file.suite.description,
            cases=cases,
            ladder=[] if mode else file.suite.ladder,
            python=python,
            device=device.value,
            data=data,
            out=out or Path("reports", "runs", new_id()),
            command=command,
        )

    request = resolved(nodes.count * processes if nodes else None)
    if plan:
        _plan(request.cases, as_json)
        return
    raise typer.Exit(_start(request, resolved, outputs, progress, nodes))


@dataclass(frozen=True)
class Nodes:
    """Node 0, which this is, before the others have joined.

    Attributes:
        place: where every node runs this command.
        allocation: where it runs once, in a script of SLURM.
        processes: ranks that it can take.
    """

    place: Place | None
    allocation: Allocation | None
    processes: int
    join_seconds: float

    @property
    def count(self) -> int:
        return self.place.nnodes if self.place else len(self.allocation.hosts) if self.allocation else 1


def interpreter(python: str) -> str:
    """The absolute path of ``--python``.

    Raises:
        UserError: there is none.
    """
    import shutil

    from llmbench.errors import UserError

    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise UserError(f"--python {python}: no such program", "name a Python interpreter, such as VENV/bin/python")
    return os.path.abspath(found)


def _plan(cases: list[Case], as_json: bool) -> None:
    from llmbench.cli.tables import plan_table

    rows = [
        {
            "case": case.id,
            "parameters": case.parameters[0] if case.parameters else None,
            "trainable": case.parameters[1] if case.parameters else None,
            "steps": case.config["steps"],
            "work_per_step": case.work_per_step,
            "unit": case.family.unit.removesuffix("/s"),
            "flops_per_step": case.flops_per_step,
            "memory_bytes": case.memory_bytes,
            "refused": case.refused,
        }
        for case in cases
    ]
    typer.echo(json.dumps(rows, indent=2) if as_json else plan_table(rows))


def _start(
    request: Request,
    resolved: Callable[[int | None], Request],
    outputs: Outputs,
    kind: ProgressKind,
    nodes: Nodes | None,
) -> int:
    from llmbench.cli.progress import progress_of
    from llmbench.launch.session import preload, start

    with progress_of(kind) as progress, _joined(nodes, progress.preparing) as joined:
        if joined and nodes and set(joined.processes) != {nodes.processes}:
            request = resolved(sum(joined.processes))
        with _target(joined, nodes, request.python, preload(request.cases), request.out) as target:
            progress.follow(target.steps_done)
            session = start(request, target, progress)
            _tell_differences(session.run)
            with session:
                code = _execute(session)
    return _finish(session.folder, code, outputs)


def _resume(path: Path, outputs: Outputs, kind: ProgressKind, nodes: Nodes | None) -> int:
    from llmbench.cli.progress import progress_of
    from llmbench.launch.session import preload, resume
    from llmbench.results.store import RunFolder
    from llmbench.suite.cases import from_plan

    folder = RunFolder(path)
    run_ = folder.read_run()
    cases = [from_plan(planned) for planned in run_.cases]
    there = run_.working_folder if Path(run_.working_folder).is_dir() else None
    with (
        progress_of(kind) as progress,
        _joined(nodes, progress.preparing) as joined,
        _target(joined, nodes, run_.python, preload(cases), path, there) as target,
    ):
        progress.follow(target.steps_done)
        session = resume(folder, run_, target, progress)
        _tell_differences(session.run)
        with session:
            code = _execute(session)
    return _finish(session.folder, code, outputs)


def _joined(nodes: Nodes | None, say: Callable[[str], None]) -> AbstractContextManager[Led | None]:
    return led(nodes.place, nodes.processes, nodes.join_seconds, say) if nodes and nodes.place else nullcontext()


@contextmanager
def _target(
    joined: Led | None, nodes: Nodes | None, python: str, modules: list[str], run_: Path, folder: str | None = None
) -> Iterator[Trains]:
    """Who trains: an interpreter here, and those of the other nodes if there are any.

    Args:
        run_: the folder of the run.
        folder: in which they work.
    """
    from llmbench.launch.nodes import Nodes as Several
    from llmbench.launch.target import Target

    with Target(python, modules, folder) as target:
        if nodes and nodes.allocation:
            from llmbench.launch.srun import Steps

            with Steps(nodes.allocation, target, nodes.processes, run_, folder) as steps:
                yield steps
            return
        if joined is None:
            yield target
            return
        several = Several(joined.leader, target, joined.processes)
        several.begin(modules)
        yield several


def _tell_differences(run_: Run) -> None:
    from llmbench.cli.tables import differences_between_nodes
    from llmbench.start import complain

    complain(*filter(None, [differences_between_nodes(run_)]))


def _execute(session: Session) -> int:
    """Runs the cases."""
    from llmbench.cli.interrupts import interruptible
    from llmbench.launch.session import broken

    with interruptible() as ending:
        records = session.execute()
        return CASE_FAILED if broken(records) else 0
    session.interrupted()
    return ending.code


def _finish(folder: RunFolder, code: int, outputs: Outputs) -> int:
    from llmbench.cli.peers import peers_table
    from llmbench.cli.report import tell_damage
    from llmbench.cli.tables import summary
    from llmbench.report import write_run_report
    from llmbench.report.outputs.github import harmless, on_actions
    from llmbench.report.run.on_github import tell_github
    from llmbench.report.run.outputs import write_outputs
    from llmbench.start import USAGE

    write_outputs([folder], outputs.junit, outputs.markdown)
    if outputs.benchmarks:
        from llmbench.report.outputs.benchmarks import run_benchmarks
        from llmbench.report.outputs.files import write

        write(outputs.benchmarks, run_benchmarks(folder))

    report = write_run_report(folder)
    run_, records = folder.recorded_run(), [recorded.record for recorded in folder.recorded() if not recorded.damage]
    if tell_damage(folder):
        code = code or USAGE
    if outputs.json:
        document = {
            "run": run_.model_dump(mode="json", by_alias=True),
            "records": [record.model_dump(mode="json", by_alias=True) for record in records],
            "report": str(report),
            "exit_code": code,
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        parts = [peers_table(records), summary(run_, records, folder.path, report)]
        text = "\n\n".join(filter(None, parts))
        typer.echo(harmless(text) if on_actions() else text)
    tell_github(folder)
    return code
