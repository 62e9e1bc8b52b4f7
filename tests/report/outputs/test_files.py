"""Files that cannot be written are refused before there is work to lose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.report.outputs.files import check_writable, write


def test_what_can_be_written_is_not_touched(tmp_path: Path) -> None:
    old = tmp_path / "old.xml"
    old.write_text("old")
    check_writable(junit=old, markdown=tmp_path / "new.md", html=None)
    assert os.listdir(tmp_path) == ["old.xml"]
    assert old.read_text() == "old"
    write(old, "new")
    assert old.read_text() == "new"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/such/folder/x.xml", "No such file or directory"),
        ("file/x.xml", "Not a directory"),
        ("folder", "is no file that could be replaced"),
        ("pipe", "is no file that could be replaced"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_cannot_is_refused_with_its_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"^--junit .*: .*" + reason):
        check_writable(junit=tmp_path / name)


def test_two_options_do_not_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--junit and --markdown name the same file"):
        check_writable(junit=tmp_path / "x", markdown=Path("x"))


def test_a_folder_that_went_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "gone" / "x", "text")
