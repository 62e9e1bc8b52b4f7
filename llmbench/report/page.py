"""One file that holds everything: style, script and data inlined, and a policy that forbids the rest.

Where a server forbids what is inlined, as Jenkins does, the same page is written in three files instead.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

import llmbench
from llmbench.report.format import breakable, code_spans, printable, unbroken
from llmbench.results.files import write_atomically

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


def write_page(file: Path, page: str, *, split: bool = False) -> list[Path]:
    """Writes a rendered page, each file in one step, the page itself last.

    Args:
        file: the page's.
        split: whether style and script are files beside it: ``report.css`` and ``report.js`` beside ``report.html``.

    Returns:
        the files written.

    Raises:
        OSError: the folder cannot be written.
    """
    files = in_files(file, page) if split else {file: page}
    for name, text in files.items():
        write_atomically(name, text)
    return list(files)


def in_files(file: Path, page: str) -> dict[Path, str]:
    """A rendered page as a style sheet, a script, and the page that asks for them. Its data stays inside it.

    Its policy takes both from where the page lies, and so do servers that allow nothing inlined. A browser checks no
    hash of what it takes from disk, so none is demanded.
    """
    head, style, rest = _around(page, "<style>", "</style>")
    between, script, rest = _around(rest, "<script>", "</script>")
    css, js = file.with_suffix(".css"), file.with_suffix(".js")
    head = head.replace(escape(policy(style, script)), escape(_policy("'self'", "'self'")))
    link = f'<link rel="stylesheet" href="{_url(css)}">'
    return {css: style, js: script, file: f'{head}{link}{between}<script src="{_url(js)}"></script>{rest}'}


def _around(text: str, start: str, end: str) -> tuple[str, str, str]:
    """What stands before, within and after the first such element. Nothing from a record comes before our own."""
    before, _, rest = text.partition(start)
    within, _, after = rest.partition(end)
    return before, within, after


def _url(file: Path) -> str:
    """Of a file that lies beside the page."""
    return quote(os.fsencode(file.name))


def style_sheet(*names: str) -> str:
    """What all pages share, and the named sheets."""
    return "\n".join(_asset(f"styles/{name}.css") for name in ("page", *names))


def script_of(*names: str) -> str:
    """What all pages share, and the named parts, in one scope of their own."""
    parts = (_asset(f"scripts/{name}.js") for name in ("page", "data", *names))
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: these two texts may act, nothing may be loaded, sent or embedded."""
    return _policy(f"'{_hash(style)}'", f"'{_hash(script)}'")


def _policy(style: str, script: str) -> str:
    return f"default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"


def plain_json(document: object) -> str:
    """A document as JSON that every browser reads: what is not finite is ``null``."""
    return json.dumps(_without_nan(document), allow_nan=False, default=str)


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def script_safe(json_text: str) -> str:
    """JSON that no HTML parser can take for markup: ``<`` only ever stands in strings, where it can be escaped."""
    return json_text.replace("<", "\\u003c")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    """A style sheet or a script, without indentation and without lines that are but a comment: each page carries it."""
    text = re.sub(r"^\s*/\*.*?\*/\s*$", "", (_FOLDER / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = (line.strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))


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
