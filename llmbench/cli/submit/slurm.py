"""``llmbench submit slurm``: a suite as a job of SLURM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.cli.chosen import (
    AllRanks,
    Changes,
    Device,
    GpusPerNode,
    Modes,
    RanksOfNode,
    SuiteName,
    Workloads,
    cases_of_job,
    only_resume,
)
from llmbench.cli.options import DeviceKind
from llmbench.cli.submit.options import DEFAULT, JobsFolder

if TYPE_CHECKING:
    from llmbench.submit.jobs import JobFolder
    from llmbench.submit.passed_on import RunOptions
    from llmbench.submit.sbatch import SlurmOptions, Work


def slurm(
    suite: SuiteName = None,
    sbatch_args: Annotated[
        list[str] | None, typer.Argument(metavar="[-- SBATCH_ARGS…]", help="Given to sbatch as they are; they win.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", "-N", min=1, help="How many. Default: one; with --resume, as before.")
    ] = None,
    gpus_per_node: GpusPerNode = None,
    nproc_per_node: RanksOfNode = None,
    partition: Annotated[str | None, typer.Option("--partition", "-p", help="Default: SLURM's.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", "-t", help="Wall limit: minutes, HH:MM:SS or D-HH. Default: SLURM's.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", "-A", help="Who pays. Default: SLURM's.")] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(metavar="LINE", help="Line of shell before llmbench, such as `module load cuda`. Repeatable."),
    ] = None,
    workload: Workloads = None,
    mode: Modes = None,
    world_size: AllRanks = None,
    change: Changes = None,
    device: Device = DeviceKind.auto,
    data: Annotated[str | None, typer.Option(help="Text to train on, as for `llmbench run`.")] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="Interpreter that trains, as the nodes see it. Default: this one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, on a disk that the nodes share. Default: reports/runs/ID.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print the script and the command.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job: print its id.")] = False,
    jobs: JobsFolder = DEFAULT,
) -> None:
    """Run a suite as a job of SLURM: submit it, follow it, print its summary.

    The job takes whole nodes. It runs `llmbench run` once, on its first node; each parallel case is one `srun` step
    over all of them. This folder must be on a disk that the nodes share, and llmbench installed where they see it.

    Ctrl-C asks whether to cancel the job. Exit code as that of `llmbench run`: 0 all cases trained, and trained
    right; 3 a case did not.

    Examples:
    - `llmbench submit slurm smoke-ddp --nodes 2 --gpus-per-node 8 --partition gpu --time 30`

    - `llmbench submit slurm my-suite.toml -N 4 --setup "module load cuda" --plan`

    - `llmbench submit slurm smoke-ddp -N 2 --detach -- --qos=low --reservation=tests`

    - `llmbench submit slurm --resume reports/runs/20260101-120000-ab12`
    """
    from llmbench.cli.run import interpreter
    from llmbench.launch.session import new_id
    from llmbench.results.store import RunFolder
    from llmbench.submit.passed_on import RunOptions
    from llmbench.submit.sbatch import SlurmOptions

    before = None
    if resume is not None:
        only_resume(suite, workload, mode, world_size, change, data, python, out, device is not DeviceKind.auto)
        before = RunFolder(resume).read_run()
        passed = RunOptions(None, resume=str(resume.absolute()))
    else:
        python = interpreter(python) if python else None
        passed = RunOptions(
            suite, workload or (), mode or (), world_size or (), change or (), device.value, data, python
        )
    nodes_before = before.nodes if before else []
    if nodes_before and gpus_per_node is None:
        nproc_per_node = nproc_per_node or nodes_before[0].processes
    options = SlurmOptions(
        nodes or len(nodes_before) or 1,
        gpus_per_node,
        nproc_per_node,
        partition,
        time,
        account,
        setup or (),
        sbatch_args or (),
    )
    options.check()
    if before is not None and resume is not None:
        name, cases, run = before.suite, len(before.cases), resume.absolute()
    else:
        found, file = cases_of_job(passed, options.nodes * options.ranks_per_node)
        name, cases, run = file.name, len(found), (out or Path("reports", "runs", new_id())).absolute()
    if plan:
        _plan(options, passed, name, run, jobs)
        return
    from llmbench.cli.submit.following import detached, follow_to_the_end
    from llmbench.submit.slurm import SlurmJob

    folder = _submitted(options, passed, name, run, jobs, cases)
    if detach:
        detached(folder)
        return
    raise typer.Exit(follow_to_the_end(SlurmJob(folder)))


def _work(options: SlurmOptions, passed: RunOptions, run: Path) -> Work:
    from llmbench.results.store import RunFolder
    from llmbench.submit.passed_on import RunOptions
    from llmbench.submit.sbatch import Work
    from llmbench.submit.slurm import run_command

    nodes = ["--nnodes", str(options.nodes), "--nproc-per-node", str(options.ranks_per_node)]
    begin, resume = (
        run_command(sys.executable, [*each.arguments(str(run)), *nodes])
        for each in (passed, RunOptions(None, resume=str(run)))
    )
    return Work(begin, resume, RunFolder(run).run_file)


def _plan(options: SlurmOptions, passed: RunOptions, name: str, run: Path, jobs: Path) -> None:
    import shlex

    from llmbench.submit import sbatch

    folder = jobs.absolute() / "ID"
    typer.echo(sbatch.script(options, _work(options, passed, run), name, folder, Path.cwd()), nl=False)
    typer.echo(f"\n# {shlex.join(sbatch.command(options, folder / 'job.sh', folder))}")


def _submitted(options: SlurmOptions, passed: RunOptions, name: str, run: Path, jobs: Path, cases: int) -> JobFolder:
    """Writes the script, lets SLURM judge it, and submits it. Nothing is left of what SLURM refuses."""
    from llmbench.cli.submit.jobs import new_job
    from llmbench.launch.session import new_id
    from llmbench.submit import sbatch
    from llmbench.submit.jobs import JobFolder
    from llmbench.submit.slurm import check, send

    with JobFolder.create(jobs.absolute(), new_id()) as folder:
        file = folder.path / "job.sh"
        text = sbatch.script(options, _work(options, passed, run), name, folder.path, Path.cwd())
        file.write_text(text, encoding="utf-8")
        check(options, file, folder.path)
        system_id = send(options, file, folder.path)
    folder.write(new_job(folder, "slurm", system_id, name, options.nodes, str(run), cases))
    return folder
