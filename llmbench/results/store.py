"""A run on disk. Records are appended and fsynced one by one; a run that was killed can be read and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from llmbench.errors import UserError
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
from llmbench.results.salvage import Recorded, record_of, run_of
from llmbench.results.schema import Record, Run, Series


def slug(case: str) -> str:
    """The case id as a file name; a colon is none that every file system takes."""
    return case.replace("/", "__").replace(":", ".")


class RunFolder:
    """Reads and writes one run.

    Args:
        path: the run's folder. Nothing is read or created until asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._damage: dict[str, None] = {}

    @property
    def damage(self) -> list[str]:
        """What ``recorded_run``, ``recorded`` and ``recorded_series`` found so far: file, line, field and fault."""
        return list(self._damage)

    @classmethod
    def create(cls, path: Path, run: Run) -> RunFolder:
        """Starts a run in an empty or missing folder.

        Raises:
            UserError: the folder holds a run already, or cannot be written.
        """
        folder = cls(path)
        try:
            if folder.run_file.exists() or folder._records_file.exists():
                raise UserError(
                    f"{path} holds a run already",
                    f"continue it with --resume {path}, or choose another folder with --out",
                )
            for part in ("series", "logs"):
                (path / part).mkdir(parents=True, exist_ok=True)
            folder.write_run(run)
        except OSError as error:
            raise UserError(f"cannot write the run to {path}: {error.strerror}", "choose another with --out") from None
        return folder

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def _records_file(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def series_path(self, case: str) -> str:
        return f"series/{slug(case)}.json"

    def log_path(self, case: str) -> str:
        return f"logs/{slug(case)}.log"

    def evidence_path(self, case: str) -> Path:
        """Where the ranks of a case leave what tells who failed first; kept of a case that has no result."""
        return self.path / "evidence" / slug(case)

    def forget_evidence(self, case: str) -> None:
        folder = self.evidence_path(case)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # other cases have theirs there
            folder.parent.rmdir()

    def read_run(self) -> Run:
        """Raises: UserError: no run there, or not a run that this version can read."""
        return parse(Run, self._run_text(), self.run_file)

    def recorded_run(self) -> Run:
        """The run as far as it can be read; what cannot is added to ``damage``.

        Raises:
            UserError: no run there, or ``run.json`` is no JSON object.
        """
        text = self._run_text()
        try:
            run, damage = run_of(text, self.run_file)
        except ValidationError as error:
            raise unreadable(error, self.run_file) from None
        self._damage |= dict.fromkeys(damage)
        return run

    def _run_text(self) -> bytes:
        try:
            return self.run_file.read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.path} is not a run: {self.run_file.name}: {error.strerror}",
                "name the folder that `llmbench run` wrote (its --out)",
            ) from None

    def write_run(self, run: Run) -> None:
        write_atomically(self.run_file, run.model_dump_json(by_alias=True, indent=2) + "\n")

    def append(self, record: Record) -> None:
        """Adds a record; on return it survives ``kill -9`` and a power cut."""
        append_line(self._records_file, record.model_dump_json(by_alias=True))

    def records(self) -> list[Record]:
        """The newest record of each case, in the order in which the cases were first recorded.

        Raises:
            UserError: a line is not a record (file, line and field named). The half line that a kill in mid-write
                leaves is passed over.
        """
        newest: dict[str, Record] = {}
        for number, line in self._lines():
            try:
                record = Record.model_validate_json(line)
            except ValidationError as error:
                if torn(line):
                    continue
                raise unreadable(error, self._records_file, number) from None
            newest[record.case] = record
        return list(newest.values())

    def recorded(self) -> list[Recorded]:
        """As ``records``, but of a damaged line what can be read of it; its damage is added to ``damage``, too.

        A damaged line stands for itself: it neither replaces a valid record of its case, nor is replaced by one.

        Raises:
            UserError: the file is there and cannot be read.
        """
        newest: dict[str | int, Recorded] = {}
        for number, line in self._lines():
            found = record_of(line, self._records_file, number)
            if found.damage and torn(line):
                continue
            newest[number if found.damage else found.record.case] = found
            self._damage |= dict.fromkeys(found.damage)
        return list(newest.values())

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        return numbered_lines(self._records_file)

    def write_series(self, case: str, series: Series) -> str:
        path = self.series_path(case)
        write_atomically(self.path / path, series.model_dump_json())
        return path

    def read_series(self, record: Record) -> Series | None:
        """The series of a record; None if it has none or its file is gone."""
        file = self._inside(record.series)
        if file is None:
            return None
        try:
            text = file.read_bytes()
        except OSError:
            return None
        return parse(Series, text, file)

    def recorded_series(self, record: Record) -> tuple[Series | None, str | None]:
        """The series of a record, and why it is not there if it should be; damage is added to ``damage``, too."""
        if not record.series:
            return None, None
        try:
            series = self.read_series(record)
        except UserError as error:
            self._damage[error.message] = None
            return None, error.message
        return series, None if series else f"{record.series} is not there"

    def log_tail(self, record: Record, lines: int = 40) -> list[str]:
        """The last lines of the worker's stderr."""
        return last_lines(self._inside(record.log), lines)

    def _inside(self, name: str | None) -> Path | None:
        """A file of this run by the name that a record gives; None for a name that leads out of the run's folder."""
        return inside(self.path, name)
