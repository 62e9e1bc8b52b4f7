"""One session: a pair of fresh processes that train in turns, or one after the other."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from llmbench.launch.turns import Conductor, SideGoneError, steps_of_a_turn
from llmbench.results.ab import SIDES, Round, SideName, Trained, Turn
from llmbench.results.schema import Error

SHORTEST_TURN = 3  # steps: the first after a turn is slower, and of three one is likely to be left alone
TURN_SECONDS = 0.05  # of many short turns, more fall between what others do to the machine
LEAVE_SECONDS = 60.0  # for a side that has had its last turn


class Contender(Protocol):
    """One side of a pair. Entering starts its process; leaving ends it and all that it started, whatever it does."""

    @property
    def ranks(self) -> int:
        """Processes that connect to the socket."""
        ...

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...

    def ready(self) -> None:
        """Waits until it can train. Raises: UserError: it never will."""
        ...

    def train(self, socket: str) -> Trained:
        """Trains when it is its turn, until there are no more; how that ended. Called in a thread."""
        ...

    def kill(self) -> None:
        """Ends the training at once."""
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
        runs = {side: _Run(contenders[side], conductor.path) for side in start}
        sizes = {side: contenders[side].ranks for side in start}
        gone: SideName | None = None
        try:
            seconds = conductor.wait_for(sizes, _alive(runs))
            steps = steps_of_a_turn(seconds, shortest=SHORTEST_TURN, turn_seconds=TURN_SECONDS)
            for _ in range(rounds):
                first, second = order.sample(SIDES, 2)
                turns = {side: conductor.turn(side, steps) for side in (first, second)}
                session.rounds.append(Round(first=first, base=turns["base"], cand=turns["cand"]))
        except SideGoneError as error:
            gone = error.side
        for side in SIDES:
            if gone is not None and side != gone and runs[side].alive:
                contenders[side].kill()  # the one that is left cannot go on alone
                session.trained[side] = Trained(status="aborted")
            else:
                conductor.end(side)
                session.trained[side] = runs[side].result(gone=side == gone)
    return session


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
            run = _Run(contenders[side], conductor.path)
            gone, runs = False, {side: run}
            try:
                seconds = conductor.wait_for({side: contenders[side].ranks}, _alive(runs))
                steps = steps or steps_of_a_turn(seconds, shortest=SHORTEST_TURN, turn_seconds=TURN_SECONDS)
                turns[side] = joined([conductor.turn(side, steps) for _ in range(rounds)])
            except SideGoneError:
                gone = True
            conductor.end(side)
            session.trained[side] = run.result(gone=gone)
        if gone:
            break
    for side in SIDES:
        session.trained.setdefault(side, Trained(status="aborted"))
    if len(turns) == len(SIDES):
        session.rounds.append(Round(first=start[0], base=turns["base"], cand=turns["cand"]))
    return session


def joined(turns: Sequence[Turn]) -> Turn:
    """Turns of one side, one after the other, as one."""
    waited = [turn.waited for turn in turns if turn.waited is not None]
    cpu = [turn.cpu for turn in turns if turn.cpu is not None]
    return Turn(
        steps=[seconds for turn in turns for seconds in turn.steps],
        wall=sum(turn.wall for turn in turns),
        cpu=sum(cpu) if len(cpu) == len(turns) else None,
        waited=sum(waited) if len(waited) == len(turns) else None,
    )


def _alive(runs: Mapping[SideName, _Run]) -> Callable[[SideName], bool]:
    return lambda side: runs[side].alive


class _Run:
    """A contender that trains, in a thread of its own."""

    def __init__(self, contender: Contender, socket: str) -> None:
        self._contender, self._socket = contender, socket
        self._trained: Trained | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        try:
            self._trained = self._contender.train(self._socket)
        except BaseException as error:  # raised again where somebody waits for the result
            self._error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def result(self, *, gone: bool) -> Trained:
        """How it ended.

        Args:
            gone: it ended before its last turn; if it does not say why, that is the error.
        """
        self._thread.join(LEAVE_SECONDS)
        if self._thread.is_alive():
            self._contender.kill()
            self._thread.join()
            if self._trained is not None and self._trained.error is None:
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
