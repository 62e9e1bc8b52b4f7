"""A comparison on disk: sessions are appended and fsynced one by one; one that was killed can be gone on with."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from llmbench.errors import UserError
from llmbench.results.ab import Ab, AbSession, SideName, Trained
from llmbench.results.files import (
    append_line,
    inside,
    last_lines,
    numbered_lines,
    parse,
    torn,
    unreadable,
    write_atomically,
)
from llmbench.results.salvage import session_of
from llmbench.results.store import slug


class AbFolder:
    """Reads and writes one comparison.

    Args:
        path: its folder. Nothing is read or created until asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._damage: dict[str, None] = {}
        self._lock: IO[str] | None = None

    @property
    def damage(self) -> list[str]:
        """What ``recorded`` found so far: file, line, field and fault."""
        return list(self._damage)

    @classmethod
    def create(cls, path: Path, ab: Ab) -> AbFolder:
        """Starts a comparison in an empty or missing folder.

        Raises:
            UserError: the folder holds one already, or cannot be written.
        """
        folder = cls(path)
        try:
            if folder._ab_file.exists() or folder._sessions_file.exists():
                raise UserError(
                    f"{path} holds a comparison already",
                    f"add sessions to it with --resume {path}, or choose another folder with --out",
                )
            (path / "logs").mkdir(parents=True, exist_ok=True)
            folder.claim()
            folder.write(ab)
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror}", "choose another folder with --out") from None
        return folder

    def claim(self) -> None:
        """Keeps others from adding sessions, until ``release`` or the end of this process, however it ends.

        Raises:
            UserError: another process adds some just now.
            OSError: the folder cannot be written.
        """
        if self._lock is not None:
            return
        self._lock = open(self.path / ".lock", "a")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UserError(
                f"{self.path}: another `llmbench ab` adds sessions to it just now", "wait until it has ended"
            ) from None
        except OSError:
            return  # a file system without locks, as some network's

    def release(self) -> None:
        """Lets others add sessions again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _ab_file(self) -> Path:
        return self.path / "ab.json"

    @property
    def _sessions_file(self) -> Path:
        return self.path / "sessions.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def log_path(self, case: str, side: SideName) -> str:
        """Relative to the folder."""
        return f"logs/{slug(case)}.{side}.log"

    def read(self) -> Ab:
        """Raises: UserError: no comparison there, or none that this version can read."""
        try:
            text = self._ab_file.read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.path} is no comparison: {self._ab_file.name}: {error.strerror}",
                "name the folder that `llmbench ab` wrote (its --out)",
            ) from None
        return parse(Ab, text, self._ab_file)

    def write(self, ab: Ab) -> None:
        """Raises: UserError: it cannot be written."""
        try:
            write_atomically(self._ab_file, ab.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def append(self, session: AbSession) -> None:
        """Adds a session; on return it survives ``kill -9`` and a power cut.

        Raises:
            UserError: it cannot be written.
        """
        try:
            append_line(self._sessions_file, session.model_dump_json())
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write to {self.path}: {error.strerror}",
            f"the sessions that are done are kept; `llmbench ab --resume {self.path}` adds more",
        )

    def sessions(self) -> list[AbSession]:
        """All of them, in the order in which they were done.

        Raises:
            UserError: a line is no session (file, line and field named). The half line that a kill in mid-write
                leaves is passed over.
        """
        found = []
        for number, line in numbered_lines(self._sessions_file):
            try:
                found.append(AbSession.model_validate_json(line))
            except ValidationError as error:
                if not torn(line):
                    raise unreadable(error, self._sessions_file, number) from None
        return found

    def recorded(self) -> list[AbSession]:
        """As ``sessions``, but of a damaged line what can be read of it; its damage is added to ``damage``.

        What a damaged line says of turns counts nowhere: the session has no rounds, so that no verdict stands on it. A
        side that failed in it did fail.

        Raises:
            UserError: the file is there and cannot be read.
        """
        found = []
        for number, line in numbered_lines(self._sessions_file):
            session, damage = session_of(line, self._sessions_file, number)
            if damage and torn(line):
                continue
            found.append(session.model_copy(update={"rounds": []}) if damage else session)
            self._damage |= dict.fromkeys(damage)
        return found

    def log_tail(self, trained: Trained, lines: int = 40) -> list[str]:
        """The last lines of what a side wrote."""
        return last_lines(inside(self.path, trained.log), lines)
