"""``llmbench submit kubernetes``: a suite as a job in a Kubernetes cluster."""

from __future__ import annotations

from enum import StrEnum
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
    from llmbench.submit.manifests import KubernetesOptions, Submission
    from llmbench.submit.passed_on import RunOptions


class JobKind(StrEnum):
    """job: needs nothing in the cluster; jobset: JobSet; trainjob: Kubeflow Trainer v2."""

    job = "job"
    jobset = "jobset"
    trainjob = "trainjob"


def kubernetes(
    suite: SuiteName = None,
    image: Annotated[str, typer.Option(help="Image with torch and llmbench, of the version that is here.")] = "",
    nodes: Annotated[int, typer.Option("--nodes", "-N", min=1, help="Pods; each is one node.")] = 1,
    kind: Annotated[JobKind, typer.Option(help="What to make; the last two need their operator.")] = JobKind.job,
    gpus_per_node: GpusPerNode = None,
    gpu_resource: Annotated[str, typer.Option(help="How the cluster calls a GPU.")] = "nvidia.com/gpu",
    nproc_per_node: RanksOfNode = None,
    cpu: Annotated[str | None, typer.Option(help="CPUs of a pod, such as 16. Default: the cluster's.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of a pod, such as 64Gi. Default: the cluster's.")] = None,
    shm_size: Annotated[str, typer.Option(help="Most of /dev/shm, which counts as memory.")] = "8Gi",
    volume: Annotated[
        str | None,
        typer.Option(metavar="PVC", help="Claim of a volume that keeps the run. Default: it comes through the log."),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", "-t", help="Limit once a pod has a machine: minutes, or 90s, 2h, 1d.")
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: kubectl's.")] = None,
    context: Annotated[str | None, typer.Option(help="Of kubectl. Default: its current one.")] = None,
    runtime: Annotated[
        str, typer.Option(help="For trainjob: [TrainingRuntime/]NAME of the runtime.")
    ] = "torch-distributed",
    node_selector: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only on such machines. Repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="On all objects, such as a queue's. Repeatable.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Variable of the pods, readable there. Repeatable.")
    ] = None,
    service_account: Annotated[str | None, typer.Option(help="Default: the namespace's, without its token.")] = None,
    image_pull_secret: Annotated[str | None, typer.Option(help="Secret with which the image is pulled.")] = None,
    workload: Workloads = None,
    mode: Modes = None,
    world_size: AllRanks = None,
    change: Changes = None,
    device: Device = DeviceKind.auto,
    data: Annotated[
        str | None, typer.Option(help="Text to train on, as for `llmbench run`; a path is one in the image.")
    ] = None,
    python: Annotated[str | None, typer.Option("--python", help="Interpreter that trains, in the image.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder here to which the run is brought. Default: reports/runs/ID.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this run on the volume, such as /results/ID.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print the manifest. Needs no kubectl.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job: print its id.")] = False,
    jobs: JobsFolder = DEFAULT,
) -> None:
    """Run a suite as a job in a Kubernetes cluster: make it, follow it, bring the run back, print its summary.

    An Indexed Job with a headless service: each pod is a node and runs `llmbench run`; pod 0 leads. `kubectl` does the
    talking; the server judges the objects before they are made, and they are deleted when the run is here.

    Ctrl-C asks whether to cancel the job. Exit code as that of `llmbench run`: 0 all cases trained, and trained
    right; 3 a case did not.

    Examples:
    - `llmbench submit kubernetes smoke-ddp --nodes 2 --gpus-per-node 8 --image ghcr.io/me/llmbench:1 --time 30m`

    - `llmbench submit kubernetes my-suite.toml -N 2 --image ghcr.io/me/llmbench:1 --volume results --plan`

    - `llmbench submit kubernetes smoke-ddp -N 2 --image ghcr.io/me/llmbench:1 --kind trainjob --detach`
    """
    from llmbench.errors import UserError
    from llmbench.submit.manifests import KubernetesOptions

    if not image:
        raise UserError("which image?", "--image REPOSITORY:TAG of one in which torch and llmbench are installed")
    options = KubernetesOptions(
        nodes=nodes,
        image=image,
        kind=kind.value,
        gpus_per_node=gpus_per_node,
        gpu_resource=gpu_resource,
        nproc_per_node=nproc_per_node,
        cpu=cpu,
        memory=memory,
        shm_size=shm_size,
        volume=volume,
        time=time,
        namespace=namespace,
        runtime=runtime,
        node_selector=node_selector or (),
        labels=label or (),
        env=env or (),
        service_account=service_account,
        image_pull_secret=image_pull_secret,
    )
    options.check()
    chosen = _chosen(suite, workload, mode, world_size, change, device, data, python, resume, options)
    submission, name, cases = _submission(chosen, options)
    if plan:
        from llmbench.submit.as_yaml import to_yaml
        from llmbench.submit.manifests import manifests

        typer.echo(to_yaml(manifests(submission)), nl=False)
        return
    from llmbench.cli.submit.following import detached, follow_to_the_end
    from llmbench.submit.kubernetes import KubernetesJob

    folder = _submitted(submission, name, cases, context, jobs)
    if detach:
        detached(folder)
        return
    raise typer.Exit(follow_to_the_end(KubernetesJob(folder), out))


