"""Files that node 0 made, where all nodes of an allocation can read them: copies in the folder of the run."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

FOLDER = ".shared"
APPEAR_SECONDS = 10.0  # for a network disk to show what another host wrote before the end of its work
LOOK_SECONDS = 0.1


class SharedFiles:
    """Copies into a folder on the shared disk. What lies on the same disk is used where it is.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job with files that all nodes can read."""
        data = {key: self._shared(value) if _is_file(value) else value for key, value in job["data"].items()}
        found = job | {"data": data}
        if job.get("gradients"):
            found["gradients"] = self._shared(job["gradients"])
        return found

    def remove(self) -> None:
        shutil.rmtree(self._run / FOLDER, ignore_errors=True)

    def _shared(self, path: str) -> str:
        about = os.stat(path)
        key = (path, about.st_mtime_ns, about.st_size)
        if key not in self._known:
            self._known[key] = path if about.st_dev == self._run.stat().st_dev else self._copy(path)
        return self._known[key]

    def _copy(self, path: str) -> str:
        folder = self._run / FOLDER
        folder.mkdir(exist_ok=True)
        copy = folder / f"{len(self._known)}-{Path(path).name}"
        shutil.copyfile(path, copy)
        return str(copy.resolve())


def appears(file: Path, until: float) -> bool:
    """Waits for a file that another host wrote: a network disk may show it late.

    Args:
        until: by ``time.monotonic``; a time that is over looks once.
    """
    while not file.exists():
        if time.monotonic() >= until:
            return False
        os.listdir(file.parent)  # lets NFS look anew
        time.sleep(LOOK_SECONDS)
    return True


def _is_file(value: object) -> bool:
    return isinstance(value, str) and os.path.isabs(value) and os.path.isfile(value)
