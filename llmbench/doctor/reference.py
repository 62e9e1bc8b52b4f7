"""``docs/checks/``, made from the registry: ``python -m llmbench.doctor.reference docs/checks``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from llmbench.doctor.checks import AREAS, all_checks, all_faults
from llmbench.doctor.explain import VERDICTS, conditions, documentation, faults_of
from llmbench.doctor.model import Check, Fault
from llmbench.errors import UserError

_SPECIAL = re.compile(r"([\\*_\[\]#|])")
_CODE = re.compile(r"(`[^`]*`|(?<![\w-])--?[a-z][\w-]*)")


def pages() -> dict[str, str]:
    """The text of each page by its file name: an index, and one of each area that comes with llmbench."""
    checks, faults = all_checks(), all_faults()
    written = {"index.md": "\n".join(_index(checks, faults)) + "\n"}
    for area in AREAS:
        written[f"{area}.md"] = "\n".join(_area(area, [check for check in checks if check.area == area], faults)) + "\n"
    return written


def write(folder: Path) -> None:
    """Writes the pages, and removes those that are no longer made.

    Raises:
        UserError: it cannot be written.
    """
    made = pages()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (folder / name).write_text(text, encoding="utf-8")
        for old in folder.glob("*.md"):
            if old.name not in made:
                old.unlink()
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}", "name a folder that can be written") from None


def _index(checks: list[Check], faults: list[Fault]) -> Iterator[str]:
    ours = [check for check in checks if check.area in AREAS]
    known = [fault for fault in faults if fault.check.partition(".")[0] in AREAS]
    yield "# Checks"
    yield ""
    yield f"`llmbench doctor` asks {len(ours)} checks, which tell {len(known)} faults apart. Each has a page here that"
    yield "says what causes it and what mends it, as `llmbench doctor --explain ID` does. These pages are made from the"
    yield "checks themselves by `python -m llmbench.doctor.reference docs/checks`."
    yield ""
    yield "| area | check | asks | faults |"
    yield "|---|---|---|---|"
    for check in ours:
        count = len(faults_of(check, faults))
        link = f"{check.area}.md#{anchor(check.id)}"
        yield f"| {check.area} | [`{check.id}`]({link}) | {_text(check.title)} | {count or ''} |"


def _area(area: str, checks: list[Check], faults: list[Fault]) -> Iterator[str]:
    yield f"# Checks of {area}"
    for check in checks:
        yield ""
        yield f"## {check.id}"
        yield ""
        yield f"{_text(check.title)}."
        for text in (documentation(check), *conditions(check)):
            if text:
                yield ""
                yield _text(text)
        for fault in faults_of(check, faults):
            yield ""
            yield from _fault(fault)
    if not checks:
        yield ""
        yield "None yet."


def _fault(fault: Fault) -> Iterator[str]:
    yield f"### {fault.id}"
    yield ""
    yield f"**{_text(fault.title)}.** `{fault.verdict}`: {VERDICTS[fault.verdict]}."
    yield ""
    yield f"- Cause: {_text(fault.cause)}"
    yield f"- Fix: {_text(fault.fix)}"
    if fault.link:
        yield f"- More: <{fault.link}>"
    if fault.script:
        yield ""
        yield "```sh"
        yield fault.script
        yield "```"


def anchor(id: str) -> str:
    """Of a heading with this id, as the site makes it."""
    return re.sub(r"[^\w-]", "", id).lower()


def _text(text: str) -> str:
    """Plain text as Markdown; options as code, lest their dashes become one."""
    return "".join(_code(part) if index % 2 else _prose(part) for index, part in enumerate(_CODE.split(text)))


def _code(part: str) -> str:
    return part if part.startswith("`") else f"`{part}`"


def _prose(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


if __name__ == "__main__":
    write(Path(sys.argv[1] if sys.argv[1:] else "docs/checks"))
