"""Imports torch and says what it is. Each part is reported before the next is tried."""

from __future__ import annotations

import faulthandler
import importlib.metadata
import importlib.util
import linecache
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator

_DEADLINE = 30.0
_SHARE = 0.7
"""Of the deadline: if torch is not imported then, the stack is printed, which tells where it hangs."""


def probe(arguments: dict) -> Iterator[dict]:
    started = time.perf_counter()
    show_stack_after(_SHARE * arguments.get("deadline", _DEADLINE))
    try:
        import torch
    except BaseException as error:
        yield {"failure": circumstances(error)}
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.unregister(signal.SIGALRM)

    yield {
        "seconds": time.perf_counter() - started,
        "version": str(torch.__version__),
        "file": torch.__file__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "git": torch.version.git_version,
        "debug": bool(torch.version.debug),
    }
    yield {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "distributed": torch.distributed.is_available(),
        "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
        "nccl": torch.distributed.is_available() and torch.distributed.is_nccl_available(),
    }


def show_stack_after(seconds: float) -> None:
    """Prints the stack then, even if C code never comes back.

    By an alarm, that this thread handles itself: faulthandler's own timer reads the stack from another thread, which
    crashes now and then while this one goes on.
    """
    faulthandler.register(signal.SIGALRM, file=2, all_threads=False)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def circumstances(error: BaseException) -> dict:
    """What helps to tell why the import failed, and whose fault it is."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    # Of the import, not of this probe; for a syntax error its file is the place.
    shown = [[f.filename, f.lineno, f.name, linecache.getline(f.filename, f.lineno or 0).strip()] for f in frames[1:]]
    if isinstance(error, SyntaxError) and error.filename:
        shown.append([error.filename, error.lineno, "", (error.text or "").strip()])
    cause = error.__cause__ or error.__context__
    return {
        "frames": shown[-6:],
        "because": f"{type(cause).__name__}: {cause}" if cause else "",
        "backends": backends(),
        "wanted": wanted(str(error)),
        "paths": [path for path in sys.path if path],
    }


def backends() -> list:
    """Packages that torch imports of its own accord: name of the entry point, its value, distribution, version."""
    found = []
    for distribution in importlib.metadata.distributions():
        for entry in distribution.entry_points:
            if entry.group == "torch.backends":
                found.append([entry.name, entry.value, distribution.metadata["Name"] or "", distribution.version])
    return found


def wanted(message: str) -> dict:
    """The distribution that a name could not be imported from, and what torch requires of it."""
    match = re.search(
        r"cannot import name '\w+' from (?:partially initialized module )?'([\w.]+)'(?: \((.*)\))?", message
    )
    if match is None:
        return {}
    module = match.group(1).partition(".")[0]
    found = {"module": module, "file": match.group(2) or ""}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"] or "").lower()
        if name == module:
            found["version"] = distribution.version
        if name == "torch":
            for line in distribution.requires or []:
                if re.sub(r"[-_.]+", "_", line).lower().startswith(module) and "extra" not in line:
                    found["requirement"] = line
    return found
