"""What C++ builds for this interpreter need of it: its headers, and packages that torch's builds use. No torch."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    include = sysconfig.get_path("include")
    yield {
        "include": include,
        "header": os.path.isfile(os.path.join(include, "Python.h")),
        "version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "scripts": sysconfig.get_path("scripts"),
    }
    yield {name: importlib.util.find_spec(name) is not None for name in ("setuptools", "ninja")}
