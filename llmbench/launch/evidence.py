"""Which rank of a case failed first, and of what: read from what each of them left behind.

Who misses a rank that died says so too, and often louder: what it says is a consequence. Clocks of hosts differ by
minutes, so that times are compared between ranks of one host only.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from llmbench.launch import causes
from llmbench.launch.target import Outcome
from llmbench.results.schema import Error, Status
from llmbench.suite.cases import Case

SILENT_SECONDS = 6.0  # without a heartbeat, of which there is one a second: the process is stopped, or holds the GIL
MOST_PLACES = 3  # of ranks, beside that of the one that is the cause
LONGEST_LOG = 100_000  # characters, of its end
PHASES = ("start", "build", "compile", "warmup", "timed", "communication", "evaluate")
NO_MORE = "llmbench: no evidence is kept from here on"  # worker/evidence.py says so in the log
# What gloo, NCCL and torch's store say of a rank that is gone, or does not answer.
_CONSEQUENCE = re.compile(
    r"connection (was )?(closed|reset|aborted|refused)|closed by (the )?(remote )?peer|broken pipe|socket (is )?closed"
    r"|socket has timed out|client socket|timed out waiting \d+ ?ms|received errors while waiting for"
    r"|read error|write error|failed to (recv|send)|pair closure|barrier|heartbeat|connectfullmesh"
    r"|ncclremoteerror|ncclsystemerror|ncclinprogress|nccl (remote|system) error|unhandled system error"
    r"|remote process exited|communicator was aborted|watchdog caught collective"
    r"|another rank|tcpstore|store.*(timeout|failed)|(socket|wait) timeout",
    re.IGNORECASE,
)
# As which torch raises it; what a rank reads by itself, from a loader or a server, may break with the same words.
_COMMUNICATION = frozenset({"RuntimeError", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError"})
_ALWAYS = frozenset({"DistNetworkError", "DistStoreError"})
_TIMED_OUT = re.compile(r"time(d )?[- ]?out", re.IGNORECASE)


@dataclass
class RankEvidence:
    """What is known of one rank of a case: of plain values, as it goes from host to host as JSON.

    Attributes:
        steps: that it had done when it was last seen.
        collective: collectives that it had begun.
        error: what it raised: ``type``, ``message``, ``where``, ``out_of_memory``.
        stack: the newest that it wrote when it did not go on.
        log: the end of its log.
        ended: the code with which it said goodbye.
        exit_code: of its process, negative for a signal; None while nobody saw it end.
        by_us: whether who started it stopped it; None where that cannot be told.
        oom_killed: the kernel killed something for memory on its host meanwhile.
        last_at, failed_at, seen_at: nanoseconds by the clock of its host: its last own word; its error or its end; and
            until when it was watched.
    """

    rank: int
    host: str = ""
    phase: str = "start"
    steps: int = 0
    collective: int | None = None
    error: dict[str, Any] | None = None
    stack: str = ""
    log: str = ""
    ended: int | None = None
    exit_code: int | None = None
    by_us: bool | None = None
    oom_killed: bool = False
    last_at: int | None = None
    failed_at: int | None = None
    seen_at: int | None = None


def read(folder: Path) -> list[RankEvidence]:
    """What the ranks wrote, by rank. Lines that are torn or damaged are passed over."""
    files = ((re.fullmatch(r"rank(\d+)\.jsonl", file.name), file) for file in sorted(folder.glob("rank*.jsonl")))
    found = [parse(int(name[1]), file.read_text(encoding="utf-8", errors="replace")) for name, file in files if name]
    return sorted(found, key=lambda each: each.rank)


def parse(rank: int, text: str) -> RankEvidence:
    """What one rank wrote. Of several attempts the last counts."""
    found = RankEvidence(rank)
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict) or type(event.get("at")) is not int:
            continue
        name = event.get("event")
        if name == "start":
            found = RankEvidence(rank)
        try:
            _NOTE.get(str(name), _ignore)(found, event)
        except (KeyError, TypeError, ValueError):
            continue  # a field is missing, or of another kind
        if name == "exit":
            found.seen_at = event["at"]
        else:
            found.last_at = event["at"]
    return found


def _start(found: RankEvidence, event: dict[str, Any]) -> None:
    found.host = str(event["host"])


def _phase(found: RankEvidence, event: dict[str, Any]) -> None:
    found.phase = str(event["name"])


def _beat(found: RankEvidence, event: dict[str, Any]) -> None:
    found.steps = int(event["step"])
    if event["collective"] is not None:
        found.collective = int(event["collective"])


def _error(found: RankEvidence, event: dict[str, Any]) -> None:
    found.error = {name: event[name] for name in ("type", "message", "where", "out_of_memory")}
    found.failed_at = event["at"]


def _stack(found: RankEvidence, event: dict[str, Any]) -> None:
    found.stack = str(event["text"])


def _flight(found: RankEvidence, event: dict[str, Any]) -> None:
    found.collective = int(event["last_enqueued"])


def _end(found: RankEvidence, event: dict[str, Any]) -> None:
    found.ended = int(event["code"])
    found.steps = int(event["step"])


def _exit(found: RankEvidence, event: dict[str, Any]) -> None:
    found.exit_code = int(event["code"])
    found.by_us = None if event["by_us"] is None else bool(event["by_us"])
    found.failed_at = found.failed_at or event["at"]


def _ignore(found: RankEvidence, event: dict[str, Any]) -> None:
    """An event of a newer version."""


_NOTE: dict[str, Callable[[RankEvidence, dict[str, Any]], None]] = {
    "start": _start,
    "phase": _phase,
    "beat": _beat,
    "error": _error,
    "stack": _stack,
    "flight": _flight,
    "end": _end,
    "exit": _exit,
}


def gather(outcome: Outcome) -> list[RankEvidence]:
    """What is known of the ranks of a job: what they left, and what each node saw of its own."""
    return [each for part in outcome.parts or [outcome] for each in _of_part(part, outcome)]


def _of_part(part: Outcome, whole: Outcome) -> list[RankEvidence]:
    left = read(part.evidence) if part.evidence else []
    found = {each.rank: each for each in left if each.rank in part.ranks}
    for rank, state in part.ranks.items():
        each = found.setdefault(rank, RankEvidence(rank))
        each.host, each.phase = state.host, state.phase
        each.steps = max(each.steps, state.steps)
        each.log = whole.log_text(rank)[-LONGEST_LOG:]
        each.oom_killed = part.oom_killed
        each.seen_at = max(each.seen_at or 0, part.ended_at or 0) or None
    error = (part.result or {}).get("error", {})
    if "rank" in error:
        each = found.setdefault(error["rank"], RankEvidence(error["rank"], error["host"]))
        if "type" in error:
            each.error = each.error or error
        elif each.exit_code is None:
            each.exit_code, each.by_us = -error["signal"] if "signal" in error else error["exit"], False
    return [found[rank] for rank in sorted(found)]


def verdict(
    case: Case,
    ranks: Sequence[RankEvidence],
    lost: Mapping[int, tuple[str, str]],
    deadline: float,
    timed_out: bool,
) -> tuple[Status, Error] | None:
    """Status and error of a parallel case that failed: the rank that did so first, its host and the cause.

    Args:
        ranks: what is known of each, in any order.
        lost: of nodes that are gone, by node rank, their host and why; in the order in which they went.
        deadline: seconds that the case had.
        timed_out: it was stopped as they were over.

    Returns:
        None if nothing tells of a failure.
    """
    ranks = sorted(ranks, key=lambda each: each.rank)
    if lost:
        return "failed", _lost(ranks, lost)
    for sign, told in _SIGNS:
        if showing := [each for each in ranks if sign(each)]:
            first = _first(showing)
            return of_rank(case, first, told(case, first))
    if timed_out or _hung(ranks):
        return _stuck(case, ranks, deadline, timed_out)
    if missed := [each for each in ranks if each.error or _killed_by_other(each)]:
        first = _first(missed)
        return of_rank(case, first, _only_missed(case, first))
    return None


def _was_killed(each: RankEvidence) -> bool:
    code = each.exit_code or 0
    return code < 0 and code != -signal.SIGTERM and each.by_us is False and not _consequence(each)


def _has_raised(each: RankEvidence) -> bool:
    return each.error is not None and not _consequence(each)


def _was_ended(each: RankEvidence) -> bool:
    """By SIGTERM, which is how launchers stop what they started; or by a signal of which nobody knows whose it was."""
    return (each.exit_code or 0) < 0 and not each.by_us and not _consequence(each)


def _has_left(each: RankEvidence) -> bool:
    """Without an exception; or well, and yet before the end."""
    if each.exit_code is None or each.exit_code < 0 or each.by_us or each.error:
        return False
    return each.exit_code > 0 or each.ended is None


def _consequence(each: RankEvidence) -> bool:
    """Whether what ended it is that it missed another."""
    return is_consequence(each.error) if each.error else _killed_by_other(each)


def is_consequence(error: Mapping[str, Any]) -> bool:
    """Whether an exception says no more than that another rank was missed."""
    kind, message = error.get("type"), str(error.get("message", ""))
    return kind in _ALWAYS or (kind in _COMMUNICATION and bool(_CONSEQUENCE.search(message)))


def _killed_by_other(each: RankEvidence) -> bool:
    """An exception in C++ that nobody could catch, of the communication."""
    return each.exit_code == -signal.SIGABRT and bool(_CONSEQUENCE.search(causes.uncaught(each.log)))


def _tell_killed(case: Case, each: RankEvidence) -> tuple[Status, Error]:
    number = -(each.exit_code or 0)
    return causes.killed(case, number, each.phase, f"{each.stack}\n{each.log}", each.oom_killed)


def _tell_raised(case: Case, each: RankEvidence) -> tuple[Status, Error]:
    assert each.error is not None
    return causes.raised(case, each.error)


def _tell_left(case: Case, each: RankEvidence) -> tuple[Status, Error]:
    code = each.exit_code or 0
    if code:
        return causes.left(code, each.phase)
    message = f"left with code 0 before the end, in phase {each.phase} after {each.steps} steps"
    return "failed", Error(type="Exit", message=message, hint="something in it calls os._exit; see its log")


_SIGNS: tuple[
    tuple[Callable[[RankEvidence], bool], Callable[[Case, RankEvidence], tuple[Status, Error]]],
    ...,
] = (
    (_was_killed, _tell_killed),
    (_has_raised, _tell_raised),
    (_was_ended, _tell_killed),
    (_has_left, _tell_left),
)
"""What makes a rank the cause, the surest sign first."""


def _first(showing: Sequence[RankEvidence]) -> RankEvidence:
    """Who of several was first: on one host by its clock; of different hosts who had come least far."""
    of_hosts: dict[str, RankEvidence] = {}
    for each in showing:
        known = of_hosts.setdefault(each.host, each)
        if (each.failed_at or 0, each.rank) < (known.failed_at or 0, known.rank):
            of_hosts[each.host] = each
    return min(of_hosts.values(), key=lambda each: (_progress(each), each.rank))


def _progress(each: RankEvidence) -> tuple[int, int, int]:
    phase = PHASES.index(each.phase) if each.phase in PHASES else -1
    return phase, each.steps, each.collective or 0


def of_rank(case: Case, each: RankEvidence, found: tuple[Status, Error]) -> tuple[Status, Error]:
    """The same, with rank and host where there are several."""
    status, error = found
    if case.world_size == 1:
        return found
    message = f"{_who(case, each)}: {error.message}"
    return status, error.model_copy(update={"message": message, "rank": each.rank, "host": each.host})


def _who(case: Case, each: RankEvidence) -> str:
    return f"rank {each.rank} of {case.world_size} on {each.host or 'an unknown host'}"


def _lost(ranks: Iterable[RankEvidence], lost: Mapping[int, tuple[str, str]]) -> Error:
    (node, (host, why)), *others = lost.items()
    message = f"node {node} ({host}) was lost: {why}"
    if there := [each for each in ranks if each.host == host]:
        names = ", ".join(str(each.rank) for each in there)
        last = min(there, key=_progress)
        message += f"; rank{'s' * (len(there) > 1)} {names} there, in phase {last.phase} after {last.steps} steps"
    if others:
        message += "; then " + ", ".join(f"node {each} ({its})" for each, (its, _) in others)
    hint = "is the machine up, and does the network reach it? `--resume` repeats the case"
    return Error(type="NodeLost", message=message, hint=hint, host=host)


def _hung(ranks: Sequence[RankEvidence]) -> bool:
    """Whether somebody waited for another until its patience was over, or does not live any more."""
    waited = any(each.error and _TIMED_OUT.search(str(each.error["message"])) for each in ranks)
    return waited or any(_silence(each, ranks) for each in ranks)


def _silence(each: RankEvidence, ranks: Sequence[RankEvidence]) -> float:
    """Seconds without a heartbeat until it was last watched, by the clock of its host; 0 while that is as it should."""
    if each.last_at is None or each.ended is not None or each.error or NO_MORE in each.log:
        return 0.0
    if each.exit_code is not None and not each.by_us:
        return 0.0
    now = max(max(other.last_at or 0, other.seen_at or 0) for other in ranks if other.host == each.host)
    seconds = (now - each.last_at) / 1e9
    return seconds if seconds >= SILENT_SECONDS else 0.0


def _stuck(case: Case, ranks: Sequence[RankEvidence], deadline: float, timed_out: bool) -> tuple[Status, Error] | None:
    # Who has come to its end waits for nobody, unless all have.
    ranks = [each for each in ranks if each.ended != 0] or ranks
    if not ranks:
        return None
    late = f"no end after {deadline:g} s" if timed_out else ""
    hint = f"--set deadline_seconds={2 * deadline:g} if it only was slow; its log holds the stack"
    kind = "Timeout" if timed_out else "Stuck"
    status: Status = "timeout" if timed_out else "failed"

    def blame(each: RankEvidence) -> tuple[Any, ...]:
        # Whoever waits for others is no cause of the wait; of the others, it is the one that got least far.
        return not _silence(each, ranks), causes.waits(_words(each)), _begun(each), _progress(each), each.rank

    culprit = min(ranks, key=blame)
    others = [each for each in ranks if each is not culprit]
    ahead = others and all(_begun(each) > _begun(culprit) for each in others)
    if silence := _silence(culprit, ranks):
        state = f", without a heartbeat for {silence:.0f} s (stopped?)"
    elif ahead:
        state = f", stuck before collective {_begun(culprit) + 1:.0f}, in which the others wait"
    else:
        state = ""
    places = [f"rank {each.rank} {_place(each)}" for each in others]
    if len(places) > MOST_PLACES:
        places[MOST_PLACES:] = [f"and {len(places) - MOST_PLACES} more"]
    text = "; ".join([f"{_who(case, culprit)} {_place(culprit)}{state}", *places])
    message = f"{late}: {text}" if late else text
    return status, Error(type=kind, message=message, hint=hint, rank=culprit.rank, host=culprit.host)


def _begun(each: RankEvidence) -> float:
    """Collectives that it had begun; of one that could not write any more nobody knows."""
    return inf if NO_MORE in each.log else each.collective or 0


def _place(each: RankEvidence) -> str:
    return f"in phase {each.phase} after {each.steps} steps, {causes.where(_words(each))}"


def _words(each: RankEvidence) -> str:
    """Its stacks: the one in the log is the newest, as it is written when time is over, or at a crash."""
    return f"{each.stack}\n{each.log}"


def _only_missed(case: Case, each: RankEvidence) -> tuple[Status, Error]:
    """Nobody left a sign of its own: those that missed another are all that is known."""
    status, error = _tell_raised(case, each) if each.error else _tell_killed(case, each)
    hint = "the connection between the ranks broke and none of them says why: the network, or a process without a trace"
    return status, error.model_copy(update={"message": f"{error.message}; of no rank a cause is known", "hint": hint})
