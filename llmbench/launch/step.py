"""One ``srun`` step: the ranks of one parallel case, started by SLURM on the nodes of the allocation."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmbench.errors import UserError
from llmbench.launch.srun_words import Told

ABORT_SECONDS = 10.0  # for srun to end a step that it is asked to end; then SLURM itself is asked
LOST_SECONDS = 1.0  # for either where a node is lost
GONE_SECONDS = 5.0  # for srun to leave then
SPARE_MINUTES = 3  # of SLURM's own limit beyond ours, which can tell who hangs
# Of the allocation's variables those that would change what a step is asked for below.
_NOT_INHERITED = frozenset(
    {
        "SLURM_CPUS_PER_TASK",
        "SLURM_TRES_PER_TASK",
        "SLURM_NTASKS",
        "SLURM_NPROCS",
        "SLURM_NTASKS_PER_NODE",
        "SLURM_TASKS_PER_NODE",
        "SLURM_NTASKS_PER_GPU",
        "SLURM_GPUS_PER_TASK",
        "SLURM_DISTRIBUTION",
        "SLURM_NO_KILL",
        "SLURM_THREADS_PER_CORE",
        "SLURM_HINT",
        "SLURM_EXACT",
        "SLURM_EXCLUSIVE",
        "SLURM_CPU_BIND",
        "SLURM_MEM_BIND",
        "SLURM_MEM_PER_CPU",
        "SLURM_MEM_PER_GPU",
        "SLURM_MEM_PER_NODE",
    }
)


@dataclass(frozen=True)
class Layout:
    """Which ranks are where.

    Attributes:
        hosts: in the order of their ranks.
        per_host: ranks of each host.
    """

    hosts: Sequence[str]
    per_host: int

    @property
    def size(self) -> int:
        return len(self.hosts) * self.per_host

    def node(self, rank: int) -> int:
        return rank // self.per_host

    def ranks(self, host: str) -> range:
        node = self.hosts.index(host)
        return range(node * self.per_host, (node + 1) * self.per_host)


def command(layout: Layout, name: str, seconds: float, work: Sequence[str]) -> list[str]:
    """What starts a step.

    Args:
        name: of the step, one of its own in the job: by it SLURM finds the step.
        seconds: that the ranks have; SLURM's own limit lies minutes beyond.
        work: what each rank runs.
    """
    return [
        "srun",
        f"--job-name={name}",
        f"--nodes={len(layout.hosts)}",
        f"--ntasks={layout.size}",
        f"--ntasks-per-node={layout.per_host}",
        f"--nodelist={','.join(layout.hosts)}",
        "--distribution=block",
        # What an earlier step left behind, and cannot be killed yet, is no reason to wait.
        "--overlap",
        # All ranks of a node see all of its cores and share them evenly, as under torch's launcher.
        "--cpu-bind=none",
        "--mem=0",
        "--export=ALL",  # whatever the job was told by SBATCH_EXPORT
        "--kill-on-bad-exit=1",
        "--wait=0",  # rank 0 may go on alone for long: it evaluates
        f"--time={int(seconds // 60) + SPARE_MINUTES}",
        "--input=none",
        "--label",
        *work,
    ]


class Step:
    """A step that is under way. What srun and the ranks say before they have a log of their own goes to ``log``."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], log: Path, folder: str | None = None
    ) -> None:
        self.told = Told()
        self._name = next(part for part in command if part.startswith("--job-name=")).partition("=")[2]
        self._job = environ["SLURM_JOB_ID"]
        kept = {name: value for name, value in environ.items() if name not in _NOT_INHERITED}
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=kept,
                cwd=folder,
                text=True,
                errors="replace",
                start_new_session=True,  # a Ctrl-C in a terminal is ours to act on
            )
        except OSError as error:
            raise UserError(f"srun: {error.strerror}", "inside a job of SLURM there is one on the PATH") from None
        self._log = log
        self._reader = threading.Thread(target=self._read, name="srun", daemon=True)
        self._reader.start()

    def wait(self, seconds: float) -> bool:
        """Whether the step has ended; waits so long for it."""
        self._reader.join(seconds)
        return not self._reader.is_alive() and self._process.poll() is not None

    def ask_for_stacks(self) -> None:
        """Lets all ranks write where they are: srun passes the signal on."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        """Ends all ranks; returns when srun has left, or has been made to."""
        if self._process.poll() is None:
            self.told.ending = True
            self._process.terminate()
            # A node that is gone never tells that its ranks are.
            lost = bool(self.told.lost)
            if not self.wait(LOST_SECONDS if lost else ABORT_SECONDS):
                # Beside us: scancel waits long for a node that is gone.
                threading.Thread(target=self._cancel, name="scancel", daemon=True).start()
                if not self.wait(LOST_SECONDS if lost else GONE_SECONDS):
                    with suppress(ProcessLookupError):
                        os.killpg(self._process.pid, signal.SIGKILL)
                    self.wait(GONE_SECONDS)
        self._process.wait(GONE_SECONDS)

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe, open(self._log, "a", encoding="utf-8") as log:
            for line in pipe:
                log.write(line)
                log.flush()
                self.told.hear(line)
        self._process.wait()

    def _cancel(self) -> None:
        """By SLURM itself: srun does not."""
        listed = _slurm(["squeue", "--steps", "--noheader", f"--jobs={self._job}", "--format=%i|%j"])
        for line in listed.splitlines():
            step, _, name = line.strip().partition("|")
            if name == self._name:
                _slurm(["scancel", "--signal=KILL", step])


def _slurm(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ABORT_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
