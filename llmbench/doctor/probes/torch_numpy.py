"""Makes an array of a tensor, and a tensor of that."""

from __future__ import annotations

import importlib.metadata
import traceback
import warnings
from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    try:
        yield {"version": importlib.metadata.version("numpy")}
    except importlib.metadata.PackageNotFoundError:
        yield {"version": None}
    try:
        import numpy
    except Exception as error:
        where = [f.filename for f in traceback.extract_tb(error.__traceback__) if "<frozen" not in f.filename]
        yield {
            "import_error": f"{type(error).__name__}: {error}",
            "nothing": isinstance(error, ModuleNotFoundError) and error.name == "numpy",
            "where": where[-1] if where else "",
        }
        return
    yield {"imported": str(getattr(numpy, "__version__", "without a version")), "file": str(numpy.__file__)}
    import torch

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            array = torch.arange(3.0).numpy()
            back = torch.from_numpy(array + 1).tolist()
        except Exception as error:
            yield {"error": f"{type(error).__name__}: {error}", "warned": [str(w.message) for w in warned]}
            return
    yield {"error": None if back == [1.0, 2.0, 3.0] else f"numpy gave {back} for [1, 2, 3]"}
