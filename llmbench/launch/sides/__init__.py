"""The two sides of an A/B comparison, from what was asked for to an interpreter that can be started.

A side is a Python, requirements (an environment is made for them), or a revision of a git checkout (its files are
laid out in the cache). Nothing of the user's is changed: no environment, no checkout, no index.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmbench.launch.sides import overlay, python, revision
from llmbench.launch.sides.asked import AskedPython, AskedRequirements, AskedRevision, understand
from llmbench.results.ab import AbSide

__all__ = ["check_side", "make_side"]


def check_side(asked: str, *, checkout: Path) -> AskedPython | AskedRequirements | AskedRevision:
    """What a side is, without making anything.

    Args:
        asked: what ``--base`` or ``--cand`` says.
        checkout: a folder of the checkout that a revision is of, if ``asked`` names none.

    Raises:
        UserError: it is neither a Python, nor requirements, nor a revision that exists.
    """
    understood = understand(asked)
    if isinstance(understood, AskedRevision):
        revision.find(asked, understood, checkout)
    return understood


def make_side(
    asked: str, *, python: str, constraints: Path | None, checkout: Path, on_progress: Callable[[str], None]
) -> AbSide:
    """Makes a side ready, or finds it made in the cache.

    Args:
        asked: what ``--base`` or ``--cand`` says.
        python: the interpreter on which requirements are laid, and with which revisions run.
        constraints: file with pins for what requirements bring with them.
        checkout: a folder of the checkout that a revision is of, if ``asked`` names none.
        on_progress: is told what is done now, where it takes time.

    Raises:
        UserError: it is not understood, or cannot be made.
    """
    understood = understand(asked)
    if isinstance(understood, AskedPython):
        return _python(asked, understood)
    if isinstance(understood, AskedRevision):
        return revision.make(asked, understood, python, checkout, on_progress)
    return overlay.make(asked, understood, python, constraints, on_progress)


def _python(asked: str, understood: AskedPython) -> AbSide:
    found = python.probe(understood.path, asked)
    return AbSide(asked=asked, label=python.label(found), kind="python", python=found.path)
