"""Whether folders can be written, and how much space they have. Standard library only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    for name, path in arguments["folders"].items():
        yield {name: look(path)}


def look(path: str) -> dict:
    """Looks at a folder, or where it is not there yet, at the nearest one above it in which it would be made."""
    asked = path
    while not os.path.isdir(path):
        if os.path.lexists(path):
            return {"path": asked, "error": f"{path} is no folder"}
        above = os.path.dirname(path.rstrip("/"))
        if above in (path, ""):
            return {"path": asked, "error": "no part of it exists"}
        path = above
    found = {"path": asked, "exists": path == asked, "looked_at": path}
    try:
        stat = os.statvfs(path)
        found.update(total_bytes=stat.f_blocks * stat.f_frsize, free_bytes=stat.f_bavail * stat.f_frsize)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found["error"] = error.strerror or str(error)
    return found
