from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.results.files import write_atomically
from llmbench.results.schema import Record, Series
from llmbench.results.store import RunFolder, slug
from tests.factory import make_run, ok_record, planned

EAGER, BF16 = planned("gpt-tiny", "eager"), planned("gpt-tiny", "bf16")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", make_run([EAGER, BF16]))


def record(case: str = "gpt-tiny/eager/ws1", seconds: float = 1.0) -> Record:
    """A short one; ``seconds`` tells it from others of the case."""
    return Record(
        case=case,
        workload="gpt-tiny",
        mode="eager",
        device="cpu",
        status="ok",
        started_at="2026-11-22T08:12:05+00:00",
        wall_seconds=seconds,
        config={"seed": 1234, "text": "ä\n\u2028"},
    )


def read(folder: RunFolder) -> list[tuple[str, float]]:
    return [(found.case, found.wall_seconds) for found in folder.records()]


# Records


def test_what_was_appended_is_read(folder: RunFolder) -> None:
    full, _ = ok_record(EAGER)
    folder.append(full)
    folder.append(record("b"))
    assert folder.records() == [full, record("b")]


def test_no_record_yet(folder: RunFolder) -> None:
    assert folder.records() == []


def test_the_newest_record_of_a_case_counts_at_the_place_of_its_first(folder: RunFolder) -> None:
    for case, seconds in (("a", 1.0), ("b", 2.0), ("a", 3.0), ("c", 4.0), ("b", 5.0)):
        folder.append(record(case, seconds))
    assert read(folder) == [("a", 3.0), ("b", 5.0), ("c", 4.0)]


def test_a_kill_at_any_byte_loses_the_record_in_flight_only(folder: RunFolder) -> None:
    """Each cut of the last record is read, gone on from, and read again: as a resumed run does."""
    file = folder.path / "records.jsonl"
    folder.append(record("a"))
    whole = file.read_bytes()
    folder.append(record("b"))
    both = file.read_bytes()
    for cut in range(len(whole), len(both)):
        file.write_bytes(both[:cut])
        complete = cut == len(both) - 1  # only the line's end is missing
        assert read(folder) == [("a", 1.0), ("b", 1.0)][: 2 if complete else 1]
        folder.append(record("c", 2.0))
        assert read(folder) == [("a", 1.0), *([("b", 1.0)] if complete else []), ("c", 2.0)]
        assert file.read_bytes().startswith(both[:cut])


def test_a_power_cut_that_leaves_zeros(folder: RunFolder) -> None:
    file = folder.path / "records.jsonl"
    folder.append(record("a"))
    kept = file.read_bytes()
    for torn in (b"\0" * 64, b'{"schema_version":1,"case"' + b"\0" * 64):
        file.write_bytes(kept + torn)
        folder.append(record("b"))
        assert read(folder) == [("a", 1.0), ("b", 1.0)]


def test_a_record_is_on_the_disk_when_append_returns(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bytes]] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((path, Path(path).read_bytes()))

    monkeypatch.setattr(os, "fsync", spy)
    folder.append(record())
    file = folder.path / "records.jsonl"
    assert synced == [(str(file), file.read_bytes())]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"garbage", "document: Invalid JSON"),
        (b"\xff\xfe\x00", "document: Invalid JSON"),
        (b"[1, 2]", "document: Input should be an object"),
        (b"  ", "document: Invalid JSON"),
        (b'{"schema_version":1}', "case: Field required"),
        (b'{"case": "half', "document: Invalid JSON"),  # not how a record begins
        (record().model_dump_json(by_alias=True).replace('"ok"', '"good"').encode(), "status: Input should be"),
    ],
)
def test_a_line_that_is_no_record(line: bytes, said: str, folder: RunFolder) -> None:
    folder.append(record("a"))
    file = folder.path / "records.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")
    folder.append(record("b"))
    with pytest.raises(UserError) as error:
        folder.records()
    assert error.value.message.startswith(f"{file}, line 2: {said}")
    assert "not written by this version" in str(error.value.hint)


