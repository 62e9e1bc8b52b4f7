"""A comparison on disk: sessions are appended and fsynced one by one; one that was killed can be gone on with."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from llmbench.errors import UserError
from llmbench.results.ab import Ab, AbSession, SideName
from llmbench.results.files import append_line, numbered_lines, parse, torn, unreadable, write_atomically
from llmbench.results.store import slug


class AbFolder:
    """Reads and writes one comparison.

    Args:
        path: its folder. Nothing is read or created until asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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
            folder.write(ab)
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror}", "choose another folder with --out") from None
        return folder

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
        write_atomically(self._ab_file, ab.model_dump_json(indent=2) + "\n")

    def append(self, session: AbSession) -> None:
        """Adds a session; on return it survives ``kill -9`` and a power cut."""
        append_line(self._sessions_file, session.model_dump_json())

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
