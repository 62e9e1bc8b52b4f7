"""The note on a merge request, against a server that answers as GitLab's API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from llmbench.ci.gitlab_note import main

NOTES = "/api/v4/projects/3/merge_requests/12/notes"


class Server(ThreadingHTTPServer):
    """Keeps the notes; ``status`` other than 200 is the answer to what would change them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.notes: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.status = 200

    def add(self, author: int, body: str) -> None:
        self.notes.append({"id": len(self.notes) + 1, "author": {"id": author}, "body": body})

    @property
    def bodies(self) -> list[str]:
        return [note["body"] for note in self.notes]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path == "/api/v4/user":
            return self._answer({"id": 5})
        assert asked.path == NOTES
        query = {name: int(values[0]) for name, values in parse_qs(asked.query).items()}
        begin = (query["page"] - 1) * query["per_page"]
        return self._answer(self.server.notes[begin : begin + query["per_page"]])

    def do_POST(self) -> None:
        assert self.path == NOTES
        if self._allowed():
            self.server.add(5, self._body())
            self._answer({})

    def do_PUT(self) -> None:
        if self._allowed():
            number = int(self.path.removeprefix(f"{NOTES}/"))
            self.server.notes[number - 1]["body"] = self._body()
            self._answer({})

    def _allowed(self) -> bool:
        if self.server.status != 200:
            self.send_error(self.server.status)
        return self.server.status == 200

    def _body(self) -> str:
        return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])

    def _answer(self, document: Any) -> None:
        self.server.tokens.add(self.headers["PRIVATE-TOKEN"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def gitlab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    variables = {
        "CI_API_V4_URL": f"http://127.0.0.1:{server.server_port}/api/v4",
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "12",
        "CI_JOB_NAME": "llmbench",
        "LLMBENCH_TOKEN": "secret",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def comment(tmp_path: Path) -> Path:
    file = tmp_path / "comment.md"
    file.write_text("## ✓ same\n", encoding="utf-8")
    return file


def test_one_note_is_written_and_then_changed(
    gitlab: Server, comment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(150):  # more than one page
        gitlab.add(1, f"talk {number}")
    assert main([str(comment)]) == 0
    comment.write_text("## ▼ slower\n", encoding="utf-8")
    assert main([str(comment)]) == 0
    assert len(gitlab.notes) == 151
    assert gitlab.bodies[-1].partition("\n")[2] == "## ▼ slower\n"
    assert capsys.readouterr().err == "llmbench: note written\nllmbench: note changed\n"
    assert gitlab.tokens == {"secret"}


def test_each_job_has_its_own(gitlab: Server, comment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main([str(comment)])
    monkeypatch.setenv("CI_JOB_NAME", "another")
    main([str(comment)])
    assert len(gitlab.notes) == 2


def test_a_note_of_somebody_else_is_never_taken_over(gitlab: Server, comment: Path) -> None:
    main([str(comment)])
    gitlab.notes[0]["author"]["id"] = 1
    main([str(comment)])
    assert len(gitlab.notes) == 2


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_told_without_the_token(
    gitlab: Server, comment: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    gitlab.status = status
    assert main([str(comment)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"llmbench: no note: HTTP Error {status}")
    assert ("needs the scope api" in told) == (status != 500)
    assert "secret" not in told


def test_a_server_that_is_not_there_and_a_variable_that_is_missing(
    gitlab: Server, comment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI_API_V4_URL", "http://127.0.0.1:1/api/v4")
    assert main([str(comment)]) == 1
    assert "no note: <urlopen error" in capsys.readouterr().err
    monkeypatch.delenv("CI_PROJECT_ID")
    assert main([str(comment)]) == 1
    assert "no note: this job has no variable CI_PROJECT_ID" in capsys.readouterr().err
    assert main([str(comment.parent / "none.md")]) == 1
