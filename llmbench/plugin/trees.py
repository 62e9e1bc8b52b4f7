"""Where the two sides of a test run: the user's checkout, and a base's files with the candidate's test over them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.errors import UserError
from llmbench.results.ab import AbSide


@dataclass(frozen=True)
class Tree:
    """A checkout in which a side's pytest runs.

    Attributes:
        root: pytest's rootdir there.
        paths: folders in front of the import path.
        files: all folders that are the side's own; the first is that of the whole checkout.
    """

    root: Path
    paths: Sequence[str]
    files: Sequence[Path]


def candidate(root: Path) -> Tree:
    """The user's checkout as it is.

    Args:
        root: pytest's rootdir.
    """
    return Tree(root, [], [_toplevel(root) or root])


def base(side: AbSide, cand: Tree, test: Path, folder: Path) -> Tree:
    """The base's files with the candidate's test file in its place.

    A base that is another environment runs in the user's checkout. Of a revision nothing in the cache is touched: what
    does not lie on the way to the test file is linked to.

    Args:
        test: the candidate's test file.
        folder: empty; where the files are put together.

    Raises:
        UserError: the test does not lie in the checkout.
    """
    if side.folder is None:
        return cand
    top = cand.files[0]
    if not test.is_relative_to(top):
        raise UserError(f"{test} does not lie in the checkout {top}, so that {side.asked} has no place for it")
    below = cand.root.relative_to(top)
    kept = Path(side.folder)
    # A revision without this folder is told to run in the root of its checkout.
    kept = (
        kept.parents[len(below.parts) - 1] if below.parts and kept.parts[-len(below.parts) :] == below.parts else kept
    )
    made = folder / top.name
    _lay_over(kept, made, test.relative_to(top).parts, test)
    root = made / below
    paths = [str(made / Path(path).relative_to(kept)) for path in side.paths]
    return Tree(root if root.is_dir() else made, paths, [made, kept])


def _lay_over(kept: Path, made: Path, way: Sequence[str], file: Path) -> None:
    """Makes a folder that is as ``kept``, but for the file at the end of ``way``."""
    made.mkdir(parents=True)
    if kept.is_dir():
        for entry in kept.iterdir():
            if entry.name != way[0]:
                (made / entry.name).symlink_to(entry)
    if len(way) == 1:
        shutil.copy2(file, made / way[0])
    else:
        _lay_over(kept / way[0], made / way[0], way[1:], file)


def _toplevel(folder: Path) -> Path | None:
    """The root of the checkout that a folder lies in; None outside of one, or without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel"],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    top = Path(done.stdout.rstrip("\n"))
    # git names the real folder; pytest the one that the user came by.
    here = folder.resolve()
    return folder.parents[len(here.relative_to(top).parts) - 1] if here != top and here.is_relative_to(top) else folder