def test_a_damaged_line_stands_for_itself(folder: RunFolder) -> None:
    """It neither replaces a valid record of its case, nor is it replaced by a newer one."""
    file = folder.path / "records.jsonl"
    folder.append(record("a/x/ws1", 1.0))
    for line in (b'{"case": "a/x/ws1", "status": "ok"}', b"garbage", b'{"schema_version":1,"case":"half'):
        file.write_bytes(file.read_bytes() + line + b"\n")
    folder.append(record("b/x/ws1", 2.0))
    folder.append(record("a/x/ws1", 3.0))
    found = folder.recorded()
    assert [(one.line, one.record.case, one.record.wall_seconds, bool(one.damage)) for one in found] == [
        (6, "a/x/ws1", 3.0, False),
        (2, "a/x/ws1", None, True),
        (3, "records.jsonl line 3", None, True),
        (5, "b/x/ws1", 2.0, False),
    ]
    assert folder.damage == [*found[1].damage, *found[2].damage]
    folder.recorded()
    assert len(folder.damage) == len(found[1].damage) + 1  # told once


def test_a_whole_line_that_is_spoilt_in_its_middle_is_no_half_line(folder: RunFolder) -> None:
    whole = record("a/x/ws1").model_dump_json(by_alias=True).encode()
    file = folder.path / "records.jsonl"
    for spoilt in (whole.replace(b'"workload":', b'"workload"\xff'), whole.replace(b",", b";", 1)):
        file.write_bytes(spoilt + b"\n")
        (found,) = folder.recorded()
        assert found.damage
        assert found.record.case == "a/x/ws1"
        with pytest.raises(UserError, match=r"records\.jsonl, line 1: document: Invalid JSON"):
            folder.records()


def test_records_that_cannot_be_read(folder: RunFolder) -> None:
    (folder.path / "records.jsonl").mkdir()
    for read_ in (folder.records, folder.recorded):
        with pytest.raises(UserError, match=r"cannot read .*records\.jsonl: Is a directory"):
            read_()


def test_a_number_that_is_not_finite_is_null(folder: RunFolder) -> None:
    full, series = ok_record(EAGER)
    full.loss.final, full.loss.eval = math.nan, math.inf
    full.metrics["perplexity"], full.facts["difference"] = -math.inf, [math.nan]
    series.loss[3] = math.nan
    full.series = folder.write_series(full.case, series)
    folder.append(full)
    (again,) = folder.records()
    assert (again.loss.final, again.loss.eval) == (None, None)
    assert (again.metrics["perplexity"], again.facts["difference"]) == (None, [None])
    assert folder.read_series(again).loss[3] is None
    for file in ("records.jsonl", full.series):
        json.loads((folder.path / file).read_text(), parse_constant=pytest.fail)


# The run


def test_a_run_is_read_as_it_was_written(folder: RunFolder) -> None:
    assert folder.read_run() == make_run([EAGER, BF16])
    changed = make_run([EAGER], status="interrupted", resumed=2)
    folder.write_run(changed)
    assert RunFolder(folder.path).read_run() == changed


def test_a_second_run_in_its_folder_is_refused_and_nothing_is_lost(folder: RunFolder) -> None:
    folder.append(record())
    with pytest.raises(UserError, match="holds a run already") as error:
        RunFolder.create(folder.path, make_run([]))
    assert f"--resume {folder.path}" in str(error.value.hint)
    assert folder.read_run() == make_run([EAGER, BF16])
    (folder.path / "run.json").unlink()  # records alone are a run too
    with pytest.raises(UserError, match="holds a run already"):
        RunFolder.create(folder.path, make_run([]))


