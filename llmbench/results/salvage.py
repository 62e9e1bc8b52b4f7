"""Reads what is damaged: keeps of a document what is valid and names the rest, so that nothing is dropped silently.

A field that cannot be read takes its default with it: the smallest part around it that may be missing is left out. What
must be there has a placeholder that cannot be taken for a result.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from llmbench.results.ab import AbSession
from llmbench.results.schema import Error, PlannedCase, Record, Run, Status

UNKNOWN = "unknown"
"""What stands for a name that could not be read."""

_MOST_TOLD = 20  # faults of one document, and then how many more there are
_DEEPEST = 100  # levels of nesting that every reader and writer bears
_CASE = re.compile(r'"case"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){1,200}")')
_WORLD_SIZE = re.compile(r"ws(\d{1,6})")
_GONE = object()
_IN_WORDS_OF_JSON = {
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be an array",
    "tuple_type": "Input should be an array",
}

Model = TypeVar("Model", bound=BaseModel)
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Recorded:
    """What one line of ``records.jsonl`` says.

    Attributes:
        record: what could be read of it.
        damage: file, line, field and what is wrong with it, a text each; empty for a valid line.
        line: its number, from 1.
    """

    record: Record
    damage: list[str]
    line: int


def record_of(line: bytes, file: Path, number: int) -> Recorded:
    """Any line as a record. Its status is ``failed`` if the line has no valid one."""
    try:
        return Recorded(Record.model_validate_json(line), [], number)
    except ValidationError as error:
        document, faults = _read(line, error)
    whole = isinstance(document, dict)
    document = document if whole else _guess(line)
    ended = document.get("status") in get_args(Status)
    record, missing = _mended(Record, document, f"{file.name} line {number}")
    damage = _told([*faults, *(missing if whole else [])], f"{file}, line {number}")
    if not ended and record.error is None:
        record = record.model_copy(update={"error": Error(type="Damaged", message="\n".join(damage))})
    return Recorded(record, damage, number)


def run_of(text: bytes, file: Path) -> tuple[Run, list[str]]:
    """A run and its damage, as of ``Recorded``.

    Raises:
        ValidationError: the text is no JSON object.
    """
    try:
        return Run.model_validate_json(text), []
    except ValidationError as error:
        document, faults = _read(text, error)
        if not isinstance(document, dict):
            raise
    run, more = _mended(Run, document, file.parent.name)
    return run, _told([*faults, *more], str(file))


def session_of(line: bytes, file: Path, number: int) -> tuple[AbSession, list[str]]:
    """Any line of ``sessions.jsonl`` as a session, and its damage, as of ``Recorded``."""
    try:
        return AbSession.model_validate_json(line), []
    except ValidationError as error:
        document, faults = _read(line, error)
    whole = isinstance(document, dict)
    session, missing = _mended(AbSession, document if whole else _guess(line), f"{file.name} line {number}")
    return session, _told([*faults, *(missing if whole else [])], f"{file}, line {number}")


def first_fault(error: ValidationError) -> str:
    """The first thing wrong with a document, after the name of its field."""
    return _fault(error.errors(include_url=False, include_input=False)[0])


def _fault(found: Any) -> str:
    said = _IN_WORDS_OF_JSON.get(found["type"]) or str(found["msg"]).replace(" at line 1 column ", " at column ")
    return f"{_dotted(found['loc']) or 'document'}: {said}"


def _dotted(path: Sequence[str | int]) -> str:
    name = ".".join(str(step) for step in path)
    return name if len(name) <= 120 else name[:119] + "…"


def _told(faults: Sequence[str], where: str) -> list[str]:
    told = [f"{where}: {fault}" for fault in faults[:_MOST_TOLD]]
    rest = len(faults) - len(told)
    return [*told, f"{where}: {rest} more faults"] if rest else told


def _read(text: bytes, error: ValidationError) -> tuple[Any, list[str]]:
    """The document of a text that is not valid, None if there is none; and what is wrong with the JSON itself."""
    first = error.errors(include_url=False, include_input=False)[0]
    faults = [_fault(first)] if first["type"] == "json_invalid" or not first["loc"] else []
    try:
        document = json.loads(text.decode("utf-8", "replace"), parse_int=_integer, strict=False)
    except (ValueError, RecursionError):
        return None, faults
    return _bearable(document), faults


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python takes
        return math.copysign(math.inf, -1 if digits.startswith("-") else 1)


def _bearable(value: Any, depth: int = 0) -> Any:
    """The value without half surrogate pairs, which cannot be written, and without endless nesting."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if not isinstance(value, dict | list):
        return value
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, list):
        return [_bearable(item, depth + 1) for item in value]
    return {_bearable(key): _bearable(item, depth + 1) for key, item in value.items()}


