"""What ended a process, in words: an exception, a signal, an exit; where it stood, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice, takewhile
from typing import Any

from llmbench.launch.target import signal_name
from llmbench.results.schema import Error, Status
from llmbench.suite.cases import Case

LONGEST_MESSAGE = 300  # characters
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
    (r"^NodeLost: ", "see its own output and its host; start all nodes again with --resume"),
    (r"collective mismatch", "the ranks do not call the same collectives in the same order"),
)
_SIGNAL_HINTS = {
    "SIGKILL": "somebody, or a limit of memory or time, killed it: see dmesg and the scheduler's log",
    "SIGSEGV": "a native library crashed: `llmbench doctor`; the log holds the Python stack",
    "SIGILL": "a binary uses instructions that this CPU lacks: `llmbench doctor`",
    "SIGBUS": "a memory-mapped file or /dev/shm ran out of space",
}


def raised(case: Case, error: Mapping[str, Any]) -> tuple[Status, Error]:
    """An exception, as ``worker/faults.py`` describes it."""
    kind, message, where = str(error["type"]), str(error["message"]), error["where"]
    text = f"{first_line(message)} ({where})" if where else first_line(message)
    if error["out_of_memory"]:
        return "oom", Error(type=kind, message=text, hint=_smaller(case))
    return "failed", Error(type=kind, message=text, hint=_known(f"{kind}: {message}") or "its log holds the traceback")


def killed(case: Case, number: int, phase: str, log: str, oom_killed: bool) -> tuple[Status, Error]:
    """A death by a signal.

    Args:
        oom_killed: the kernel killed something for memory meanwhile.
    """
    name = signal_name(number)
    if name == "SIGKILL" and oom_killed:
        message = f"the kernel killed the process for want of memory, in phase {phase}"
        return "oom", Error(type="OutOfMemoryKill", message=message, hint=_smaller(case))
    reason = uncaught(log) if name == "SIGABRT" else ""
    message = f"killed by {name} in phase {phase}{f': {reason}' if reason else ', not by llmbench'}; {where(log)}"
    hint = _known(reason) or _SIGNAL_HINTS.get(name, "its log holds its last words")
    return "failed", Error(type=name, message=message, hint=hint)


def left(code: int, phase: str) -> tuple[Status, Error]:
    """An end without a word of why."""
    message = f"left with exit code {code} in phase {phase}, without a result"
    return "failed", Error(type="Exit", message=message, hint="its log holds its last words")


def uncaught(log: str) -> str:
    """What a C++ exception said that nobody caught; empty if none did."""
    found = re.findall(r"^\s*what\(\):\s*(.+)$", log, flags=re.MULTILINE)
    return first_line(found[-1]) if found else ""


def where(log: str) -> str:
    """The innermost frame of the stack that the job wrote when it was asked or died, and who called torch there."""
    frames = _stack(log)
    if not frames:
        return "it left no stack"
    caller = next((frame for frame in frames if not re.search(_LIBRARY, frame[0])), frames[0])
    within = f", called at {_frame(caller)}" if caller != frames[0] else ""
    return f"last seen at {_frame(frames[0])}{within}"


def waits(log: str) -> bool:
    """Whether the newest stack is that of a process that waits for others."""
    # A library that called back does not wait itself.
    inside = takewhile(lambda frame: re.search(_LIBRARY, frame[0]), _stack(log))
    return any(re.search(_WAITING, f"{file} in {function}") for file, _, function in islice(inside, 3))


def first_line(text: str) -> str:
    """What fits in a line of a terminal or a table, without control characters; the log holds the rest."""
    lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines())
    line = next(filter(None, lines), "no message")
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"


def _known(text: str) -> str | None:
    """What to do about an error that we know."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, text)), None)


def _smaller(case: Case) -> str:
    config = case.config
    half = config["global_batch_size"] // (2 * config["data_parallel"] if config["scaling"] == "weak" else 2)
    return (f"--set micro_batch_size={half}, " if half else "") + "a smaller size, or more memory"


def _frame(frame: tuple[str, str, str]) -> str:
    file, line, function = frame
    return f"{file.rsplit('/', 1)[-1]}:{line} in {function}"


def _stack(log: str) -> list[tuple[str, str, str]]:
    """File, line and function of the newest stack in a log, the innermost frame first (faulthandler's form)."""
    stacks = re.split(r"most recent call first\):\n", log)[1:]
    return re.findall(r'^  File "(.+?)", line (\d+) in (\S+)', stacks[-1], flags=re.MULTILINE) if stacks else []
