"""What requirements mean by content, so that an environment is not taken for one made of other files."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import unquote

from llmbench.errors import UserError
from llmbench.launch.sides.asked import Requirement

_INCLUDE = re.compile(r"(?:-r|--requirement|-c|--constraint)[\s=]*(?P<file>\S+)")
_EDITABLE = re.compile(r"(?:-e|--editable)[\s=]")
_MOVING = "a folder changes while its name stays: build a wheel of it, or compare revisions (git:REV)"


def digests(what: Requirement | Path) -> list[str]:
    """The text of a requirement; of a wheel, or of a file and all that it includes, the SHA-256 too.

    Raises:
        UserError: a file is missing, or installs a folder.
    """
    if isinstance(what, Path):
        return _of_list(what, [])
    if what.kind == "wheel":
        return [os.path.basename(what.text), _sha256(Path(what.text))]
    if what.kind == "file":
        return _of_list(Path(what.text), [])
    return [what.text, *_of_url(what.text, what.text)]


def _of_list(file: Path, above: list[Path]) -> list[str]:
    """Of a requirements file; ``above`` are those that include it."""
    if file in above:
        raise UserError(f"{file} includes itself")
    found = [_sha256(file)]
    text = file.read_bytes().decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", line).strip().removesuffix("\\").strip()
        here = f"{file}, line {number}"
        if match := _INCLUDE.match(line):
            included = Path(match["file"])
            if "://" in match["file"]:
                raise UserError(f"{here}: {match['file']} may change at any time", "keep it in a file beside this one")
            included = included if included.is_absolute() else file.parent / included
            if not included.is_file():
                raise UserError(f"{here}: {match['file']}: no such file")
            found += _of_list(included, [*above, file])
        elif _EDITABLE.match(line) or (os.sep in line.split(" ")[0] and os.path.isdir(line.split(" ")[0])):
            raise UserError(f"{here}: {line}: installs a folder", _MOVING)
        elif line and os.path.isfile(line.split(" ")[0]):
            found.append(_sha256(Path(line.split(" ")[0])))
        else:
            found += _of_url(line, here)
    return found


def _of_url(line: str, here: str) -> list[str]:
    """Of a requirement that names a local file by its URL."""
    match = re.search(r"@\s*file://(?:localhost)?(?P<path>/[^\s#]*)", line)
    if match is None:
        return []
    path = Path(unquote(match["path"]))
    if path.is_dir():
        raise UserError(f"{here}: installs a folder", _MOVING)
    return [_sha256(path)]


def _sha256(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
