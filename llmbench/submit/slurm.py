"""A job of SLURM: submitted by sbatch, looked after by scontrol, ended by scancel. Accounting is not needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from llmbench.errors import UserError
from llmbench.results.files import numbered_lines
from llmbench.results.store import RunFolder
from llmbench.submit import sbatch
from llmbench.submit.commands import ask, last_words
from llmbench.submit.jobs import Condition, Job, JobFolder
from llmbench.submit.scontrol import condition

NO_SLURM = "run it on a login node of the cluster; `llmbench submit slurm … --plan` shows the script without SLURM"


class SlurmJob:
    """A submitted job of SLURM, as ``jobs.Submitted`` has it."""

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.job: Job = folder.read()

    def look(self) -> Condition:
        done = ask(["scontrol", "show", "job", "-o", self.job.system_id], NO_SLURM)
        if done.returncode == 0 and "JobState=" in done.stdout:
            return condition(done.stdout.splitlines()[0])
        if "Invalid job id" in done.stderr:
            return self._forgotten()
        raise UserError(
            f"scontrol show job {self.job.system_id}: {last_words(done)}", "is slurmctld up? `scontrol ping`"
        )

    def _forgotten(self) -> Condition:
        """SLURM keeps a job for some minutes after its end; sacct knows it longer, where there is accounting."""
        code = self._exit_code()
        if code is not None:
            return Condition("failed" if code else "done", code=code)
        if self.job.state in ("cancelled", "timeout", "node_failed", "out_of_memory", "failed"):
            return Condition(self.job.state, "as it was seen last")
        told = self._accounted()
        return told or Condition("failed", "SLURM has forgotten it, and it left no exit code")

    def _accounted(self) -> Condition | None:
        if shutil.which("sacct") is None:
            return None
        done = ask(["sacct", "-X", "-n", "-P", "-o", "State,ExitCode,NodeList", "-j", self.job.system_id])
        state, code, nodes = ([*done.stdout.strip().splitlines()[:1], ""][0] + "||").split("|")[:3]
        if done.returncode != 0 or not state:
            return None
        return condition(f"JobState={state.split()[0]} ExitCode={code} NodeList={nodes}")

    def _exit_code(self) -> int | None:
        try:
            return int((self.folder.path / sbatch.CODE_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def done(self) -> int | None:
        """Cases with a line in ``records.jsonl``: whole records are read at the end only."""
        pattern = re.compile(rb'"case":"((?:[^"\\]|\\.)*)"')
        lines = numbered_lines(Path(self.job.run) / "records.jsonl")
        return len({found[1] for _, line in lines if (found := pattern.search(line))})

    def fetch(self, out: Path | None) -> Path:
        run = Path(self.job.run)
        if not (run / "run.json").exists():
            raise UserError(
                f"job {self.job.system_id} has no run in {run}: {self.said()}", f"its output: {self.output}"
            )
        if out is None or out.resolve() == run.resolve():
            return run
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out {out} is not empty", "choose another folder")
        try:
            shutil.copytree(run, out, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise UserError(f"cannot copy the run to {out}: {error}", "choose another folder with --out") from None
        return RunFolder(out).path

    def cancel(self) -> None:
        done = ask(["scancel", self.job.system_id], NO_SLURM)
        if done.returncode != 0:
            raise UserError(f"scancel {self.job.system_id}: {last_words(done)}", "is it a job of yours?")

    @property
    def output(self) -> Path:
        return self.folder.path / sbatch.OUTPUT_FILE

    def said(self) -> str:
        """The last line that the job wrote: why it has no run, where it has none."""
        if not self.output.exists():
            return "it has written nothing yet"
        lines = [line.strip() for line in self.output.read_text(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("llmbench: ")] or lines
        return told[-1] if told else "it has written nothing"


def check(options: sbatch.SlurmOptions, file: Path, job_folder: Path) -> None:
    """Lets SLURM judge a script without submitting it: what it cannot run now it might keep waiting for ever.

    Raises:
        UserError: there is no SLURM here, or it refuses, in its words.
    """
    done = ask(sbatch.command(options, file, job_folder, test_only=True), NO_SLURM)
    if done.returncode != 0:
        raise _refusal("SLURM would not run this", done)


def _refusal(what: str, done: subprocess.CompletedProcess[str]) -> UserError:
    words = last_words(done).replace("allocation failure: ", "")
    unreached = "configuration source" in words or "contact slurm controller" in words
    return UserError(f"{what}: {words}", NO_SLURM if unreached else "`sinfo` shows what there is")


def send(options: sbatch.SlurmOptions, file: Path, job_folder: Path) -> str:
    """Submits a script; the id that SLURM gives it.

    Raises:
        UserError: SLURM refuses.
    """
    done = ask(sbatch.command(options, file, job_folder), NO_SLURM)
    # --parsable prints ID, or ID;CLUSTER on a federation.
    found = re.search(r"^(\d+)(;\S+)?\s*$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        raise _refusal("sbatch", done)
    return found[1]


def run_command(python: str, arguments: Sequence[str]) -> list[str]:
    """The command line as it is here: by the interpreter that runs it, which the nodes find at the same path."""
    return [os.path.abspath(python), "-m", "llmbench", "run", *arguments]
