"""Loads compiled parts of packages beside torch, each in a child: one may crash, or register what another does."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    """``libraries``: their paths. Needs a process that has imported torch."""
    import torch  # noqa: F401

    tried: dict = {}
    for path in arguments["libraries"]:
        yield {"libraries": {**tried, path: {"hung": True}}}
        tried[path] = load(path)
        yield {"libraries": dict(tried)}


def load(path: str) -> dict:
    """How it went: ``error`` is the loader's message, None if there is none; ``signal`` what killed the child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(path)
        except OSError as failed:
            os.write(writing, str(failed).encode("utf-8", "replace")[:4096])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        error = pipe.read().decode("utf-8", "replace")
    status = os.waitpid(child, 0)[1]
    return {"error": error or None, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None}