def test_a_folder_with_other_files_can_hold_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, make_run([]))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "notes.txt", "run.json", "series"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / ("a" * 300), "File name too long"),
        (Path("/proc/run"), "No such file or directory"),
    ):
        with pytest.raises(UserError) as error:
            RunFolder.create(path, make_run([]))
        assert error.value.message == f"cannot write the run to {path}: {reason}"
        assert "--out" in str(error.value.hint)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: run\.json: No such file") as error:
        RunFolder(tmp_path / "gone").read_run()
    assert "--out" in str(error.value.hint)
    file = tmp_path / "run.json"
    for content, said in (
        (b"", "document: Invalid JSON"),
        (b"\xff", "document: Invalid JSON"),
        (b"{}", "id: Field required"),
        (make_run([]).model_dump_json().replace('"done"', '"begun"').encode(), "status: Input should be"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError) as error:
            RunFolder(tmp_path).read_run()
        assert error.value.message.startswith(f"{file}: {said}")


# Series and logs


def test_a_series_is_read_as_it_was_written(folder: RunFolder) -> None:
    full, series = ok_record(EAGER)
    full.series = folder.write_series(full.case, series)
    assert full.series == "series/gpt-tiny__eager__ws1.json"
    assert folder.read_series(full) == series


def test_a_series_that_is_gone_or_was_never_there(folder: RunFolder) -> None:
    full, series = ok_record(EAGER)
    assert folder.read_series(full) is None
    full.series = folder.write_series(full.case, series)
    (folder.path / full.series).unlink()
    assert folder.read_series(full) is None


def test_a_series_that_is_no_series(folder: RunFolder) -> None:
    full, series = ok_record(EAGER)
    full.series = folder.write_series(full.case, series)
    (folder.path / full.series).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"gpt-tiny__eager__ws1\.json: document: Invalid JSON"):
        folder.read_series(full)


def test_why_there_is_no_series(folder: RunFolder) -> None:
    full, series = ok_record(EAGER)
    assert folder.recorded_series(full) == (None, None)
    full.series = folder.write_series(full.case, series)
    assert folder.recorded_series(full) == (series, None)
    file = folder.path / full.series
    file.write_bytes(b'{"loss": "fell"}')
    found, why = folder.recorded_series(full)
    assert found is None
    assert why is not None
    assert why.startswith(f"{file}: loss: Input should be")
    assert folder.damage == [why]
    file.unlink()
    assert folder.recorded_series(full) == (None, f"{full.series} is not there")
    assert folder.damage == [why]


def test_the_tail_of_a_log(folder: RunFolder) -> None:
    full, _ = ok_record(EAGER)
    assert folder.log_tail(full) == []
    full.log = folder.log_path(full.case)
    assert folder.log_tail(full) == []
    (folder.path / full.log).write_bytes(b"one\ntwo\n\xffthree\n")
    assert folder.log_tail(full) == ["one", "two", "\ufffdthree"]
    assert folder.log_tail(full, lines=2) == ["two", "\ufffdthree"]


@pytest.mark.parametrize("name", ["../secret", "series/../../secret", "{outside}", "link", ".", "", "a\0b", "loop"])
def test_a_crafted_record_cannot_read_outside_of_its_run(name: str, folder: RunFolder) -> None:
    secret = folder.path.parent / "secret"
    secret.write_text(Series(loss=[], step_seconds=[], first_timed_step=0).model_dump_json())
    (folder.path / "link").symlink_to(secret)
    (folder.path / "loop").symlink_to(folder.path / "loop")
    crafted, _ = ok_record(EAGER)
    crafted.series = crafted.log = name.format(outside=secret)
    assert folder.read_series(crafted) is None
    assert folder.log_tail(crafted) == []


# Files


def test_a_case_is_a_file_name() -> None:
    assert slug("gpt-tiny/compile+bf16/ws1") == "gpt-tiny__compile+bf16__ws1"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "old")

    def power_cut(descriptor: int) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", power_cut)
        with pytest.raises(OSError, match="gone"):
            write_atomically(file, "new")
    assert file.read_text() == "old"
    write_atomically(file, "new ä")
    assert file.read_bytes() == "new ä".encode()
