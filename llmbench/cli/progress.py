"""Progress on stderr: live in a terminal, else one plain line for each case as it ends."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from llmbench.cli.options import ProgressKind
from llmbench.cli.tables import case_line, status_word

if TYPE_CHECKING:
    from llmbench.results.schema import Record
    from llmbench.suite.cases import Case

HEARTBEAT_SECONDS = 60.0
REDRAW_SECONDS = 0.5
RECENT = 8
TIMED = "timed"


def progress_of(kind: ProgressKind, stream: TextIO | None = None) -> Quiet:
    """The progress to show. ``auto`` is live only where somebody looks at a terminal that can redraw."""
    stream = stream or sys.stderr
    if kind is ProgressKind.none:
        return Quiet()
    can_redraw = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI")
    if kind is ProgressKind.live or (kind is ProgressKind.auto and can_redraw):
        return Live(stream)
    return Plain(stream)


def _steps_text(done: int | None, total: int) -> str:
    """How far a case has come; beyond its training it is timed on."""
    if not done:
        return ""
    return f", step {done} of {total}" if done <= total else f", step {done} ({done - total} beyond the training)"


class Quiet:
    """Says nothing; the base of the others."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def follow(self, steps: Callable[[], int | None]) -> None:
        """Gives it something to ask how many training steps the case in flight has done."""
        return

    def preparing(self, message: str) -> None:
        return

    def started(self, number: int, total: int, case: Case) -> None:
        return

    def phase(self, name: str) -> None:
        return

    def finished(self, number: int, total: int, record: Record) -> None:
        return


class Plain(Quiet):
    """For logs: a line a case, and a sign of life every minute of a long one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._now = ""
        self._began = 0.0
        self._phase = ""
        self._steps: Callable[[], int | None] = lambda: None
        self._total_steps = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Plain:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def follow(self, steps: Callable[[], int | None]) -> None:
        self._steps = steps

    def preparing(self, message: str) -> None:
        self._print(message)

    def started(self, number: int, total: int, case: Case) -> None:
        self._now, self._phase, self._began = case.id, "start", time.monotonic()
        self._total_steps = case.config["steps"]

    def phase(self, name: str) -> None:
        self._phase = name

    def finished(self, number: int, total: int, record: Record) -> None:
        self._now = ""
        self._print(case_line(number, total, record))

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            if self._now:
                place = self._phase + _steps_text(self._steps(), self._total_steps)
                self._print(f"… {self._now}: {place}, {time.monotonic() - self._began:.0f} s")

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Live(Quiet):
    """For terminals: the last cases, the running one, and a bar. It rests while a timed window is open."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(file=stream, highlight=False, force_terminal=True)
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._counts: Counter[str] = Counter()
        self._message = ""
        self._now = ""
        self._phase = ""
        self._steps: Callable[[], int | None] = lambda: None
        self._total_steps = 0
        self._number, self._total = 0, 0
        self._began = self._case_began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._redraw, daemon=True)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True, get_renderable=self._render)

    def __enter__(self) -> Live:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()
        self._live.stop()
        for line in self._recent:
            self._console.print(line, markup=False, overflow="ellipsis", no_wrap=True)

    def follow(self, steps: Callable[[], int | None]) -> None:
        self._steps = steps

    def preparing(self, message: str) -> None:
        self._message = message

    def started(self, number: int, total: int, case: Case) -> None:
        self._message = ""
        self._number, self._total, self._now = number, total, case.id
        self._phase, self._case_began = "start", time.monotonic()
        self._total_steps = case.config["steps"]

    def phase(self, name: str) -> None:
        self._phase = name
        if name == TIMED:
            self._live.refresh()  # the last time before the rest

    def finished(self, number: int, total: int, record: Record) -> None:
        self._recent.append(case_line(number, total, record))
        self._counts[status_word(record.status)] += 1
        self._now = self._phase = ""

    def _redraw(self) -> None:
        while not self._over.wait(REDRAW_SECONDS):
            if self._phase != TIMED:
                self._live.refresh()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        lines: list[Any] = [Text(line, overflow="ellipsis", no_wrap=True) for line in self._recent]
        if self._message:
            lines.append(Text(f"{self._message} …", style="dim"))
        if self._now:
            resting = " (the display rests while the clock runs)" if self._phase == TIMED else ""
            seconds = time.monotonic() - self._case_began
            place = self._phase + _steps_text(self._steps(), self._total_steps)
            lines.append(Text(f"▶ {self._now}  {place}{resting}  {seconds:.0f} s", style="bold", no_wrap=True))
        if self._total:
            done = sum(self._counts.values())
            elapsed = time.monotonic() - self._began
            left = f", about {elapsed / done * (self._total - self._number + 1):.0f} s left" if done else ""
            counts = "  ".join(f"{count} {word}" for word, count in self._counts.items())
            grid = Table.grid(padding=(0, 1))
            grid.add_row(
                ProgressBar(total=self._total, completed=done, width=30),
                Text(f"{done}/{self._total}  {counts}  {elapsed:.0f} s{left}"),
            )
            lines.append(grid)
        return Group(*lines)
