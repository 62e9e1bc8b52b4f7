"""One file that holds everything: style, script and data inlined, and a policy that forbids the rest."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import llmbench
from llmbench.report.format import breakable, code_spans, printable, unbroken

_FOLDER = Path(__file__).parent / "templates"


def render(
    template: str,
    data: str,
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = ("tables",),
    columns: Sequence[str] = (),
    **view: Any,
) -> str:
    """A whole page.

    Args:
        template: file name of the template.
        data: JSON that the page carries for its downloads and its script.
        styles: names of style sheets of this page, after the one that all share.
        scripts: names of the parts of the script, after the one that all share.
        columns: paths of the lists in ``data`` that are told column by column (``columns.pack``), as ``run.cases``.
        view: what the template shows. Every text in it is taken as hostile: escaped, and made visible.
    """
    style, script = style_sheet(*styles), script_of(*scripts)
    filled = _templates().get_template(template)
    page = filled.render(
        style=Markup(style),  # noqa: S704 (our own files)
        script=Markup(script),  # noqa: S704
        policy=policy(style, script),
        data=Markup(script_safe(data)),  # noqa: S704 (cannot leave its element)
        data_columns=" ".join(columns),
        version=llmbench.__version__,
        **view,
    )
    # Half of a surrogate pair, from a file name or a crafted record, cannot be written as UTF-8.
    return page.encode("utf-8", "backslashreplace").decode()


def style_sheet(*names: str) -> str:
    """What all pages share, and the named sheets."""
    return "\n".join(_asset(f"styles/{name}.css") for name in ("page", *names))


def script_of(*names: str) -> str:
    """What all pages share, and the named parts, in one scope of their own."""
    parts = (_asset(f"scripts/{name}.js") for name in ("page", "data", *names))
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: these two texts may act, nothing may be loaded, sent or embedded."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def script_safe(json_text: str) -> str:
    """JSON that no HTML parser can take for markup: ``<`` only ever stands in strings, where it can be escaped."""
    return json_text.replace("<", "\\u003c")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["code_spans"] = code_spans
    environment.filters["unbroken"] = unbroken
    environment.filters["breakable"] = breakable
    return environment


def _visible(value: object) -> object:
    """What every ``{{ }}`` passes through."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
