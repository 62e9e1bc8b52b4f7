"""How a job tells where it is, so that progress can be shown and a hang can be placed."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol


class Events(Protocol):
    """Where events go: the pipe to the control side."""

    def send(self, event: str, **values: Any) -> None: ...


def enter(events: Events, phase: str) -> float:
    """Tells which phase begins, to the control side and to the log; returns the time."""
    events.send("phase", name=phase)
    print(f"llmbench: {phase}", file=sys.stderr, flush=True)
    return time.perf_counter()
