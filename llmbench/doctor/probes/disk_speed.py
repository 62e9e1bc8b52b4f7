"""Writes a file, has it on the disk, and reads it back from there. Standard library only."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    content = os.urandom(arguments["bytes"])
    with tempfile.TemporaryFile(dir=arguments["folder"]) as file:
        started = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        yield {"write_seconds": time.perf_counter() - started}
        # What memory holds of the file is dropped, so that it comes from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        yield {"same": file.read() == content}
