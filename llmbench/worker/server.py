"""A process that has imported torch and forks a fresh child for each job: a fresh process without a fresh import.

It speaks JSON lines: jobs come in on stdin, events go out on stdout. CUDA stays untouched here, as a child cannot
use a context made before the fork. Children write events to the same pipe; a line shorter than ``PIPE_BUF`` is atomic.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

from llmbench.worker.process import die_with


class Channel:
    """Where events go. ``print`` of anybody else goes to stderr."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def send(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}) + "\n"
        os.write(self._descriptor, line.encode())


def serve() -> None:
    """Runs the jobs of stdin, one at a time, until it closes. Arguments: modules to import beside torch."""
    die_with(os.getppid())
    # Ctrl-C in a terminal reaches the whole process group; what to do about it is decided by the control side.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel()
    begin = time.perf_counter()
    try:
        import torch
    except BaseException as error:  # a broken install raises anything, SystemExit included
        channel.send("failed", type=type(error).__name__, message=str(error))
        sys.exit(1)
    channel.send(
        "ready",
        python=".".join(map(str, sys.version_info[:3])),
        torch=torch.__version__,
        seconds=time.perf_counter() - begin,
    )
    for name in sys.argv[1:]:
        _preload(name)
    # Nothing allocated so far is ever freed: keep the collector from touching (and so copying) the shared pages.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        _run(json.loads(line), channel)


def _preload(name: str) -> None:
    """Imports once what every child would import; a child that needs it and cannot have it tells so itself."""
    try:
        importlib.import_module(name)
    except Exception:
        traceback.print_exc()


def _run(job: dict[str, Any], channel: Channel) -> None:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _child(job, channel, parent)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    channel.send("exited", pid=child, code=code, max_rss_bytes=usage.ru_maxrss * 1024)


def _child(job: dict[str, Any], channel: Channel, parent: int) -> None:
    """Never returns: whatever happens, the child must not go on as a second server."""
    code = 70
    try:
        os.setsid()
        die_with(parent)
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        channel.send("started", pid=os.getpid())
        from llmbench.worker.job import run

        code = run(job, channel)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
