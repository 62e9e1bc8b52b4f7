"""A shell script of the fixes that are safe to run; the others as comments. It is printed, never run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.outline import outline
from llmbench.results.redact import MASK

_PLACEHOLDER = re.compile(r"<[A-Za-z][\w ,.-]*>")
_HEAD = """\
#!/bin/sh
# Fixes found by llmbench doctor for {python}
# Nothing has been run. Read this, then source it: export, unset and ulimit act only on the shell that reads them.
#     llmbench doctor --fix > fix.sh
#     . ./fix.sh
"""


def fix_script(document: Mapping[str, Any]) -> str:
    """Draws what ``Diagnosis.to_json`` gives, which is redacted already; a fix with a secret becomes a comment."""
    return "\n".join([_HEAD.format(python=_line(document.get("python"))), *_fixes(document)]) + "\n"


def _fixes(document: Mapping[str, Any]) -> Iterator[str]:
    problems = outline(document).problems
    if not problems:
        yield "# Nothing to fix."
    given: set[str] = set()
    for problem in problems:
        finding = problem.finding
        script = finding.get("script")
        yield f"# {str(finding['verdict']).upper()} {_line(problem.id)}: {_line(finding.get('evidence'))}"
        if not script or not is_complete(script):
            yield f"# To be done by hand: {_line(finding.get('fix'))}"
        elif script in given:
            yield "# Mended above."
        else:
            given.add(script)
            yield str(script)
        yield ""
    if problems and not given:
        yield ":  # no fix is safe to be run unread"


def is_complete(script: str) -> bool:
    """Whether nothing in it is left to be filled in, or was hidden."""
    return MASK not in script and not _PLACEHOLDER.search(script)


def _line(value: Any) -> str:
    """One line of a comment."""
    return " ".join(str(value or "").split())
