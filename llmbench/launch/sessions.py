"""The sessions of one case: drawn, held, and added until the verdict is in."""

from __future__ import annotations

import math
import mmap
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from llmbench.launch.pair import Contender, Session, apart, in_turns
from llmbench.launch.record import utc_now
from llmbench.results.ab import SIDES, Ab, AbCase, AbSession, SideName
from llmbench.results.ab_folder import AbFolder
from llmbench.stats.ab import CaseVerdict, judged

CPU_LOOK_SECONDS = 0.2
PAIRS = 2
MOST_PAGES = 2**14  # of 4 KiB: 64 MiB of addresses, none of which is ever touched
PAGES, PADDING = "LLMBENCH_LAYOUT", "LLMBENCH_PADDING"

Design = Literal["lockstep", "apart"]


@dataclass(frozen=True)
class Draw:
    """What is left to chance in a session, drawn for both sides alike.

    Attributes:
        seed: of the order of turns.
        start: who is started first.
        variables: of the environment of both processes, see ``layout``.
        shifts: pages by which processes forked from others move what they allocate, of each pair of the session.
    """

    case: str
    number: int
    seed: int
    start: Sequence[SideName]
    variables: Mapping[str, str]
    shifts: Sequence[int]


def draw(ab: Ab, case: AbCase, number: int) -> Draw:
    """What the seed of the comparison says of one session."""
    seed = random.Random(f"{ab.seed} {case.id} {number}").getrandbits(32)
    shifts = random.Random(f"{seed} shifts").sample(range(MOST_PAGES), PAIRS)
    return Draw(case.id, number, seed, start_order(f"{ab.seed} {case.id}", number), layout(str(seed)), shifts)


def start_order(seed: str, session: int) -> list[SideName]:
    """Which side's process is started first: tossed for each two sessions, the second of which turns it round.

    Were it tossed for each session, some would agree by chance; then what only the order does to memory or caches would
    look like a difference of the code.
    """
    order: list[SideName] = random.Random(f"{seed} start {session // 2}").sample(SIDES, len(SIDES))
    return order[::-1] if session % 2 else order


def layout(seed: str) -> dict[str, str]:
    """Variables that give both processes of a session one layout in memory, drawn for it; see ``worker/layout.py``.

    The order of sets is part of it, unless the user has fixed that, and so is how much lies above the stack.
    """
    drawn = random.Random(f"{seed} layout")
    found = {PAGES: str(drawn.randrange(MOST_PAGES)), PADDING: "x" * drawn.randrange(mmap.PAGESIZE)}
    return found if "PYTHONHASHSEED" in os.environ else found | {"PYTHONHASHSEED": str(drawn.getrandbits(32))}


def idlest(needed: int) -> list[int] | None:
    """So many of the CPUs that this process may use, those with the least to do; None if it needs all of them."""
    allowed = sorted(os.sched_getaffinity(0))
    if needed >= len(allowed):
        return None
    busy = psutil.cpu_percent(CPU_LOOK_SECONDS, percpu=True)
    return sorted(sorted(allowed, key=lambda cpu: busy[cpu] if cpu < len(busy) else 100.0)[:needed])


def hold(
    drawn: Draw, pairs: Sequence[Mapping[SideName, Contender]], rounds: int, design: Design, cpus: list[int] | None
) -> AbSession:
    """One session, however it ends.

    Args:
        pairs: of processes; each does its part of the rounds, and the order of start is turned round from one to the
            next. Where the code makes the layouts of the sides differ, their mean is nearer to the truth than one pair
            with as many rounds.
        cpus: to which both sides pin themselves, for the record.
    """
    started_at, begin = utc_now(), time.monotonic()
    order, session = random.Random(drawn.seed), Session()
    for place, contenders in enumerate(pairs):
        start = drawn.start[::-1] if place % 2 else drawn.start
        part = math.ceil(rounds / len(pairs))
        found = (in_turns if design == "lockstep" else apart)(contenders, start, part, order)
        session = Session(session.rounds + found.rounds, found.trained)
        if any(trained.status != "ok" for trained in found.trained.values()):
            break
    return AbSession(
        case=drawn.case,
        session=drawn.number,
        design=design,
        seed=drawn.seed,
        first=drawn.start[0],
        cpus=cpus,
        rounds=session.rounds,
        base=session.trained["base"],
        cand=session.trained["cand"],
        load_1min=os.getloadavg()[0],
        started_at=started_at,
        seconds=time.monotonic() - begin,
    )


def until_verdict(
    ab: Ab,
    case: AbCase,
    folder: AbFolder,
    next_session: Callable[[Sequence[AbSession]], AbSession | None],
    on_session: Callable[[CaseVerdict], None] = lambda verdict: None,
) -> CaseVerdict:
    """Adds sessions to those that there are until the verdict is in, or, after the first, there is no time for another.

    Args:
        next_session: holds one more; None ends it.
        on_session: told of how it stands between two sessions.
    """
    sessions = [one for one in folder.sessions() if one.case == case.id]
    begin, longest = time.monotonic(), -math.inf  # the first is always held
    while True:
        verdict = judged(ab, case, sessions)
        if verdict.over or time.monotonic() - begin + longest > ab.budget_seconds:
            return verdict
        if sessions:
            on_session(verdict)
        session = next_session(sessions)
        if session is None:
            return verdict
        longest = max(longest, session.seconds)
        folder.append(session)
        sessions.append(session)
