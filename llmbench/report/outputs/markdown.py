"""Markdown as GitHub reads it, of text that nobody vouches for. Standard library only: doctor needs it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from llmbench.report.untrusted import code_parts, printable

LIMIT = 64 * 1024
"""Bytes of one of our documents: as much as a comment on GitHub holds."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>~$&])")
_AT_THE_BEGINNING = re.compile(r"^(?:([#+=-])|(\d+)([.)])(?=\s|$))")
# GitHub would tell a person, or link an issue, a commit or an address, that has nothing to do with this.
_REFERENCE = re.compile(r"(?<=[@#])(?=\w)|(?<=\bGH-)(?=\d)|(?<=:)(?=//)|(?<=\bwww)(?=\.)", re.IGNORECASE)
_NOTHING = "<!-- -->"
_HAZARDS = re.compile(r"[^\w .,/-]|_")


class Markdown(str):
    """Text that is Markdown already: it stands in a table as it is."""


def text(value: str) -> Markdown:
    """Plain text on one line: nothing in it is Markdown or HTML, becomes a link, or names a person or an issue."""
    return Markdown(
        _AT_THE_BEGINNING.sub(lambda match: f"{match[2] or ''}\\{match[1] or match[3]}", _inner(_one_line(value)))
    )


def code(value: str) -> Markdown:
    """Text as code on one line, fit for a table too."""
    line = _one_line(value)
    if "|" in line:  # between backticks a table has no sign for a pipe behind a backslash
        return Markdown(f"<code>{_HAZARDS.sub(lambda match: f'&#{ord(match[0])};', line)}</code>")
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return Markdown(f"{fence}{space}{line}{space}{fence}" if line else "")


def spans(value: str) -> Markdown:
    """Plain text on one line, with `backticked` words, and options such as ``--set steps=400``, as code."""
    parts = code_parts(" ".join(value.split()))
    return Markdown("".join(code(part) if is_code else _inner(part) for part, is_code in parts))


def block(value: str, language: str = "") -> Markdown:
    """Lines as a block of code."""
    lines = printable(value).strip("\n")
    fence = _fence(lines, 3)
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> Markdown:
    """A table. Cells are plain text, unless they are ``Markdown``; a row may lack its last ones.

    Args:
        numbers: indexes of the columns that stand to the right.
    """
    rules = [Markdown("---:" if index in numbers else "---") for index in range(len(heads))]
    return Markdown("\n".join(_row(row, len(heads)) for row in (heads, rules, *rows)))


def details(summary: str, body: str) -> Markdown:
    """A fold, closed at first.

    Args:
        summary: plain text.
        body: Markdown.
    """
    title = _one_line(summary).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    title = _REFERENCE.sub(_NOTHING, title)
    return Markdown(f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>")


def capped(document: str, limit: int = LIMIT) -> str:
    """The document, or as many of its first lines as fit; then folds and code are closed, and a line says so.

    Args:
        limit: bytes of UTF-8 at most.
    """
    size = len(document.encode(errors="replace"))
    if size <= limit:
        return document
    taken = 0
    lines: list[str] = []
    ends: list[str] = []  # what closes that which is open, the innermost last
    for line in document.splitlines():
        taken += len(line.encode(errors="replace")) + 1
        after = _open_after(ends, line)
        if taken + len(_cut_here(after, size)) > limit:
            break
        lines.append(line)
        ends = after
    return "\n".join(lines) + _cut_here(ends, size)


def _cut_here(ends: Sequence[str], size: int) -> str:
    closing = "".join(f"\n{end}\n" for end in reversed(ends))
    return f"\n{closing}\n*Cut here: the whole has {size:,} bytes.*\n"


def _open_after(ends: Sequence[str], line: str) -> list[str]:
    """What is open behind a line of what these functions write: there a fold or a fence begins its line."""
    if ends and ends[-1].startswith("`"):
        return [*ends[:-1]] if line == ends[-1] else [*ends]
    fence = re.match(r"(`{3,})[a-z]*$", line)
    if fence:
        return [*ends, fence[1]]
    if line == "<details>":
        return [*ends, "</details>"]
    return [*ends[:-1]] if ends and line == ends[-1] else [*ends]


def _row(cells: Sequence[str], columns: int) -> str:
    told = [_cell(cell) for cell in cells] + [""] * (columns - len(cells))
    return f"| {' | '.join(told)} |"


def _cell(cell: str) -> str:
    return (cell if isinstance(cell, Markdown) else text(cell)).replace("|", r"\|")


def _one_line(value: str) -> str:
    return printable(" ".join(value.split()))


def _inner(line: str) -> str:
    """A part of a line, with its spaces."""
    return _REFERENCE.sub(_NOTHING, _SPECIAL.sub(r"\\\1", line))


def _fence(value: str, least: int) -> str:
    longest = max((len(run) for run in re.findall(r"`+", value)), default=0)
    return "`" * max(least, longest + 1 if longest >= least else least)
