"""Lines of the kernel log that match patterns, with their age."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

KMSG = "/dev/kmsg"
COMMANDS = (
    ("dmesg", "--time-format=raw"),
    ("dmesg",),
    ("journalctl", "-k", "-b", "-o", "short-monotonic", "--no-pager", "-n", "20000"),
)
_MOST = 400


def probe(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Arguments: ``patterns``: regular expressions; ``kmsg``: whether ``/dev/kmsg`` may be read.

    Gives ``source``, and ``lines``: the last of those that match, each with its age in seconds (None if the log has no
    times that can be used) and its text; or ``refused``: why each source could not be read.
    """
    patterns = re.compile("|".join(arguments["patterns"]))
    refused = []
    for source in sources(arguments.get("kmsg", True)):
        try:
            found = [line for line in read(source) if patterns.search(line[1])]
        except (OSError, subprocess.SubprocessError) as error:
            refused.append(f"{' '.join(source)}: {error}")
            continue
        yield {"source": " ".join(source), "lines": found[-_MOST:], "count": len(found)}
        return
    yield {"refused": refused}


def sources(kmsg: bool) -> Iterator[tuple[str, ...]]:
    if kmsg:
        yield (KMSG,)
    yield from COMMANDS


def read(source: tuple[str, ...]) -> Iterable[tuple[float | None, str]]:
    """Age and text of each line.

    Raises:
        OSError: it may not be read.
    """
    if source == (KMSG,):
        return records()
    done = subprocess.run(source, capture_output=True, stdin=subprocess.DEVNULL, timeout=4)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode or not text.strip() or "No journal files were" in text:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise PermissionError(words[-1] if words else f"exit code {done.returncode}, nothing printed")
    now = uptime()
    return [(age(line, now), line) for line in text.splitlines()]


def records() -> Iterable[tuple[float | None, str]]:
    """Messages of the kernel's buffer: ``priority,number,microseconds,flags;text``.

    Raises:
        OSError: it may not be read.
    """
    found: list[tuple[float | None, str]] = []
    now = uptime()
    channel = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(channel, 65536).decode("utf-8", "replace")
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue  # it was overwritten before it was read; the next one is there
            if not record:
                return found
            head, _, text = record.partition(";")
            fields = head.split(",")
            seconds = int(fields[2]) / 1e6 if len(fields) > 2 and fields[2].isdigit() else None
            first = text.splitlines()[0] if text else ""
            found.append((None if seconds is None or now is None else max(0.0, now - seconds), first))
    finally:
        os.close(channel)


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
