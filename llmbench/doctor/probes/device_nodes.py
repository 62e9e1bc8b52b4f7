"""Opens device nodes for reading and writing, as a GPU's library does. A broken device may block that for ever."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    """For each of ``paths`` the name of the error, or ``OK``; a node that is not among the answers did not answer."""
    nodes: dict = {}
    for path in arguments["paths"]:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            nodes[path] = "OK"
        except OSError as error:
            nodes[path] = errno.errorcode.get(error.errno or 0, str(error.errno))
        yield {"nodes": nodes}
