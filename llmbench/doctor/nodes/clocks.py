"""The time that this node tells the others, and how node 0 compares it with its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmbench.doctor.checks.nodes_clock import Offset, offset

TRIPS = 5


def now() -> float:
    """Seconds since the epoch, by this node's clock."""
    return time.time()


def compare(ask: Callable[[], float | None]) -> Offset | None:
    """How far a clock is ahead of the one here; None if it does not answer.

    Args:
        ask: gives the time there.
    """
    trips = []
    for _ in range(TRIPS):
        sent = now()
        there = ask()
        if there is None:
            return None
        trips.append((sent, there, now()))
    return offset(trips)
