"""One note on a merge request of GitLab, kept up to date: ``python -m llmbench.ci.gitlab_note comment.md``.

The job's variables tell which merge request; LLMBENCH_TOKEN is a token with the scope ``api``. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_PAGE = 100  # notes, the most that one answer holds
_SECONDS = 30
_LONGEST = 900_000  # characters; GitLab takes a million


def post(text: str, variables: Mapping[str, str]) -> str:
    """Changes the note that this job wrote before, else writes one.

    Args:
        text: Markdown.
        variables: of the job.

    Returns:
        ``changed`` or ``written``.

    Raises:
        KeyError: a variable is not there.
        OSError: GitLab cannot be reached, or refuses (``urllib.error.HTTPError``).
    """
    notes = "{CI_API_V4_URL}/projects/{CI_PROJECT_ID}/merge_requests/{CI_MERGE_REQUEST_IID}/notes".format_map(variables)
    token = variables["LLMBENCH_TOKEN"]
    mark = _mark(variables["CI_JOB_NAME"])
    body = f"{mark}\n{text[:_LONGEST]}"
    # Whoever wrote a note can change it behind our back, so only one of our own will do.
    me = _call("GET", f"{variables['CI_API_V4_URL']}/user", token)["id"]
    for note in _all(notes, token):
        if note["author"]["id"] == me and note["body"].startswith(mark):
            _call("PUT", f"{notes}/{note['id']}", token, body)
            return "changed"
    _call("POST", notes, token, body)
    return "written"


def _mark(job: str) -> str:
    """Found again by this, which no reader sees; each job has its own."""
    return f"<!-- llmbench {hashlib.sha256(job.encode()).hexdigest()[:16]} -->"


def _all(notes: str, token: str) -> Iterator[dict[str, Any]]:
    page = 1
    while True:
        found = _call("GET", f"{notes}?per_page={_PAGE}&page={page}", token)
        yield from found
        if len(found) < _PAGE:
            return
        page += 1


def _call(method: str, url: str, token: str, body: str | None = None) -> Any:
    request = urllib.request.Request(  # noqa: S310  # the URL is GitLab's own word to its job
        url,
        method=method,
        data=None if body is None else json.dumps({"body": body}).encode(),
        headers={"PRIVATE-TOKEN": token, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
        return json.load(answer)


def main(arguments: list[str]) -> int:
    """Says on stderr what became of it; 1 if it is not there."""
    try:
        done = post(Path(arguments[0]).read_text(encoding="utf-8"), os.environ)
    except KeyError as error:
        print(f"llmbench: no note: this job has no variable {error.args[0]}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        hint = "; LLMBENCH_TOKEN needs the scope api, and the role Reporter" if _refused(error) else ""
        print(f"llmbench: no note: {error}{hint}", file=sys.stderr)
        return 1
    print(f"llmbench: note {done}", file=sys.stderr)
    return 0


def _refused(error: Exception) -> bool:
    return isinstance(error, urllib.error.HTTPError) and error.code in (401, 403)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
