"""Why a case has no result: its status, the cause in words, and what to do about it."""

from __future__ import annotations

import re

from llmbench.launch.target import Outcome, signal_name
from llmbench.results.schema import Error, Status
from llmbench.suite.cases import Case

LONGEST_MESSAGE = 300  # characters
_HINTS = (
    (r"InvalidCxxCompiler|CppCompileError|CppCompilerError", "check that $CXX (or g++) compiles: `llmbench doctor`"),
    (r"No space left on device", "free the disk, or point TMPDIR, TORCHINDUCTOR_CACHE_DIR and --out to one with room"),
    (r"Read-only file system|Permission denied", "point TMPDIR and TORCHINDUCTOR_CACHE_DIR to a folder you can write"),
    (r"CUDA driver version is insufficient|no kernel image", "torch and driver do not fit: `llmbench doctor`"),
    (r"CUDA was asked for", "use --device cpu, or let `llmbench doctor` say why torch sees no GPU"),
)


def diagnose(case: Case, outcome: Outcome, deadline: float) -> tuple[Status, Error] | None:
    """Status and error of a case that did not end well; None if it did."""
    result = outcome.result or {}
    if "unavailable" in result:
        reason, _, fix = result["unavailable"].partition(": ")
        return "skipped", Error(type="Unavailable", message=reason, hint=fix or None)
    if "error" in result:
        return _raised(case, result["error"])
    if outcome.timed_out:
        return "timeout", Error(
            type="Timeout",
            message=f"no end after {deadline:g} s, in phase {outcome.phase}; {_where(outcome)}",
            hint=f"--set deadline_seconds={2 * deadline:g} if it only was slow; its log holds the stack",
        )
    if outcome.code is None:
        return "failed", Error(
            type="ServerDied",
            message=f"the server process that forks the cases died in phase {outcome.phase}",
            hint="`llmbench run --resume` repeats the case; `llmbench doctor` if it happens again",
        )
    if outcome.code < 0:
        return _killed(case, outcome)
    if outcome.result is None:
        message = f"left with exit code {outcome.code} in phase {outcome.phase}, without a result"
        return "failed", Error(type="Exit", message=message, hint="its log holds its last words")
    return None


def _raised(case: Case, error: dict[str, str | bool | None]) -> tuple[Status, Error]:
    kind, message, where = str(error["type"]), str(error["message"]), error["where"]
    if error["out_of_memory"]:
        return "oom", Error(type=kind, message=_first_line(message), hint=_smaller(case))
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, f"{kind}: {message}")), None)
    text = f"{_first_line(message)} ({where})" if where else _first_line(message)
    return "failed", Error(type=kind, message=text, hint=hint or "its log holds the traceback")


def _killed(case: Case, outcome: Outcome) -> tuple[Status, Error]:
    name = signal_name(-(outcome.code or 0))
    if name == "SIGKILL" and outcome.oom_killed:
        message = f"the kernel killed the process for want of memory, in phase {outcome.phase}"
        return "oom", Error(type="OutOfMemoryKill", message=message, hint=_smaller(case))
    message = f"killed by {name} in phase {outcome.phase}, not by llmbench; {_where(outcome)}"
    hints = {
        "SIGKILL": "somebody, or a limit of memory or time, killed it: see dmesg and the scheduler's log",
        "SIGSEGV": "a native library crashed: `llmbench doctor`; the log holds the Python stack",
        "SIGILL": "a binary uses instructions that this CPU lacks: `llmbench doctor`",
        "SIGBUS": "a memory-mapped file or /dev/shm ran out of space",
    }
    return "failed", Error(type=name, message=message, hint=hints.get(name, "its log holds its last words"))


def _smaller(case: Case) -> str:
    half = case.config["micro_batch_size"] // 2
    return (f"--set micro_batch_size={half}, " if half else "") + "a smaller size, or more memory"


def _where(outcome: Outcome) -> str:
    """The innermost frame of the stack that the job wrote when it was asked or died."""
    text = outcome.log_text()
    stacks = re.findall(r'most recent call first\):\n  File "(.+?)", line (\d+) in (\S+)', text)
    if not stacks:
        return "it left no stack"
    file, line, function = stacks[-1]
    return f"last seen at {file.rsplit('/', 1)[-1]}:{line} in {function}"


def _first_line(text: str) -> str:
    """What fits in a line of a terminal or a table, without control characters; the log holds the rest."""
    lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines())
    line = next(filter(None, lines), "no message")
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
