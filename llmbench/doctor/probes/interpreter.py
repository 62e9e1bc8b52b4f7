"""What the interpreter under test is, how it reads text, and which parts of its standard library work.

It imports almost nothing itself, so that a file that hides a part of the standard library cannot keep it from telling.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    """``modules``: parts of the standard library to try."""
    yield {
        "version": ".".join(map(str, sys.version_info[:3])) + (sys.version_info[3] != "final") * "-pre",
        "implementation": {"cpython": "CPython", "pypy": "PyPy"}.get(sys.implementation.name, sys.implementation.name),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "virtual_environment": sys.prefix != sys.base_prefix,
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "platform": "-".join(os.uname()[i] for i in (0, 2, 4)),
        "machine": os.uname().machine,
        "libc": libc(),
        "free_threaded": "free-threading" in sys.version,
        "debug": hasattr(sys, "gettotalrefcount"),
        "torch": importlib.util.find_spec("torch") is not None,
        "pip": importlib.util.find_spec("pip") is not None,
        "managed": os.path.isfile(os.path.join(os.path.dirname(os.__file__), "EXTERNALLY-MANAGED")),
        "safe_path": bool(getattr(sys.flags, "safe_path", False)),
        "working_folder": working_folder(),
    }
    with open(os.devnull) as file:
        yield {"encodings": {"files": file.encoding, "names": sys.getfilesystemencoding(), "output": output()}}
    yield from try_modules(arguments.get("modules", []))


def libc() -> str | None:
    """``glibc 2.36`` or ``musl``; None if it is another or does not tell."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return "musl" if "musl" in str(getattr(sys.implementation, "_multiarch", "")) else None


def working_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def output() -> str | None:
    return getattr(sys.stdout, "encoding", None)


def try_modules(names: list) -> Iterator[dict]:
    """Imports them from the standard library alone; the one that is being tried counts as crashed until it is there."""
    path = sys.path[:]
    given = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = [folder for folder in path if folder and folder not in given]
    errors: dict = {}
    for name in names:
        yield {"modules": {**errors, name: "the process died when it was imported"}}
        try:
            importlib.import_module(name)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
        yield {"modules": dict(errors)}
    sys.path[:] = path
