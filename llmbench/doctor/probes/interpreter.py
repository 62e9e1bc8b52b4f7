"""What the interpreter under test is, and whether it can be given packages."""

from __future__ import annotations

import importlib.util
import os
import platform
import struct
import sys
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    yield {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "virtual_environment": sys.prefix != sys.base_prefix,
        "bits": struct.calcsize("P") * 8,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "pip": importlib.util.find_spec("pip") is not None,
        "safe_path": bool(getattr(sys.flags, "safe_path", False)),
        "working_folder": working_folder(),
    }


def working_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
