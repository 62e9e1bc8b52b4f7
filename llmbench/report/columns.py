"""Records of one run repeat each other's names and settings: told column by column they weigh a fifth.

A column stands for one value of each of ``n`` records, in one of these forms (``scripts/data.js`` reads them back):

- ``{"same": value}``: all equal.
- ``{"each": [value, …]}``: one by one.
- ``{"kinds": [value, …], "of": "0010…"}``: few different ones; a digit of base 36 for each record chooses.
- ``{"keys": {name: column, …}}``: all are objects; a column for each of their names.
- ``{"lengths": column, "items": column}``: all are lists; the second column goes through the items of all of them.
- ``{"there": "+n-…", "of": column}``: ``+`` has a value in the column, ``n`` is null, ``-`` has not even the name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ABSENT = object()

Column = dict[str, Any]


def pack(values: Sequence[Any]) -> dict[str, Any]:
    """The values, which JSON could hold, as ``{"n": number of values, "columns": column}``."""
    return {"n": len(values), "columns": _column(values)}


def compact(value: object) -> str:
    """JSON without white space; text beyond ASCII as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _column(values: Sequence[Any]) -> Column:
    if any(value is None or value is _ABSENT for value in values):
        return _with_holes(values)
    texts = [compact(value) for value in values]
    if len(set(texts)) == 1:
        return {"same": values[0]}
    if all(isinstance(value, dict) for value in values):
        return {"keys": {name: _column([value.get(name, _ABSENT) for value in values]) for name in _names(values)}}
    if all(isinstance(value, list) for value in values):
        items = [item for value in values for item in value]
        return {"lengths": _column([len(value) for value in values]), "items": _column(items)}
    return _scalars(values, texts)


def _with_holes(values: Sequence[Any]) -> Column:
    if all(value is None for value in values):
        return {"same": None}
    there = "".join("-" if value is _ABSENT else "n" if value is None else "+" for value in values)
    return {"there": there, "of": _column([value for value in values if value is not None and value is not _ABSENT])}


def _scalars(values: Sequence[Any], texts: Sequence[str]) -> Column:
    kinds = dict(zip(texts, values, strict=True))
    if len(kinds) > len(_DIGITS) or len(kinds) > len(values) / 2:
        return {"each": list(values)}
    digits = dict(zip(kinds, _DIGITS, strict=False))
    return {"kinds": list(kinds.values()), "of": "".join(digits[text] for text in texts)}


def _names(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Of all the objects, in the order in which they first appear."""
    return list(dict.fromkeys(name for value in objects for name in value))
