"""Documents that mean harm: made from the schema, or from a good document, with hostile texts and absurd numbers."""

from __future__ import annotations

import math
import types
from random import Random
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

TEXTS = (
    "</script><script>window.pwned=1</script>",
    "</SCRIPT ><script>window.pwned=1</script>",
    "<!--<script>window.pwned=1</script>-->",
    "<!--<script>",
    "]]><script>window.pwned=1</script>",
    "</title></style></textarea></pre><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"'><img src=x onerror=window.pwned=1>",
    "<svg/onload=window.pwned=1>",
    "</desc></svg><svg><script>window.pwned=1</script>",
    "x\" onmouseover=window.pwned=1 onfocus='window.pwned=1' autofocus style=\"position:fixed;inset:0\" x=\"",
    "javascript:window.pwned=1//",
    "java\tscript:window.pwned=1",
    "data:text/html,<script>window.pwned=1</script>",
    "https://evil.invalid/\"onclick=window.pwned=1",
    "//evil.invalid/x.png",
    "background:url(//evil.invalid/x);}*{display:none",
    "@import '//evil.invalid/x.css';",
    "{{ 7*7 }}{% raw %}{{ ''.__class__.__mro__ }}",
    "{%endblock%}{#",
    "`<script>window.pwned=1</script>` --set steps=<b>",
    "${window.pwned=1}",
    "__proto__",
    "constructor",
    "\u202etxt.exe\u2066\u200b\ufeff",
    "\x00\x07\x1b[31mred\x1b[0m\x7f\x9b",
    "\r\n\t\x0b\x0c\x85\u2028\u2029",
    "\ud800",
    "\udfff\ud800x",
    "&lt;b&gt;&amp;amp;&#x3c;script&#x3e;",
    "=HYPERLINK(\"//evil.invalid\")",
    "../../../../etc/passwd",
    "-1;DROP TABLE",
    "",
    " ",
    "/",
    "////",
    "a/b/ws1/c/d",
    "%00%3Cscript%3E",
    "#q=<script>&problems=1",
    "data",
    "main",
    "cases",
    "eager",
    "gpt-tiny",
    "ws2",
    "x" * 5000,
    "<b>" * 500,
    "語" * 300,
    "👩‍👩‍👧" * 50,
    "2026-11-22T08:12:05+00:00",
    "9999-12-31T23:59:59.999999-23:59",
    "0001-01-01T00:00:00+14:00",
)  # fmt: skip

FLOATS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e308, -1e308, 1.7e308, 5e-324, -5e-324, 1e-300, -1.0, 1e18, 0.5)
INTEGERS = (0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, -(10**400), 7, 100)
WRONG = (None, True, -1, 0.5, "text", [], [[]], {}, {"a": {"b": []}}, [1, "x", None], math.nan)


def text(rng: Random) -> str:
    return rng.choice(TEXTS) if rng.random() < 0.9 else "".join(chr(rng.randrange(1, 0x3000)) for _ in range(8))


def number(rng: Random) -> float:
    return rng.choice(FLOATS) if rng.random() < 0.4 else rng.uniform(0.001, 5000)


def integer(rng: Random) -> int:
    return rng.choice(INTEGERS) if rng.random() < 0.4 else rng.randrange(1, 5000)


def anything(rng: Random, depth: int = 3) -> Any:
    kind = rng.randrange(8 if depth else 5)
    if kind == 0:
        return number(rng)
    if kind == 1:
        return integer(rng)
    if kind == 2:
        return rng.choice((None, True, False))
    if kind < 5:
        return text(rng)
    if kind == 5:
        return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {text(rng): anything(rng, depth - 1) for _ in range(rng.randrange(4))}


def made(kind: Any, rng: Random, spoilt: float = 0.0) -> Any:
    """A JSON value of a type of the schema.

    Args:
        spoilt: how often, at each place, it is of another type, lacks a field that it must have, or has one too many.
    """
    if rng.random() < spoilt:
        return rng.choice(WRONG)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _made_model(kind, rng, spoilt)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        choices = [one for one in arguments if one is not type(None)]
        return None if rng.random() < 0.15 else made(rng.choice(choices), rng, spoilt)
    if origin is Literal:
        return rng.choice(arguments)
    if origin is list:
        return [made(arguments[0], rng, spoilt) for _ in range(rng.randrange(4))]
    if origin is tuple:
        return [made(one, rng, spoilt) for one in arguments]
    if origin is dict:
        return {text(rng): made(arguments[1], rng, spoilt) for _ in range(rng.randrange(4))}
    if kind is bool:
        return rng.random() < 0.5
    return {str: text, int: integer, float: number}.get(kind, anything)(rng)


def _made_model(model: type[BaseModel], rng: Random, spoilt: float) -> dict[str, Any]:
    document = {}
    for name, field in model.model_fields.items():
        missing = spoilt if field.is_required() else 0.1
        if rng.random() >= missing:
            document[field.alias or name] = made(field.annotation, rng, spoilt)
    if rng.random() < 0.2:
        document[text(rng)] = anything(rng)
    return document


def poisoned(value: Any, rng: Random, spoilt: float = 0.0) -> Any:
    """A good document with its texts made hostile and its numbers absurd; for documents that have no schema."""
    if rng.random() < spoilt:
        return rng.choice(WRONG)
    if isinstance(value, dict):
        kept = {key: poisoned(item, rng, spoilt) for key, item in value.items() if rng.random() >= spoilt}
        return kept | ({text(rng): anything(rng)} if rng.random() < 0.2 else {})
    if isinstance(value, list):
        return [poisoned(item, rng, spoilt) for item in value]
    if isinstance(value, str):
        return text(rng) if rng.random() < 0.7 else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return (number if isinstance(value, float) else integer)(rng) if rng.random() < 0.5 else value
