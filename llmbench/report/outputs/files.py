"""Files that a user names for an output: refused before there is work to lose, and written in one step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llmbench.errors import UserError
from llmbench.results.files import write_atomically

_HINT = "name a file in a folder that can be written"


def check_writable(**files: Path | None) -> None:
    """Refuses files that could not be written later; by the name of their option, ``junit=FILE``.

    Raises:
        UserError: one cannot be written, or two options name the same.
    """
    seen: dict[Path, str] = {}
    for name, file in files.items():
        if file is None:
            continue
        place = file.resolve()
        if place in seen:
            raise UserError(f"--{seen[place]} and --{name} name the same file, {file}", "name two")
        seen[place] = name
        reason = _why_not(file)
        if reason:
            raise UserError(f"--{name} {file}: {reason}", _HINT)


def write(file: Path, text: str) -> None:
    """Writes a file in one step.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_atomically(file, text)
    except OSError as error:
        raise UserError(
            f"cannot write {file}: {error.strerror}", "name a file in a folder that can be written"
        ) from None


def _why_not(file: Path) -> str | None:
    try:
        if file.exists() and not file.is_file():
            return "is no file that could be replaced"
        # Rights, a full disk, a read-only one, a name too long: the attempt alone tells.
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}."):
            return None
    except OSError as error:
        return error.strerror or str(error)
