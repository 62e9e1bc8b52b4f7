"""A real SLURM of several nodes on this machine, each with its own name and address: ``slurm_onebox.sh --netns``.

Every process that starts one has names, addresses and ports of its own, as for ``hosts.py``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from llmbench.submit.scontrol import fields
from tests.conftest import wait_for

from . import hosts

SCRIPT = hosts.TOOLS / "slurm_onebox.sh"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")
FIRST_PORT = 17000


def missing() -> str | None:
    """Why there can be no SLURM here; None if there can."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"a SLURM needs the command {program}: Debian's slurmctld, slurmd, slurm-client, munge"
    if not SCRIPT.exists():
        return f"a SLURM needs {SCRIPT.name} beside the clone"
    return hosts.missing()


class Slurm:
    """Nodes ``h0`` to ``h(count - 1)``, in one partition ``debug``."""

    def __init__(self, count: int, names: Mapping[str, str]) -> None:
        slot = int(names["LLB_PREFIX"].removeprefix("lb"))
        self.count = count
        self.state = Path(f"/run/lb{slot}-slurm")
        self._names = {
            **names,
            "SLURM_ONEBOX": str(self.state),
            "SLURM_ONEBOX_PORT": str(FIRST_PORT + 2 * slot),
            "SLURM_ONEBOX_CPUS": "2",
        }
        self.hosts = hosts.Hosts(count, names)
        self.variables = {"SLURM_CONF": str(self.state / "slurm.conf")}

    def up(self) -> None:
        self._script("down")  # of a run that was killed
        self.hosts.down()
        self._script("up", self.count, "--netns")

    def down(self) -> None:
        self._script("down")

    def kill_node(self, node: int) -> None:
        """All at once, as when its power goes: SLURM's daemon and all processes on it."""
        self._script("kill-node", node)
        for pid in self.hosts.pids(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_node(self, node: int) -> None:
        """As when it was repaired; returns when SLURM gives it out again."""
        self._script("start-node", node)
        wait_for(lambda: self._ask("sinfo", "-h", "-n", f"h{node}", "-o", "%T") == "idle")

    def ends_soon(self, job: str) -> None:
        """Gives a job that runs a wall limit of which less than a minute is left."""
        ran = fields(self._ask("scontrol", "show", "job", "-o", job))["RunTime"]
        hours, minutes, _ = map(int, ran.split(":"))
        self._ask("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 1}")

    def _ask(self, *command: str) -> str:
        done = subprocess.run(command, env={**os.environ, **self.variables}, capture_output=True, text=True)
        return done.stdout.strip()

    def _script(self, verb: str, *arguments: object) -> None:
        command = ["bash", str(SCRIPT), verb, *map(str, arguments)]
        # Into a file: the daemons that it starts hold what it writes to.
        done = subprocess.run(
            command,
            env={**os.environ, **self._names},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise RuntimeError(f"slurm_onebox.sh {verb} {arguments}: exit code {done.returncode}; see {self.state}")


@contextmanager
def slurm(count: int) -> Iterator[Slurm]:
    """A SLURM of ``count`` nodes, gone at the end whatever happened.

    Where there can be none the test is skipped with the reason; where the variable CI is set it fails.
    """
    hosts.demand(missing())
    with hosts.own_names() as names:
        made = Slurm(count, names)
        try:
            made.up()
            yield made
        finally:
            made.down()
