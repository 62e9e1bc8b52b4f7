"""Following a job until it ends: what changed is told, and the scheduler is not asked too often."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llmbench.errors import UserError
from llmbench.submit.jobs import Condition, Submitted

SHORTEST, LONGEST = 1.0, 10.0  # seconds between two questions: often at the beginning, seldom to a job that waits long
PATIENCE = 120.0  # seconds for which a scheduler may give no answer: it is restarted now and then


@dataclass(frozen=True)
class Seen:
    """What is known of a job at one time.

    Attributes:
        done: cases that are recorded; None where that cannot be seen.
    """

    condition: Condition
    done: int | None = None


def follow(
    submitted: Submitted, tell: Callable[[Seen], None], pause: Callable[[float], None] = time.sleep
) -> Condition:
    """Looks after a job until it has ended; every change is told and its state kept in ``job.json``.

    Raises:
        UserError: the scheduler gave no answer for two minutes.
    """
    before, wait, silent_since = None, SHORTEST, None
    while True:
        try:
            condition = submitted.look()
            silent_since = None
        except UserError:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > PATIENCE:
                raise
            pause(wait)
            continue
        submitted.folder.seen(condition.state)
        seen = Seen(condition, submitted.done() if condition.state != "queued" else None)
        if seen != before:
            tell(seen)
        if condition.ended:
            return condition
        wait = (
            SHORTEST if before is None or seen.condition.state != before.condition.state else min(wait * 1.5, LONGEST)
        )
        before = seen
        pause(wait)
