"""Progress of a comparison on stderr: in a terminal what the sessions say so far, else a line for each case."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from llmbench.cli.options import ProgressKind

if TYPE_CHECKING:
    from llmbench.stats.ab import CaseVerdict

SILENCE_SECONDS = 30.0  # after which a log is told that it goes on


def ab_progress(kind: ProgressKind, stream: TextIO | None = None) -> AbProgress:
    """The progress to show. ``auto`` is live only where somebody looks at a terminal that can redraw."""
    stream = stream or sys.stderr
    can_redraw = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI")
    live = kind is ProgressKind.live or (kind is ProgressKind.auto and can_redraw)
    return AbProgress(None if kind is ProgressKind.none else stream, live=live)


class AbProgress:
    """Says between the sessions how it stands; while they last it is silent, so as not to disturb them."""

    def __init__(self, stream: TextIO | None, *, live: bool) -> None:
        self._stream, self._live = stream, live
        self._place = ""
        self._said = time.monotonic()
        self._pending = False

    def __enter__(self) -> AbProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def preparing(self, message: str) -> None:
        self._say(message, keep=not self._live)

    def started(self, number: int, total: int, case: str) -> None:
        self._place = f"[{number}/{total}] {case}"
        if self._live:
            self._say(f"{self._place}: first session", keep=False)
        self._said = time.monotonic()

    def session(self, verdict: CaseVerdict) -> None:
        from llmbench.cli.ab_text import case_line

        if self._live or time.monotonic() - self._said > SILENCE_SECONDS:
            self._say(f"… {case_line(verdict)}", keep=not self._live)

    def finished(self, number: int, total: int, verdict: CaseVerdict) -> None:
        from llmbench.cli.ab_text import case_line

        self._say(f"[{number}/{total}] {case_line(verdict)}", keep=True)

    def _say(self, line: str, *, keep: bool) -> None:
        if self._stream is None:
            return
        self._clear()
        print(line, file=self._stream, end="\n" if keep else "", flush=True)
        self._pending = not keep
        self._said = time.monotonic()

    def _clear(self) -> None:
        """Takes away the line that was only for now."""
        if self._pending and self._stream is not None:
            print("\r\x1b[2K", file=self._stream, end="", flush=True)
            self._pending = False
