"""What is kept of a submitted job: a folder with ``job.json`` and what the scheduler was given (script or manifest).

The folder is enough to go on: any later process can look after the job, fetch its run or cancel it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, ValidationError

from llmbench.errors import UserError, nearest
from llmbench.results.files import parse, write_atomically
from llmbench.results.schema import Part

FILE = "job.json"

Kind = Literal["slurm", "kubernetes"]
State = Literal[
    "queued", "running", "done", "failed", "cancelled", "timeout", "node_failed", "out_of_memory", "unknown"
]
ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled", "timeout", "node_failed", "out_of_memory"})


class Job(Part):
    """``job.json``: one job as it was submitted, and the state in which it was seen last."""

    schema_version: int = 1
    id: str = Field(description="llmbench's own, and the name of the folder")
    kind: Kind
    system_id: str = Field(description="what the scheduler calls it: SLURM's job id, or NAMESPACE/NAME")
    suite: str
    nodes: int
    run: str = Field(description="folder of the run, as the job sees it; absolute")
    cases: int | None = Field(None, description="of the suite")
    submitted_at: str
    command: list[str] = Field(description="that submitted it")
    working_folder: str = Field(description="in which it was submitted")
    state: State = "queued"
    details: dict[str, str] = Field({}, description="what one kind of job needs beside, e.g. the context of kubectl")


@dataclass(frozen=True)
class Condition:
    """How a job is.

    Attributes:
        reason: why it waits or why it ended so, in the scheduler's words.
        place: the nodes where it runs, in the scheduler's words.
        code: exit code of ``llmbench run``, where the job has ended and it is known.
    """

    state: State
    reason: str | None = None
    place: str | None = None
    code: int | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def __str__(self) -> str:
        beside = ", ".join(filter(None, [self.place and f"on {self.place}", self.reason]))
        return self.state.replace("_", " ") + (f" ({beside})" if beside else "")


class Submitted(Protocol):
    """A job that a scheduler has. Each method may raise ``UserError``: the scheduler does not answer, or refuses."""

    folder: JobFolder

    def look(self) -> Condition:
        """Asks the scheduler."""
        ...

    def done(self) -> int | None:
        """Cases that are recorded so far; None where that cannot be seen from here."""
        ...

    def fetch(self, out: Path | None) -> Path:
        """Brings what there is of the run here; the folder in which it lies now.

        Args:
            out: where it is to be copied to; None: where the job's ``run`` says, if that can be seen from here.
        """
        ...

    def cancel(self) -> None:
        """Asks the scheduler to end it."""
        ...


class JobFolder:
    """One submitted job on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def create(cls, jobs: Path, id_: str) -> Iterator[JobFolder]:
        """Makes the folder of a job that is submitted within the context; ``write`` completes it afterwards.

        Nothing is left of one that could not be submitted.

        Raises:
            UserError: it cannot be written.
        """
        folder = cls(jobs / id_)
        try:
            folder.path.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"cannot write {folder.path}: {error.strerror}", "choose another folder with --jobs"
            ) from None
        try:
            yield folder
        except BaseException:  # Ctrl-C too
            shutil.rmtree(folder.path, ignore_errors=True)
            with suppress(OSError):  # other jobs are there
                folder.path.parent.rmdir()
            raise

    def read(self) -> Job:
        """Raises: UserError: there is no job, or it is damaged (file and field named)."""
        file = self.path / FILE
        try:
            text = file.read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.path} is not a submitted job: {FILE}: {error.strerror}", "`llmbench submit status` lists them"
            ) from None
        return parse(Job, text, file)

    def write(self, job: Job) -> None:
        write_atomically(self.path / FILE, job.model_dump_json(indent=2) + "\n")

    def seen(self, state: State) -> Job:
        """Keeps the state in which the job was seen."""
        job = self.read()
        if job.state != state:
            job = job.model_copy(update={"state": state})
            self.write(job)
        return job


def submitted_jobs(jobs: Path) -> list[JobFolder]:
    """All jobs, the oldest first; their ids sort by time."""
    return [JobFolder(file.parent) for file in sorted(jobs.glob(f"*/{FILE}"))]


def find_job(name: str, jobs: Path) -> JobFolder:
    """A job by its id, by the id that the scheduler gave it, or by the path of its folder.

    Raises:
        UserError: there is none, or several.
    """
    if (jobs / name / FILE).is_file():
        return JobFolder(jobs / name)
    if (Path(name) / FILE).is_file():
        return JobFolder(Path(name))
    known = submitted_jobs(jobs)
    found = [folder for folder in known if _system_id(folder) == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"several jobs are called {name}", f"name one by its own id: {_names(found)}")
    if not known:
        raise UserError(f"no job {name!r}: none was submitted from here", f"they are kept in {jobs}; --jobs DIR")
    raise UserError(f"no job {name!r} in {jobs}", nearest(name, [folder.path.name for folder in known]))


def _system_id(folder: JobFolder) -> str | None:
    try:
        return Job.model_validate_json((folder.path / FILE).read_bytes()).system_id
    except (OSError, ValidationError):
        return None  # a damaged one must not keep others from being found; `status` tells of it


def _names(folders: list[JobFolder]) -> str:
    return ", ".join(folder.path.name for folder in folders)


Opener = Callable[[JobFolder], Submitted]
