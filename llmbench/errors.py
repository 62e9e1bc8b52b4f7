"""Faults of the user's input: one line that says what is wrong and what to do, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The command line prints it without a traceback and exits with 2.

    Args:
        message: what is wrong, naming the file, line and field where there are any.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names most like ``name`` as text (``did you mean a or b?``), or all of them when none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}"
