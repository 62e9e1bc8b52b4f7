"""A user's own workload: a class that follows ``Workload``, named by ``module:attribute``."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from llmbench.worker.workloads import Workload

METHODS = ("build", "stage", "evaluate")  # a workload must have them; for the others there is a default
UNITS = ("tokens/s", "samples/s")
TOKENIZERS = ("bpe", "wordpiece")


class NotAWorkload(Exception):  # noqa: N818
    """There is no such workload, or what is there is none. The text says which and why."""


class Defaults:
    """What a workload need not say."""

    def before(self, model: nn.Module) -> None:
        return

    def references(self) -> list[dict[str, Any]]:
        return []

    def proofs(self, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
        return {}, []


def workload(config: dict[str, Any], data: dict[str, Any]) -> Workload:
    """The workload of a case by ``config["foreign"]["source"]``.

    Raises:
        NotAWorkload: as ``load``.
    """
    made: Workload = completed(load(config["foreign"]["source"]))(config, data)
    return made


def completed(own: type[Any]) -> type[Any]:
    """The class with a default for each method that it leaves out."""
    return type(own.__name__, (own, Defaults), {})


def load(source: str) -> type[Any]:
    """The class that ``module:attribute`` names; the working folder is searched first, as by ``python -m``.

    Raises:
        NotAWorkload: there is no such module or attribute, or it is no workload.
        Exception: whatever the module raises while it is imported.
    """
    module_name, _, attribute = source.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise NotAWorkload(f"no module named {error.name!r} in this folder or beside torch") from None
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NotAWorkload(f"{module_name} has no attribute {attribute!r}") from None
    if not isinstance(found, type):
        raise NotAWorkload(f"it is {type(found).__name__}, not a class")
    missing = [name for name in METHODS if not callable(getattr(found, name, None))]
    if missing:
        raise NotAWorkload(f"it is no workload: it has no method {', '.join(missing)}")
    return found


def describe(source: str) -> dict[str, Any]:
    """What the control side must know of the workload ``module:attribute``: what its class says of itself.

    Raises:
        NotAWorkload: as ``load``, or a class attribute is wrong.
        Exception: whatever the module raises while it is imported.
    """
    own = load(source)
    settings, model = (_dictionary(own, attribute) for attribute in ("settings", "model"))
    unit = _choice(own, "unit", UNITS)
    tokenizer = _choice(own, "tokenizer", (None, *TOKENIZERS))
    vocab_size = getattr(own, "vocab_size", None)
    if tokenizer is not None:
        if not isinstance(vocab_size, int) or isinstance(vocab_size, bool) or vocab_size < 1:
            raise NotAWorkload(f"vocab_size = {vocab_size!r}: a text needs a vocabulary, e.g. 1024")
        model = model | {"vocab_size": vocab_size}
    return {
        "source": source,
        "title": (own.__doc__ or own.__name__).strip().splitlines()[0],
        "unit": unit,
        "tokenizer": tokenizer,
        "model": model,
        "settings": settings,
    }


def _choice(own: type[Any], attribute: str, choices: tuple[str | None, ...]) -> str | None:
    value = getattr(own, attribute, None)
    if value not in choices:
        raise NotAWorkload(f"{attribute} = {value!r} is none of {', '.join(map(repr, choices))}")
    return value


def _dictionary(own: type[Any], attribute: str) -> dict[str, Any]:
    value = getattr(own, attribute, {})
    wrong = NotAWorkload(f"{attribute} must be a dictionary that JSON can hold, and is {value!r}")
    if not isinstance(value, dict):
        raise wrong
    try:
        return dict(json.loads(json.dumps(value)))
    except (TypeError, ValueError):
        raise wrong from None
