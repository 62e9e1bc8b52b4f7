"""Why a case has no result: its status, the cause in words, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from llmbench.launch.target import Outcome, signal_name
from llmbench.results.schema import Error, Status
from llmbench.suite.cases import Case

LONGEST_MESSAGE = 300  # characters
MOST_PLACES = 3  # of ranks, beside that of the one that is the cause
PHASES = ("start", "build", "compile", "warmup", "timed", "communication", "evaluate")
# Where a process stands that waits for others: in a collective, in a backward pass whose gradients are reduced, or at
# the end.
_WAITING = (
    r"torch/distributed/|torch/autograd/graph\.py in _engine_run_backward|torch/cuda/.* in synchronize|multiprocessing/"
)
_LIBRARY = r"/torch/|/multiprocessing/"
_HINTS = (
    (r"InvalidCxxCompiler|CppCompileError|CppCompilerError", "check that $CXX (or g++) compiles: `llmbench doctor`"),
    (r"No space left on device", "free the disk, or point TMPDIR, TORCHINDUCTOR_CACHE_DIR and --out to one with room"),
    (r"Read-only file system|Permission denied", "point TMPDIR and TORCHINDUCTOR_CACHE_DIR to a folder you can write"),
    (r"CUDA driver version is insufficient|no kernel image", "torch and driver do not fit: `llmbench doctor`"),
    (r"CUDA was asked for", "use --device cpu, or let `llmbench doctor` say why torch sees no GPU"),
    (r"collective mismatch", "the ranks do not call the same collectives in the same order"),
)


def diagnose(case: Case, outcome: Outcome, deadline: float) -> tuple[Status, Error] | None:
    """Status and error of a case that did not end well; None if it did."""
    result = outcome.result or {}
    if "unavailable" in result:
        reason, _, fix = result["unavailable"].partition(": ")
        return "skipped", Error(type="Unavailable", message=reason, hint=fix or None)
    if "error" in result:
        return _of_rank(case, outcome, result["error"])
    if outcome.timed_out:
        return "timeout", _timeout(case, outcome, deadline)
    if outcome.code is None:
        return "failed", Error(
            type="ServerDied",
            message=f"the server process that forks the cases died in phase {outcome.phase}",
            hint="`--resume` repeats it; `llmbench doctor` if it happens again",
        )
    if outcome.code < 0:
        return _killed(case, outcome, -outcome.code)
    if outcome.result is None:
        message = f"left with exit code {outcome.code} in phase {outcome.phase}, without a result"
        return "failed", Error(type="Exit", message=message, hint="its log holds its last words")
    return None


def _of_rank(case: Case, outcome: Outcome, error: dict[str, Any]) -> tuple[Status, Error]:
    """The error of the process that failed first, with its rank and host where there are several."""
    rank = error.get("rank")
    if "signal" in error:
        status, found = _killed(case, outcome, error["signal"], rank)
    elif "exit" in error:
        phase = _phase(outcome, rank)
        message = f"left with exit code {error['exit']} in phase {phase}, without a result"
        status, found = "failed", Error(type="Exit", message=message, hint="its log holds its last words")
    else:
        status, found = _raised(case, error)
    if rank is None or case.world_size == 1:
        return status, found
    message = f"rank {rank} of {case.world_size} on {error['host']}: {found.message}"
    return status, found.model_copy(update={"message": message, "rank": rank, "host": error["host"]})


def _timeout(case: Case, outcome: Outcome, deadline: float) -> Error:
    hint = f"--set deadline_seconds={2 * deadline:g} if it only was slow; its log holds the stack"
    if len(outcome.ranks) < 2:
        rank = next(iter(outcome.ranks), None)
        place = f"in phase {_phase(outcome, rank)} after {outcome.steps} steps; {_where(outcome.log_text(rank))}"
        return Error(type="Timeout", message=f"no end after {deadline:g} s, {place}", hint=hint)
    places = {rank: _place(outcome, rank) for rank in sorted(outcome.ranks)}
    # Whoever waits for others is no cause of the wait; of the others, it is the one that got least far.
    rank = min(places, key=lambda each: (places[each].waits, places[each].progress, each))
    others = [f"rank {each} {places[each].text}" for each in places if each != rank]
    if len(others) > MOST_PLACES:
        others[MOST_PLACES:] = [f"and {len(others) - MOST_PLACES} more"]
    host = outcome.ranks[rank].host
    who = f"rank {rank} of {case.world_size} on {host}"
    message = f"no end after {deadline:g} s: {who} {'; '.join([places[rank].text, *others])}"
    return Error(type="Timeout", message=message, hint=hint, rank=rank, host=host)


@dataclass(frozen=True)
class _Place:
    """Where a rank was when time was over: whether it waited for others, and how far it had come."""

    waits: bool
    progress: tuple[int, int]
    text: str


def _place(outcome: Outcome, rank: int) -> _Place:
    state, log = outcome.ranks[rank], outcome.log_text(rank)
    phase = PHASES.index(state.phase) if state.phase in PHASES else -1
    # A library that called back does not wait itself.
    inside = takewhile(lambda frame: re.search(_LIBRARY, frame[0]), _stack(log))
    waits = any(re.search(_WAITING, f"{file} in {function}") for file, _, function in islice(inside, 3))
    text = f"in phase {state.phase} after {state.steps} steps, {_where(log)}"
    return _Place(waits, (phase, state.steps), text)


def _phase(outcome: Outcome, rank: int | None) -> str:
    return outcome.phase if rank is None or rank not in outcome.ranks else outcome.ranks[rank].phase


def _raised(case: Case, error: dict[str, Any]) -> tuple[Status, Error]:
    kind, message, where = str(error["type"]), str(error["message"]), error["where"]
    text = f"{_first_line(message)} ({where})" if where else _first_line(message)
    if error["out_of_memory"]:
        return "oom", Error(type=kind, message=text, hint=_smaller(case))
    return "failed", Error(type=kind, message=text, hint=_known(f"{kind}: {message}") or "its log holds the traceback")


def _known(text: str) -> str | None:
    """What to do about an error that we know."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, text)), None)


