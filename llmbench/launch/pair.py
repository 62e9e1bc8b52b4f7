"""A pair of fresh processes that train in turns, or one after the other."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from llmbench.launch.turns import Conductor, SideGoneError, of_all, steps_of_a_turn
from llmbench.results.ab import SIDES, Round, SideName, Trained, Turn
from llmbench.results.schema import Error

SHORTEST_TURN = 3  # steps: the first after a turn is slower, and of three one is likely to be left alone
TURN_SECONDS = 0.05  # of many short turns, more fall between what others do to the machine
LEAVE_SECONDS = 60.0  # for a side that has had its last turn


class Contender(Protocol):
    """One side of a pair. Leaving ends its process and all that it started, whatever it does."""

    @property
    def ranks(self) -> int:
        """Processes that connect to the socket."""
        ...

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...

    def ready(self) -> None:
        """Waits until it can train. Raises: UserError: it never will."""
        ...

    def train(self, socket: str, waited: Callable[[], float]) -> Trained:
        """Trains when it is its turn, until there are no more; how that ended. Called in a thread.

        Args:
            waited: seconds so far in which it was not its turn, which are not held against its deadline.
        """
        ...

    def kill(self) -> None:
        """Ends the training at once, whatever state its processes are in."""
        ...


@dataclass
class Session:
    """What a pair gave. If a side failed there are fewer rounds than asked for."""

    rounds: list[Round] = field(default_factory=list)
    trained: dict[SideName, Trained] = field(default_factory=dict)


def in_turns(
    contenders: Mapping[SideName, Contender], start: Sequence[SideName], rounds: int, order: random.Random
) -> Session:
    """Both at once, taking turns of a few steps, in each round in a new order.

    Args:
        start: the sides in the order in which they are started.

    Raises:
        UserError: a side cannot train at all.
    """
    session = Session()
    with Conductor() as conductor, ExitStack() as stack:
        for side in start:
            stack.enter_context(contenders[side])
        for side in start:
            contenders[side].ready()
        runs = {side: _Run(side, contenders[side], conductor) for side in start}
        seconds = conductor.wait_for({side: contenders[side].ranks for side in start}, _alive(runs))
        gone = set(SIDES) - seconds.keys()
        if not gone:
            steps = steps_of_a_turn(seconds, shortest=SHORTEST_TURN, turn_seconds=TURN_SECONDS)
            session.rounds, gone = _rounds(conductor, rounds, steps, order)
        for side in SIDES:
            if gone and side not in gone and runs[side].alive:
                runs[side].abort()  # the one that is left cannot go on alone
                session.trained[side] = Trained(status="aborted")
            else:
                conductor.end(side)
                session.trained[side] = runs[side].result(gone=bool(gone))
    return session


def _rounds(conductor: Conductor, rounds: int, steps: int, order: random.Random) -> tuple[list[Round], set[SideName]]:
    """Turns of both sides; the whole rounds, and who is gone if there are fewer than asked for.

    If one is gone, the other still has its turn of that round: they may be broken alike.
    """
    found: list[Round] = []
    gone: set[SideName] = set()
    while len(found) < rounds and not gone:
        turns: dict[SideName, Turn] = {}
        first, second = order.sample(SIDES, 2)
        for side in (first, second):
            try:
                turns[side] = conductor.turn(side, steps)
            except SideGoneError:
                gone.add(side)
        if not gone:
            found.append(Round(first=first, base=turns["base"], cand=turns["cand"]))
    return found, gone


def apart(
    contenders: Mapping[SideName, Contender], start: Sequence[SideName], rounds: int, order: random.Random
) -> Session:
    """One after the other, since both do not fit into memory. All turns of a side then count as a single one.

    Raises:
        UserError: a side cannot train at all.
    """
    session, turns, steps = Session(), {}, 0
    for side in start:
        with Conductor() as conductor, contenders[side] as _:
            contenders[side].ready()
            run = _Run(side, contenders[side], conductor)
            seconds = conductor.wait_for({side: contenders[side].ranks}, _alive({side: run}))
            gone = not seconds
            steps = steps or steps_of_a_turn(seconds, shortest=SHORTEST_TURN, turn_seconds=TURN_SECONDS)
            try:
                if not gone:
                    turns[side] = joined([conductor.turn(side, steps) for _ in range(rounds)])
            except SideGoneError:
                gone = True
            conductor.end(side)
            session.trained[side] = run.result(gone=gone)
    if len(turns) == len(SIDES):
        session.rounds.append(Round(first=start[0], base=turns["base"], cand=turns["cand"]))
    return session


def joined(turns: Sequence[Turn]) -> Turn:
    """Turns of one side, one after the other, as one."""
    return Turn(
        steps=[seconds for turn in turns for seconds in turn.steps],
        wall=math.fsum(turn.wall for turn in turns),
        cpu=of_all(math.fsum, [turn.cpu for turn in turns]),
        waited=of_all(math.fsum, [turn.waited for turn in turns]),
    )


def _alive(runs: Mapping[SideName, _Run]) -> Callable[[SideName], bool]:
    return lambda side: runs[side].alive


class _Run:
    """A contender that trains, in a thread of its own."""

    def __init__(self, side: SideName, contender: Contender, conductor: Conductor) -> None:
        self._side, self._contender, self._conductor = side, contender, conductor
        self._trained: Trained | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        try:
            self._trained = self._contender.train(self._conductor.path, lambda: self._conductor.waited(self._side))
        except BaseException as error:  # raised again where somebody waits for the result
            self._error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def abort(self) -> None:
        """Ends it, whatever it does."""
        self._contender.kill()
        self._thread.join(LEAVE_SECONDS)

    def result(self, *, gone: bool) -> Trained:
        """How it ended.

        Args:
            gone: it ended before its last turn; if it does not say why, that is the error.
        """
        self._thread.join(LEAVE_SECONDS)
        if self._thread.is_alive():
            self._contender.kill()
            self._thread.join()
            if self._trained is not None:  # what it says of its end is what we did to it
                message = f"did not end within {LEAVE_SECONDS:.0f} s of its last turn"
                error = Error(type="Timeout", message=message, hint="its log holds its last words")
                return self._trained.model_copy(update={"status": "timeout", "error": error})
        if self._error is not None:
            raise self._error
        assert self._trained is not None
        if gone and self._trained.error is None:
            error = Error(type="Exit", message="left before its last turn", hint="its log holds its last words")
            return self._trained.model_copy(update={"status": "failed", "error": error})
        return self._trained
