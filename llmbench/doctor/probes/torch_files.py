"""Where torch would be imported from, and whether its files are those that its installer wrote."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    spec = importlib.util.find_spec("torch")
    distributions = [d for d in importlib.metadata.distributions() if (d.metadata["Name"] or "").lower() == "torch"]
    found = {
        "found": spec is not None,
        "origin": spec.origin if spec else None,
        "folders": [str(path) for path in (spec.submodule_search_locations or [])] if spec else [],
        "versions": [d.version for d in distributions],
        "distributions": [str(getattr(d, "_path", "")) for d in distributions],
    }
    yield found
    if len(distributions) == 1:
        yield compare(distributions[0])


def compare(distribution: importlib.metadata.Distribution) -> dict:
    """Only size and presence: reading gigabytes to hash them would take longer than all else."""
    missing: list[str] = []
    truncated: list[list] = []
    replaced: list[list] = []
    edited: list[list] = []
    total = 0
    for file in distribution.files or []:
        name = str(file)
        # Byte code is made and removed at will; a link's script is rewritten by installers.
        if not name.startswith("torch/") or name.endswith(".pyc"):
            continue
        total += 1
        try:
            size = os.stat(file.locate()).st_size
        except OSError:
            missing.append(name)
            continue
        if file.size is not None and size != file.size:
            # People do edit Python files. A library that is shorter was cut off; a longer one is somebody's own.
            library = name.endswith(".so") or ".so." in name
            cut_off = size == 0 or (library and size < file.size)
            (truncated if cut_off else replaced if library else edited).append([name, size, file.size])
    return {
        "recorded": total,
        "missing": missing,
        "truncated": truncated,
        "replaced": replaced,
        "edited": edited,
    }
