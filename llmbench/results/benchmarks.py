"""The JSON that pytest-benchmark writes (``--benchmark-json``, ``--benchmark-save``): what of it a page shows.

https://pytest-benchmark.readthedocs.io. Times are seconds of one iteration. Only name and median must be there: other
versions and plugins leave out and add fields, and what is added is kept in ``extra_info`` alone.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llmbench.errors import UserError

_HINT = "name a folder that `llmbench run` wrote, or a file that `pytest --benchmark-json` wrote"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


def _times(value: Any) -> list[float]:
    """Seconds above zero; none where any is not: a part of the rounds would be another measurement."""
    times = value if isinstance(value, list) else []
    usable = all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in times)
    return times if usable else []


class Stats(_Read):
    """Of the rounds, each divided by its iterations. ``ops`` is 1 / mean; ``data`` the single rounds, if kept."""

    median: float = Field(ge=0)
    q1: float | None = Field(None, ge=0)
    q3: float | None = Field(None, ge=0)
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    stddev: float | None = None
    ops: float | None = None
    total: float | None = None
    rounds: int | None = Field(None, ge=0)
    iterations: int | None = Field(None, ge=0)
    data: Annotated[list[float], BeforeValidator(_times)] = []


class Benchmark(_Read):
    """One test. ``extra_info`` is what the test itself said, e.g. ``flops`` of an iteration."""

    name: str
    fullname: str | None = None
    group: str | None = None
    params: dict[str, Any] | None = None
    extra_info: dict[str, Any] = {}
    options: Annotated[dict[str, Any], BeforeValidator(lambda value: value if isinstance(value, dict) else {})] = {}
    stats: Stats


class BenchmarkFile(_Read):
    """One session of pytest.

    Attributes:
        document: the whole file, without the single times of each round.
    """

    benchmarks: list[Benchmark]
    machine_info: dict[str, Any] = {}
    commit_info: dict[str, Any] | None = None
    datetime: str | None = None
    version: str | None = None
    document: dict[str, Any] = {}


def read_benchmarks(path: Path) -> BenchmarkFile:
    """Raises: UserError: the file cannot be read, is no JSON, or none of pytest-benchmark; line or field named."""
    document = _json(path)
    if not isinstance(document, dict) or "benchmarks" not in document:
        raise UserError(f"{path} is not a JSON file of pytest-benchmark: it has no field `benchmarks`", _HINT)
    try:
        read = BenchmarkFile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {field}: {first['msg']}", _HINT) from None
    for benchmark in document["benchmarks"]:
        benchmark["stats"].pop("data", None)
    return read.model_copy(update={"document": document})


def _json(path: Path) -> Any:
    try:
        # Python writes NaN and Infinity, which are not JSON: no browser reads them back.
        return json.loads(path.read_bytes(), parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", _HINT) from None
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: not JSON: {error.msg}", _HINT) from None
    except (ValueError, RecursionError) as error:  # bytes that are no text, numbers or nesting without end
        raise UserError(f"{path}: not JSON: {error}", _HINT) from None


def _whole(text: str) -> int | None:
    """None where no float could hold it: no measurement has hundreds of digits."""
    value = int(text)
    return value if abs(value) <= sys.float_info.max else None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
