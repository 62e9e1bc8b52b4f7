"""Where ``llmbench`` starts: faults of user, machine or input end in a line and an exit code, never in a traceback.

Standard library only. Where llmbench's own libraries cannot be imported, ``llmbench doctor`` goes on without them: that
may be the very fault that it is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llmbench.errors import UserError
from llmbench.results.redact import redact

USAGE = 2
CASE_FAILED = 3


def main() -> None:
    """Entry point."""
    sys.path[:] = _hiding_nothing(sys.path)
    arguments = sys.argv[1:]
    debug = "--debug" in arguments  # wherever it stands: who needs it appends it to the command that failed
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        _command(arguments)(arguments)
    except UserError as error:
        if debug:
            raise
        complain(f"llmbench: {error.message}", *([f"  {error.hint}"] if error.hint else []))
        sys.exit(USAGE)
    except OSError as error:  # a full disk, a folder that vanished: a fault of the machine
        if debug:
            raise
        complain(*_of_the_disk(error))
        sys.exit(USAGE)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is left is to end, which needs no traceback


def _command(arguments: Sequence[str]) -> Callable[[list[str]], object]:
    """The command line, or what is left of it without the libraries that it is made with."""
    try:
        from llmbench.cli import app

        if _is_doctor(arguments):
            import pydantic  # noqa: F401  # typer imports it, but only when it parses
    except Exception as error:  # whatever a broken package raises
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
        return lambda arguments: _doctor_alone(arguments, fault)
    return app


def _is_doctor(arguments: Sequence[str]) -> bool:
    return list(arguments[:1]) == ["doctor"]


def _doctor_alone(arguments: list[str], fault: str) -> None:
    if not _is_doctor(arguments):
        raise UserError(
            f"its own libraries cannot be imported: {fault}", "llmbench doctor works without them, and may say why"
        )
    from llmbench.doctor.command import Options, carry_out

    parser = argparse.ArgumentParser(
        "llmbench doctor", description=f"Reduced to what needs no library: {fault}", allow_abbrev=False
    )
    for name in ("deep", "strict", "verbose", "json", "markdown", "github", "fix"):
        parser.add_argument(f"--{name}", *(["-v"] if name == "verbose" else []), action="store_true")
    for name in ("python", "explain"):
        parser.add_argument(f"--{name}")
    for name in ("only", "skip"):
        parser.add_argument(f"--{name}", action="append", default=[])
    for name in ("baseline", "html"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--patience", type=float, default=1.0)
    parser.add_argument("--nodes", "--nnodes", nargs="?", const="environment")
    for name, kind in (("node-rank", int), ("nproc-per-node", int), ("master-port", int), ("join-seconds", float)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--master-addr")
    sys.exit(carry_out(Options(**vars(parser.parse_args(arguments[1:])), own_fault=fault)))


def _hiding_nothing(path: Sequence[str]) -> list[str]:
    """The import path with PYTHONPATH and the working folder last, unless llmbench itself comes from there.

    A file there that hides a part of the standard library is a fault to be told, and must not become one of ours. What
    judges the environment still sees it first.
    """
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    last = {os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    with contextlib.suppress(OSError):  # it was deleted
        last.add(os.getcwd())
    return sorted(path, key=lambda entry: os.path.abspath(entry or ".") in last - {ours})


def _of_the_disk(error: OSError) -> list[str]:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return [f"llmbench: {error}"]
    where = f"{error.filename}: " if error.filename else ""
    # Of a run all is kept that was recorded before.
    return [f"llmbench: {where}{error.strerror}", "  free some space; a run goes on with `llmbench run --resume RUN`"]


def complain(*lines: str) -> None:
    """To stderr, without secrets; to nowhere if it is closed or full, since the exit code says it too."""
    if sys.stderr is None:
        return
    try:
        for line in lines:
            print(redact(line), file=sys.stderr)
        sys.stderr.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
