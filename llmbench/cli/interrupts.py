"""Ctrl-C and SIGTERM (a scheduler's goodbye) end long work early, and lose nothing that is finished."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Ending:
    """How the work ended.

    Attributes:
        code: what the shell is to be told; 0 if nobody interrupted.
    """

    code: int = 0


class _TerminatedError(KeyboardInterrupt):
    pass


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM raises a KeyboardInterrupt as Ctrl-C does, so that what was begun is left in order."""

    def terminate(*_: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(reason: KeyboardInterrupt) -> int:
    """What the shell is to be told: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(reason, _TerminatedError) else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[Ending]:
    """The work that may be interrupted; it sees a KeyboardInterrupt for either, and whoever follows the code."""
    ending = Ending()
    try:
        with terminable():
            yield ending
    except KeyboardInterrupt as reason:
        ending.code = exit_code(reason)
