"""Where things lie: the shipped suites, and the folder for what is worth keeping between runs."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def suites_folder() -> Path:
    """The suites that llmbench ships: inside the package when installed, beside it in a checkout."""
    shipped = PACKAGE / "suites"
    return shipped if shipped.is_dir() else PACKAGE.parent / "suites"


@cache
def cache_folder() -> Path:
    """The cache (tokenizers, token files, pretrained bases, measured peaks), created if missing.

    ``LLMBENCH_CACHE``, else ``XDG_CACHE_HOME/llmbench``, else ``~/.cache/llmbench``. Where none can be written,
    a temporary folder that lives as long as this process needs it: a missing cache costs time, never a run.
    """
    for folder in _candidates():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="llmbench-cache-"))


def _candidates() -> list[Path]:
    explicit = os.environ.get("LLMBENCH_CACHE")
    if explicit:
        return [Path(explicit)]
    xdg = os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~")
    folders = [Path(xdg) / "llmbench"] if xdg else []
    return folders + ([Path(home) / ".cache" / "llmbench"] if home != "~" else [])
