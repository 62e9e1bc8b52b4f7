"""Following a job in a terminal: lines on stderr as it changes, and what Ctrl-C means."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmbench.cli.submit.summary import fetched
from llmbench.start import CASE_FAILED

if TYPE_CHECKING:
    from llmbench.submit.follow import Seen
    from llmbench.submit.jobs import JobFolder, Submitted


def follow_to_the_end(submitted: Submitted, out: Path | None = None) -> int:
    """Follows a job, brings its run and prints the summary; returns the exit code.

    Raises:
        UserError: the scheduler does not answer any more, or the job ended without a run.
    """
    from llmbench.cli.interrupts import interruptible
    from llmbench.submit.follow import follow

    folder = submitted.folder
    with interruptible() as ending:
        condition = follow(submitted, _teller(folder))
    if ending.code:
        _left(submitted, ask=ending.code == 130)
        return ending.code
    code = fetched(submitted, out)
    if condition.state != "done" and condition.code != CASE_FAILED:
        _say(f"job {folder.read().system_id} did not end well: {condition}")
        return code or condition.code or CASE_FAILED
    return code


def detached(folder: JobFolder) -> None:
    """Tells how to go on with a job that nobody follows; its id is all that goes to stdout."""
    typer.echo(folder.path.name)
    _say(*commands(folder))


def commands(folder: JobFolder) -> list[str]:
    name = folder.path.name
    return [
        f"llmbench submit status {name}   how it is",
        f"llmbench submit fetch {name}    its run, as far as it has come",
        f"llmbench submit cancel {name}   end it",
    ]


def _teller(folder: JobFolder) -> Callable[[Seen], None]:
    """Tells what changed since the last time."""
    told: list[str] = []

    def tell(seen: Seen) -> None:
        job = folder.read()
        line = f"job {job.system_id}: {seen.condition}"
        if line not in told[-1:]:
            _say(line)
            told.append(line)
        if seen.done:
            total = _total(job.run) or job.cases
            _say(f"  {seen.done}{f' of {total}' if total else ''} cases recorded")

    return tell


def _total(run: str) -> int | None:
    """Cases of the run, where it can be seen from here."""
    from llmbench.errors import UserError
    from llmbench.results.store import RunFolder

    try:
        return len(RunFolder(Path(run)).read_run().cases)
    except UserError:
        return None  # it has not begun, or lies elsewhere


def _left(submitted: Submitted, *, ask: bool) -> None:
    """After an interrupt: the job goes on, unless whoever sits at the terminal says that it is to end."""
    name = submitted.folder.read().system_id
    if ask and sys.stdin.isatty() and sys.stderr.isatty() and _yes(f"\nCancel job {name} as well? [y/N] "):
        submitted.cancel()
        _say(f"job {name} is cancelled", *commands(submitted.folder)[:2])
        return
    _say(f"job {name} goes on without being followed", *commands(submitted.folder))


def _yes(question: str) -> bool:
    try:
        print(question, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        return False


def _say(*lines: str) -> None:
    from llmbench.start import complain

    complain(*lines)