def _uncaught(log: str) -> str:
    """What a C++ exception said that nobody caught; empty if none did."""
    found = re.findall(r"^\s*what\(\):\s*(.+)$", log, flags=re.MULTILINE)
    return _first_line(found[-1]) if found else ""


def _killed(case: Case, outcome: Outcome, number: int, rank: int | None = None) -> tuple[Status, Error]:
    name, phase = signal_name(number), _phase(outcome, rank)
    if name == "SIGKILL" and outcome.oom_killed:
        message = f"the kernel killed the process for want of memory, in phase {phase}"
        return "oom", Error(type="OutOfMemoryKill", message=message, hint=_smaller(case))
    log = outcome.log_text(rank if rank in outcome.ranks else None)
    reason = _uncaught(log) if name == "SIGABRT" else ""
    message = f"killed by {name} in phase {phase}{f': {reason}' if reason else ', not by llmbench'}; {_where(log)}"
    if outcome.ranks and rank is None:
        message = f"the launcher of the {case.world_size} ranks was {message}"
    hints = {
        "SIGKILL": "somebody, or a limit of memory or time, killed it: see dmesg and the scheduler's log",
        "SIGSEGV": "a native library crashed: `llmbench doctor`; the log holds the Python stack",
        "SIGILL": "a binary uses instructions that this CPU lacks: `llmbench doctor`",
        "SIGBUS": "a memory-mapped file or /dev/shm ran out of space",
    }
    hint = _known(reason) or hints.get(name, "its log holds its last words")
    return "failed", Error(type=name, message=message, hint=hint)


def _smaller(case: Case) -> str:
    config = case.config
    half = config["global_batch_size"] // (2 * config["data_parallel"] if config["scaling"] == "weak" else 2)
    return (f"--set micro_batch_size={half}, " if half else "") + "a smaller size, or more memory"


def _where(log: str) -> str:
    """The innermost frame of the stack that the job wrote when it was asked or died, and who called torch there."""
    frames = _stack(log)
    if not frames:
        return "it left no stack"
    caller = next((frame for frame in frames if not re.search(_LIBRARY, frame[0])), frames[0])
    within = f", called at {_frame(caller)}" if caller != frames[0] else ""
    return f"last seen at {_frame(frames[0])}{within}"


def _frame(frame: tuple[str, str, str]) -> str:
    file, line, function = frame
    return f"{file.rsplit('/', 1)[-1]}:{line} in {function}"


def _stack(log: str) -> list[tuple[str, str, str]]:
    """File, line and function of the newest stack in a log, the innermost frame first (faulthandler's form)."""
    stacks = re.split(r"most recent call first\):\n", log)[1:]
    return re.findall(r'^  File "(.+?)", line (\d+) in (\S+)', stacks[-1], flags=re.MULTILINE) if stacks else []


def _first_line(text: str) -> str:
    """What fits in a line of a terminal or a table, without control characters; the log holds the rest."""
    lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines())
    line = next(filter(None, lines), "no message")
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
