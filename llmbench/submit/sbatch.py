"""The script that sbatch is given: written, and shown by ``--plan``. Pure: nothing is asked, nothing is started."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.errors import UserError

GOODBYE_SECONDS = 60  # before the wall limit, the run is asked to close: it records the case in flight and its report
CODE_FILE = "exit_code"  # in the job's folder; for when SLURM has forgotten the job
OUTPUT_FILE = "slurm.out"
_TIME = re.compile(r"\d+|\d+:\d+|\d+:\d+:\d+|\d+-\d+|\d+-\d+:\d+|\d+-\d+:\d+:\d+|UNLIMITED|INFINITE")


@dataclass(frozen=True)
class Work:
    """What a job does, once, on its first node.

    Attributes:
        begin: the command that runs the suite.
        resume: the command that goes on with the run.
        begun: the file that is there when the run has begun.
    """

    begin: Sequence[str]
    resume: Sequence[str]
    begun: Path


@dataclass(frozen=True)
class SlurmOptions:
    """What the job needs of SLURM.

    Attributes:
        gpus_per_node: None asks for no GPUs, as on a cluster without.
        nproc_per_node: ranks of a node; None: one a GPU, without GPUs one.
        time: wall limit as SLURM writes it; None: that of the partition.
        setup: lines of shell that come before llmbench, such as ``module load cuda``.
        more: arguments of sbatch; they come last, and so win.
    """

    nodes: int
    gpus_per_node: int | None = None
    nproc_per_node: int | None = None
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    setup: Sequence[str] = ()
    more: Sequence[str] = ()

    @property
    def ranks_per_node(self) -> int:
        return self.nproc_per_node or self.gpus_per_node or 1

    def check(self) -> None:
        """Raises: UserError: a value that can only be a mistake, or could not be written into a script."""
        for name, value in (("--partition", self.partition), ("--account", self.account)):
            if value is not None and not re.fullmatch(r"[\w.,@+-]+", value):
                raise UserError(f"{name} {value!r}: not a name that SLURM could have", f"{name} NAME")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UserError(f"--time {self.time!r}: not a time of SLURM", "for example 30 (minutes), 2:00:00, 1-12")
        for line in self.setup:
            if "\n" in line or "\0" in line:
                raise UserError(f"--setup {line!r}: more than one line", "give --setup once for each line")


def script(options: SlurmOptions, work: Work, name: str, job_folder: Path, working_folder: Path) -> str:
    """The script of a job.

    Args:
        name: of the suite.
        job_folder: where its output goes; on a disk that the nodes share.
        working_folder: in which it works.
    """
    # The values of these lines are free of what sbatch would read in its own way: see _safe.
    asked = {
        "job-name": "llmbench-" + re.sub(r"[^\w.-]+", "-", name)[:60],
        "nodes": str(options.nodes),
        "ntasks-per-node": str(options.ranks_per_node),
        "gpus-per-node": options.gpus_per_node and str(options.gpus_per_node),
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
        # Whole nodes: whoever shares one with others measures them, too.
        "exclusive": "",
        "mem": "0",
        # Whoever wants SLURM to begin it again by itself says so: --requeue
        "no-requeue": "",
        # A case whose node is lost has failed; those that need only the others go on.
        "no-kill": "",
        "open-mode": "append",
        "signal": f"B:TERM@{GOODBYE_SECONDS}",
    }
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{key}" + (f"={value}" if value else "") for key, value in asked.items() if value is not None]
    code = shlex.quote(str(job_folder / CODE_FILE))
    lines += [
        "",
        f"rm -f {code}",
        f"keep() {{ echo $? > {code}.tmp && mv {code}.tmp {code}; }}",
        "trap keep EXIT",
        f"cd {shlex.quote(str(working_folder))} || exit 2",
        *options.setup,
        "",
        "# Started once, on the first node; each parallel case becomes one srun step on all of them.",
        "# In the background: a signal of SLURM (wall limit, scancel) reaches bash, which passes it on at once.",
        f"llmbench=({shlex.join(work.begin)})",
        "# Submitted or begun again, it goes on with its run.",
        f"[ -e {shlex.quote(str(work.begun))} ] && llmbench=({shlex.join(work.resume)})",
        '"${llmbench[@]}" &',
        "pid=$!",
        "trap 'kill -TERM \"$pid\" 2>/dev/null' TERM INT",
        'wait "$pid"; code=$?',
        'while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def command(options: SlurmOptions, file: Path, job_folder: Path, *, test_only: bool = False) -> list[str]:
    """What submits the script. Paths stand here, as a script's ``#SBATCH`` lines know no quoting of ``%``."""
    output = str(job_folder / OUTPUT_FILE).replace("%", "%%")
    mine = ["--test-only"] if test_only else ["--parsable"]
    return ["sbatch", *mine, f"--output={output}", *options.more, str(file)]
