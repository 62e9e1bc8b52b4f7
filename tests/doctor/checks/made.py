"""Packages made for a test, as an installer leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def package(
    site: Path,
    name: str,
    version: str,
    requires: Sequence[str] = (),
    files: dict[str, str] | None = None,
    info: dict[str, str] | None = None,
) -> Path:
    """Writes a package and its metadata into a folder of packages.

    Args:
        files: content by path; by default an empty module of that name.
        info: more files of its metadata, or other content for those that there are.

    Returns:
        The folder of its metadata.
    """
    module = name.replace("-", "_")
    files = {f"{module}/__init__.py": f"# {name}\n"} if files is None else files
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
    folder = site / f"{module}-{version}.dist-info"
    folder.mkdir(parents=True)
    told = {
        "METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {r}" for r in requires),
                "",
                "",
            ]
        ),
        "INSTALLER": "pip\n",
        "RECORD": "".join(f"{path},,{len(content)}\n" for path, content in files.items()),
        **(info or {}),
    }
    for entry, content in told.items():
        (folder / entry).write_text(content)
    return folder