def _guess(line: bytes) -> dict[str, Any]:
    """The case that a line is about, where that alone can be read."""
    found = _CASE.search(line.decode("utf-8", "replace"))
    try:
        return {"case": _bearable(json.loads(found[1]))} if found else {}
    except ValueError:
        return {}


def _mended(model: type[Model], document: dict[str, Any], name: str) -> tuple[Model, list[str]]:
    """The model of what is valid in a document, which is changed; and what was not.

    Args:
        name: what stands for a missing name of the document itself.
    """
    faults: list[str] = []
    while True:  # ends: every round takes away all that was found, and a placeholder is valid
        try:
            return model.model_validate(document), faults
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
        for one in found:
            place, stands_for = _way_out(model, document, one["loc"], name)
            _put(document, place, stands_for)
            left_out = stands_for is _GONE and place != one["loc"]
            faults.append(_fault(one) + (f"; {_dotted(place)} is left out" if left_out else ""))
        document = _swept(document)


def _way_out(model: type[BaseModel], document: Any, fault: Path_, name: str) -> tuple[Path_, Any]:
    """The innermost place on the way to a fault that may be missing or has a placeholder; and what to put there."""
    kind: Any = model
    value, found = document, (fault[:0], _GONE)
    for depth, step in enumerate(fault):
        place = fault[: depth + 1]
        kind = _not_none(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            key, field = _field(kind, step)
            if field is None:
                break
            placeholders = _PLACEHOLDERS[kind](value, name) if kind in _PLACEHOLDERS else {}
            if key in placeholders:
                found = (place, placeholders[key])
            elif not field.is_required():
                found = (place, _GONE)
            kind = field.annotation
        elif get_origin(kind) in (list, dict):
            found = (place, _GONE)
            kind = get_args(kind)[-1]
            name = f"{name} {_dotted(place)}"
        else:
            break
        value = _at(value, step)
    return found


def _not_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _field(model: type[BaseModel], step: str | int) -> tuple[str, FieldInfo | None]:
    found = ((name, field) for name, field in model.model_fields.items() if step in (name, field.alias))
    return next(found, ("", None))


def _at(value: Any, step: Any) -> Any:
    try:
        return value[step]
    except (LookupError, TypeError):
        return _GONE


def _put(document: Any, place: Path_, value: Any) -> None:
    """Marks what is gone; a place in something that is gone already stays so."""
    outer, last = place[:-1], cast("Any", place[-1])
    for step in outer:
        document = _at(document, step)
    if isinstance(document, list | dict) and not (value is _GONE and _at(document, last) is _GONE):
        document[last] = value


def _swept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _swept(item) for key, item in value.items() if item is not _GONE}
    if isinstance(value, list):
        return [_swept(item) for item in value if item is not _GONE]
    return value


def _of_record(document: Any, name: str) -> dict[str, Any]:
    return _of_case(document, name) | {"device": UNKNOWN, "status": "failed"}


def _of_case(document: Any, name: str) -> dict[str, Any]:
    """From the case's id, ``workload/mode/wsN``, as far as it says them."""
    case = document.get("case") if isinstance(document, dict) else None
    words = case.split("/") if isinstance(case, str) else []
    workload, mode, size = words[:3] if len(words) > 2 else (UNKNOWN, UNKNOWN, "")
    ranks = _WORLD_SIZE.fullmatch(size)
    return {
        "case": name,
        "workload": workload,
        "mode": mode,
        "world_size": int(ranks[1]) if ranks else 1,
        "config": {},
    }


def _of_run(document: Any, name: str) -> dict[str, Any]:
    names = ("suite", "llmbench", "python", "device")
    texts = ("suite_file", "working_folder", "started_at")
    return {"id": name, "cases": [], "command": []} | dict.fromkeys(names, UNKNOWN) | dict.fromkeys(texts, "")


def _of_session(document: Any, name: str) -> dict[str, Any]:
    numbers = {"session": -1, "seed": 0, "seconds": 0.0}
    return {"case": name, "first": "base", "base": {}, "cand": {}, "started_at": ""} | numbers


_PLACEHOLDERS: dict[type[BaseModel], Callable[[Any, str], dict[str, Any]]] = {
    Record: _of_record,
    PlannedCase: _of_case,
    Run: _of_run,
    AbSession: _of_session,
}
