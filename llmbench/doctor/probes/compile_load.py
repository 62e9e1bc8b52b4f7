"""Loads a shared library as torch.compile loads its kernels, and calls its function ``kernel``. No torch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    library = ctypes.CDLL(arguments["library"])
    yield {"loaded": True}
    yield {"value": library.kernel(arguments["count"])}
