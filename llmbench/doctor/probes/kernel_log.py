"""Lines of the kernel log that match patterns, with their age."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

COMMANDS = (
    ("dmesg", "--time-format=raw"),
    ("dmesg",),
    ("journalctl", "-k", "-b", "-o", "short-monotonic", "--no-pager", "-n", "20000"),
)
_MOST = 400


def probe(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Arguments: ``patterns``: regular expressions; ``kmsg``: path of the kernel's buffer, None for none.

    Gives ``source``, and ``lines``: the last of those that match, each with its age in seconds (None if the log has no
    times that can be used) and its text; or ``refused``: why each source could not be read.
    """
    patterns = re.compile("|".join(arguments["patterns"]))
    refused = []
    for source in (*([(arguments["kmsg"],)] if arguments["kmsg"] else []), *COMMANDS):
        try:
            found = [line for line in read(source) if patterns.search(line[1])]
        except (OSError, subprocess.SubprocessError) as error:
            refused.append(f"{' '.join(source)}: {error}")
            continue
        yield {"source": source[0], "lines": found[-_MOST:], "count": len(found)}
        return
    yield {"refused": refused}


def read(source: tuple[str, ...]) -> Iterable[tuple[float | None, str]]:
    """Age and text of each line.

    Raises:
        OSError: it may not be read.
    """
    if source[0].startswith("/"):
        return records(source[0])
    done = subprocess.run(source, capture_output=True, stdin=subprocess.DEVNULL, timeout=4)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode or not text.strip() or "No journal files were" in text:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise PermissionError(words[-1] if words else f"exit code {done.returncode}, nothing printed")
    now = uptime()
    return [(age(line, now), line) for line in text.splitlines()]


def records(path: str) -> Iterable[tuple[float | None, str]]:
    """Messages of the kernel's buffer: ``priority,number,microseconds,flags;text``, then lines that begin with a space.

    Raises:
        OSError: it may not be read.
    """
    now, text = uptime(), ""
    channel = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                got = os.read(channel, 65536)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # it was overwritten before it was read; the next one is there
            if not got:
                break
            text += got.decode("utf-8", "replace")
    finally:
        os.close(channel)
    messages = (line.partition(";") for line in text.splitlines() if line and not line.startswith(" "))
    return [(since(head.split(","), now), message) for head, _, message in messages]


def since(fields: list[str], now: float | None) -> float | None:
    """Seconds since a message with these fields was logged."""
    if now is None or len(fields) < 3 or not fields[2].isdigit():
        return None
    return max(0.0, now - int(fields[2]) / 1e6)


def age(line: str, now: float | None) -> float | None:
    """Seconds since a line such as ``[  12.34] text`` was logged; None where the time is written otherwise."""
    match = re.match(r"\[\s*(\d+\.\d+)\]", line)
    return max(0.0, now - float(match.group(1))) if match and now is not None else None


def uptime() -> float | None:
    try:
        with open("/proc/uptime") as file:
            return float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