def _chosen(
    suite: str | None,
    workload: list[str] | None,
    mode: list[str] | None,
    world_size: list[int] | None,
    change: list[str] | None,
    device: DeviceKind,
    data: str | None,
    python: str | None,
    resume: str | None,
    options: KubernetesOptions,
) -> RunOptions:
    from llmbench.errors import UserError
    from llmbench.submit.manifests import RESULTS
    from llmbench.submit.passed_on import RunOptions

    if resume is None:
        return RunOptions(suite, workload or (), mode or (), world_size or (), change or (), device.value, data, python)
    only_resume(suite, workload, mode, world_size, change, data, python, device is not DeviceKind.auto)
    if options.volume is None or not resume.startswith(f"{RESULTS}/") or ".." in resume:
        raise UserError(f"--resume {resume}: no run on a volume", f"--volume PVC --resume {RESULTS}/ID")
    return RunOptions(None, resume=resume)


def _submission(chosen: RunOptions, options: KubernetesOptions) -> tuple[Submission, str, int | None]:
    """The submission, the name of the suite, and how many cases it has where that is known.

    Raises:
        UserError: there is no such suite, or it has no such cases: told here and now, not by the job.
    """
    from dataclasses import replace

    from llmbench.launch.session import new_id
    from llmbench.submit.manifests import RESULTS, Submission, suite_path
    from llmbench.suite.load import shipped

    id_ = new_id()
    job, nodes = f"llmbench-{id_}", ["--nnodes", str(options.nodes), "--nproc-per-node", str(options.ranks_per_node)]
    if chosen.resume is not None:
        arguments = ["run", *chosen.arguments(), *nodes]
        return Submission(job, options, arguments, chosen.resume), chosen.resume.rpartition("/")[2], None
    # By the interpreter that is here: that of --python is one in the image.
    cases, file = cases_of_job(replace(chosen, python=None), options.nodes * options.ranks_per_node)
    own = None
    if chosen.suite is not None and chosen.suite not in shipped():
        own = (file.path.name, file.path.read_text(encoding="utf-8"))
        chosen = replace(chosen, suite=suite_path(file.path.name))
    run = f"{RESULTS}/{id_}"
    return Submission(job, options, ["run", *chosen.arguments(run), *nodes], run, own), file.name, len(cases)


def _submitted(submission: Submission, suite: str, cases: int | None, context: str | None, jobs: Path) -> JobFolder:
    """Writes the manifest, lets the server judge it, and makes the objects. Nothing is left of what it refuses."""
    from llmbench.cli.submit.jobs import new_job
    from llmbench.submit.as_yaml import to_yaml
    from llmbench.submit.jobs import JobFolder
    from llmbench.submit.kubectl import Kubectl
    from llmbench.submit.kubernetes import MANIFEST, send
    from llmbench.submit.manifests import manifests

    options = submission.options
    text = to_yaml(manifests(submission))
    kubectl = Kubectl(context, options.namespace).current()
    with JobFolder.create(jobs.absolute(), submission.name.removeprefix("llmbench-")) as folder:
        (folder.path / MANIFEST).write_text(text, encoding="utf-8")
        namespace = send(kubectl, folder.path / MANIFEST, submission.name)
    known = {
        "kind": options.kind,
        "image": options.image,
        "context": kubectl.context,
        "volume": options.volume,
        "service_account": options.service_account,
        "image_pull_secret": options.image_pull_secret,
    }
    details = {key: value for key, value in known.items() if value is not None}
    system_id = f"{namespace}/{submission.name}"
    folder.write(new_job(folder, "kubernetes", system_id, suite, options.nodes, submission.run, cases, details))
    return folder
