"""Variables by which a launcher tells a process its place in a job, left over or at odds with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from llmbench.doctor.checks.environment_leftovers import assignments
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.runner import Context
from llmbench.doctor.system import ancestors

_RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_PORT")
_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE")
_MPI_LAUNCHERS = re.compile(
    r"\b(?:mpirun|mpiexec|orterun|orted|prte|prted|prterun|prun|hydra\w*|pmi_proxy|slurmstepd|srun|flux|aprun|jsrun|"
    r"pals\w*|palsd|mpirun_rsh)\b"
)
_PYTHON = re.compile(r"python|torchrun|accelerate|deepspeed|ray|jupyter", re.IGNORECASE)
# Platforms whose containers get these variables from the outside, for the job that they are.
_PLATFORMS = ("KUBERNETES_SERVICE_HOST", "SM_TRAINING_ENV", "SM_HOSTS", "AZUREML_RUN_ID", "CLUSTER_SPEC", "RAY_JOB_ID")

STALE = fault(
    "environment.distributed.stale",
    "warn",
    "Variables of another job are left over",
    cause="whatever calls init_process_group (Trainer and Accelerator do when they see these) waits for ranks that "
    "nobody starts",
    fix="unset <names>",
    link="https://docs.pytorch.org/docs/stable/distributed.html",
    script="unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT",
)
HALF = fault(
    "environment.distributed.half",
    "warn",
    "Half of the variables of a job is set",
    cause="init_process_group raises that an environment variable is expected, but not set",
    fix="unset <names>, or start with: <python> -m torch.distributed.run --nproc-per-node=N",
    link="https://docs.pytorch.org/docs/stable/distributed.html",
)
INVALID = fault(
    "environment.distributed.invalid",
    "fail",
    "Variables of a job contradict each other, or are no numbers",
    cause="init_process_group fails, or ranks wait for each other for ever",
    fix="unset <names>, and let the launcher set them",
    link="https://docs.pytorch.org/docs/stable/distributed.html",
)
ELASTIC = fault(
    "environment.distributed.elastic",
    "warn",
    "Variables of torchrun are left over",
    cause="no torchrun runs above this process, but whatever is started believes that it is one of its workers: it "
    "waits for ranks that nobody starts",
    fix="unset <names>",
)
DEFAULTS = fault(
    "environment.distributed.torchrun",
    "warn",
    "Defaults of torchrun are set",
    cause="PET_* variables change every torchrun that is started here: it waits for machines or starts other processes "
    "than its command line says",
    fix="unset <names>",
    link="https://docs.pytorch.org/docs/stable/elastic/run.html",
)
SLURM = fault(
    "environment.distributed.slurm",
    "warn",
    "This is one process of a Slurm job with many tasks, but not started by srun",
    cause="Lightning, Accelerate and others see SLURM_NTASKS and wait for tasks that nobody starts",
    fix="start training with srun; for a single process: unset SLURM_NTASKS, or salloc with --ntasks=1",
    link="https://github.com/Lightning-AI/pytorch-lightning/pull/16955",
)
MPI = fault(
    "environment.distributed.mpi",
    "warn",
    "Variables of an MPI job are left over",
    cause="no mpirun runs above this process, but DeepSpeed, Accelerate and mpi4py believe that they are one of its "
    "ranks, and wait for the others",
    fix="unset <names>",
)
ACCELERATE = fault(
    "environment.distributed.accelerate",
    "warn",
    "Settings of accelerate launch are left over",
    cause="every Trainer and Accelerator started here takes them over: precision, FSDP, DeepSpeed or the CPU",
    fix="unset <names>",
)


@check("environment.distributed", "No variable of another job is left over")
def distributed(context: Context) -> Iterator[Finding]:
    """Compares the variables of launchers with each other and with the processes above this one."""
    names = [name for name in _RENDEZVOUS if name in context.environ]
    above = ancestors()
    found = list(_contradictions(context.environ, names))
    if not found:
        found = [*_rendezvous(context.environ, names, above), *_others(context.environ, above)]
    yield from found
    if not found:
        yield passed(
            f"{assignments(context.environ, names)}, {_origin(context.environ)}"
            if names
            else "neither RANK, WORLD_SIZE nor MASTER_ADDR is set"
        )


def _contradictions(environ: Mapping[str, str], names: list[str]) -> Iterator[Finding]:
    words = [name for name in _NUMBERS if environ.get(name) and not _number(environ, name)[1]]
    if words:
        yield INVALID.found(f"{assignments(environ, words)} is not a number", names=" ".join(words))
        return
    for rank, size in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("LOCAL_RANK", "WORLD_SIZE")):
        if environ.get(rank) and environ.get(size) and _number(environ, rank)[0] >= _number(environ, size)[0]:
            yield INVALID.found(
                f"{rank}={environ[rank]} is not below {size}={environ[size]}, as it must be", names=" ".join(names)
            )
            return
    if environ.get("MASTER_PORT") and not 0 <= _number(environ, "MASTER_PORT")[0] <= 65535:
        yield INVALID.found(f"MASTER_PORT={environ['MASTER_PORT']} is no port", names="MASTER_PORT")


def _rendezvous(environ: Mapping[str, str], names: list[str], above: list[str] | None) -> Iterator[Finding]:
    shown = assignments(environ, names)
    if "TORCHELASTIC_RUN_ID" in environ:
        if above is not None and not any(_PYTHON.search(command) for command in above):
            mine = [*names, *(name for name in environ if name.startswith("TORCHELASTIC_"))]
            yield ELASTIC.found(
                f"TORCHELASTIC_RUN_ID={environ['TORCHELASTIC_RUN_ID']} {shown} set in this environment, but left over: "
                "no torchrun runs above this process",
                names=" ".join(mine),
            )
        return
    if _origin(environ) != _NOBODY:
        return
    several = _number(environ, "WORLD_SIZE")[0] > 1 or _number(environ, "RANK")[0] > 0
    if several and "WORLD_SIZE" in environ:
        yield STALE.found(f"{shown} set in this environment, but not by a launcher: left over", names=" ".join(names))
    elif "RANK" in environ and "WORLD_SIZE" not in environ:
        yield HALF.found(f"{shown} set in this environment, but not WORLD_SIZE", names=" ".join(names))


def _others(environ: Mapping[str, str], above: list[str] | None) -> Iterator[Finding]:
    tasks = _number(environ, "SLURM_NTASKS")[0] or _number(environ, "SLURM_NPROCS")[0]
    if tasks > 1 and "SLURM_STEP_ID" not in environ and "SLURM_STEPID" not in environ:
        yield SLURM.found(
            f"SLURM_NTASKS={tasks} (job {environ.get('SLURM_JOB_ID', '?')}), but SLURM_STEP_ID is not set: this "
            "process was not started by srun"
        )
    sizes = [name for name in _MPI if _number(environ, name)[0] > 1]
    if sizes and above is not None and not any(_MPI_LAUNCHERS.search(command) for command in above):
        prefixes = ("OMPI_", "PMI_", "PMIX_", "MPI_LOCAL", "MV2_COMM")
        mine = [name for name in environ if name.startswith(prefixes)]
        yield MPI.found(
            f"{assignments(environ, sizes)} set in this environment, but left over: no mpirun runs above this process",
            names=" ".join(mine),
        )
    defaults = [name for name in environ if name.startswith("PET_")]
    if defaults and not any(name in environ for name in _PLATFORMS):
        yield DEFAULTS.found(f"{assignments(environ, defaults)} set in this environment", names=" ".join(defaults))
    settings = [name for name in environ if name.startswith(("ACCELERATE_USE_", "ACCELERATE_MIXED_PRECISION", "FSDP_"))]
    if settings and above is not None and not any(_PYTHON.search(command) for command in above):
        yield ACCELERATE.found(
            f"{assignments(environ, settings)} set here, but left over: no launcher runs above this process",
            names=" ".join(settings),
        )


_NOBODY = "set by nobody known"


def _origin(environ: Mapping[str, str]) -> str:
    if "TORCHELASTIC_RUN_ID" in environ:
        return "set by torchrun"
    if "SLURM_STEP_ID" in environ or "SLURM_STEPID" in environ:
        return "set for this step of Slurm"
    if any(name in environ for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")):
        return "set for this rank of MPI"
    platform = next((name for name in _PLATFORMS if name in environ), None)
    return f"set by the platform ({platform})" if platform else _NOBODY


def _number(environ: Mapping[str, str], name: str) -> tuple[int, bool]:
    """The value, 0 if there is none or it is no number; and whether it is one."""
    text = environ.get(name, "").strip()
    good = text.isascii() and text.isdigit()
    return (int(text) if good else 0), good
