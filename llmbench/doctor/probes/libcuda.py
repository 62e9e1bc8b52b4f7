"""The driver's own library, without torch: can it be loaded, from where, and what does it answer?"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    """With ``init`` it also initialises the driver, which wakes the GPUs."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        yield {"error": str(error)}
        return
    yield {"path": loaded_from()}
    number = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(number)) == 0:
        yield {"version": number.value}
    if arguments.get("init"):
        yield {"code": library.cuInit(0)}


def loaded_from() -> str | None:
    """The file behind ``libcuda.so.1``, links followed."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = [line.split(maxsplit=5)[5].strip() for line in maps if "/libcuda.so" in line]
    except (OSError, IndexError):
        return None
    return paths[0] if paths else None
