"""Runs below folders: found wherever they lie, read as far as they can be, and nothing dropped in silence."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.results.history import read_history
from tests import factory

CASES = [factory.planned("gpt-tiny", mode) for mode in ("eager", "compile")]


@pytest.fixture
def tree(tmp_path):
    factory.nights(tmp_path / "runs", 3, CASES, lambda number, case: 1.0 + number)
    return tmp_path / "runs"


def first_run(tree):
    return min(tree.rglob("run.json")).parent


def cases(history):
    return [(record.run.id[-4:], record.case) for record in history.records]


def test_runs_at_any_depth_the_oldest_first(tree):
    deep = tree / "a" / "b"
    deep.mkdir(parents=True)
    first_run(tree).rename(deep / "moved")
    history = read_history([tree])
    assert [run.id[-4:] for run in history.runs] == ["0000", "0001", "0002"]
    assert cases(history) == [(f"000{n}", f"gpt-tiny/{mode}/ws1") for n in range(3) for mode in ("eager", "compile")]
    assert history.runs[0].folder == deep / "moved"
    assert history.faults == []
    assert history.copies == []


def test_what_is_kept_of_a_run(tree):
    run = read_history([tree]).runs[1]
    assert (run.suite, run.status, run.device, run.dirty, run.has_report) == ("smoke", "done", "cpu", False, False)
    assert run.commit == factory.night(1).git.commit
    assert run.environment["torch.version"] == "2.13.0+cpu"
    assert run.environment["llmbench"] == "0.1.0"
    assert run.hardware == {"cpu": "AMD EPYC 9654, 16 CPUs"}
    assert run.data == f"name wikitext-2; train_sha256 {'a' * 64}"


def test_the_newest_record_of_a_case_that_was_resumed(tree):
    folder = first_run(tree)
    store = factory.RunFolder(folder)
    store.append(factory.measured(CASES[0], 7.0))
    found = [record for record in read_history([tree]).records if record.run.folder == folder]
    assert len(found) == 2
    speed = factory.measured(CASES[0], 7.0).throughput.value
    assert found[0].parts["throughput"]["value"] == pytest.approx(speed)


def test_a_run_that_has_just_begun_has_no_record_yet(tree):
    (first_run(tree) / "records.jsonl").unlink()
    history = read_history([tree])
    assert len(history.runs) == 3
    assert len(history.records) == 4
    assert history.faults == []


def test_a_run_that_was_killed_in_mid_write_counts_with_what_it_has(tree):
    file = first_run(tree) / "records.jsonl"
    text = file.read_text()
    file.write_text(text[: len(text) - 300])
    history = read_history([tree])
    assert len(history.records) == 5
    [fault] = history.faults
    assert str(fault).startswith(f"{file}, line 2: half a record")


@pytest.mark.parametrize(
    "line", ["not JSON", "[]", "7", '{"case": 3, "status": "ok"}', '{"case": "a/b/ws1"}', "\x00\x00", "{" * 5000]
)
def test_a_damaged_line_is_named_and_the_others_count(tree, line):
    file = first_run(tree) / "records.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, lines[1]]) + "\n")
    history = read_history([tree])
    assert len(history.records) == 6
    [fault] = history.faults
    assert (fault.path, fault.line) == (file, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("[]", "id: not there"),
        ('{"id": 3}', "id: not there"),
        ('{"id": "x"}', "started_at: no time"),
        ('{"id": "x", "started_at": 5}', "started_at: no time"),
        ('{"id": "x", "started_at": "yesterday"}', "started_at: no time"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_count(tree, text, told):
    file = first_run(tree) / "run.json"
    file.write_text(text)
    history = read_history([tree])
    assert len(history.runs) == 2
    [fault] = history.faults
    assert str(fault).startswith(f"{file}: {told}")


@pytest.mark.parametrize("name", ["run.json", "records.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_named(tree, name):
    file = first_run(tree) / name
    file.unlink()
    file.mkdir()
    [fault] = read_history([tree]).faults
    assert str(fault) == f"{file}: Is a directory"


def test_records_without_their_run_are_named(tree):
    folder = first_run(tree)
    (folder / "run.json").unlink()
    [fault] = read_history([tree]).faults
    assert str(fault) == f"{folder}: records.jsonl without a run.json"


def test_links_are_followed_but_not_in_a_circle(tree, tmp_path):
    other = tmp_path / "elsewhere"
    factory.nights(other, 5, CASES, lambda number, case: 1.0)
    (tree / "link").symlink_to(other)
    (other / "back").symlink_to(tree)
    (tree / "gone").symlink_to(tree / "nothing")
    (tree / "self").symlink_to("self")
    history = read_history([tree, tree / "link"])
    assert len(history.runs) == 5
    assert len(history.copies) == 3
    assert [fault.path.name for fault in history.faults] == ["self"]


def test_a_copy_counts_once_and_the_fuller_one(tree, tmp_path):
    folder = first_run(tree)
    shutil.copytree(folder, tree / "0-copy")
    lines = (folder / "records.jsonl").read_text().splitlines()
    (folder / "records.jsonl").write_text(lines[0] + "\n")
    history = read_history([tree])
    assert history.copies == [folder]
    assert len(history.runs) == 3
    assert len(history.records) == 6


def test_two_runs_may_have_one_name(tree):
    """By chance or by a script: they are copies only if they began at the same time, too."""
    factory.RunFolder.create(tree / "twin", factory.night(9, id=read_history([tree]).runs[0].id))
    history = read_history([tree])
    assert len(history.runs) == 4
    assert history.copies == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_a_folder_that_may_not_be_read_is_named(tree):
    with tempfile.TemporaryDirectory() as public:  # pytest's own folders are closed to others
        os.chmod(public, 0o755)
        runs = Path(shutil.copytree(tree, Path(public) / "runs"))
        closed = runs / "closed"
        closed.mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            history = read_history([runs])
        finally:
            os.seteuid(0)
    assert [str(fault) for fault in history.faults] == [f"{closed}: Permission denied"]
    assert len(history.runs) == 3


def test_no_run_at_all_says_where_to_look(tmp_path):
    with pytest.raises(UserError) as caught:
        read_history([tmp_path])
    assert str(tmp_path) in caught.value.message
    assert "reports/runs" in caught.value.hint


def test_no_run_that_can_be_read_says_why(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_history([tmp_path])


def test_a_folder_that_does_not_exist_is_a_usage_error(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_history([tmp_path / "nowhere"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no folder"):
        read_history([tmp_path / "file"])


def test_cases_by_pattern(tree):
    history = read_history([tree])
    assert history.cases([]) == ["gpt-tiny/eager/ws1", "gpt-tiny/compile/ws1"]
    assert history.cases(["*/compile/*", "*eager*"]) == ["gpt-tiny/eager/ws1", "gpt-tiny/compile/ws1"]
    assert history.cases(["*/compile/*"]) == ["gpt-tiny/compile/ws1"]
    with pytest.raises(UserError) as caught:
        history.cases(["gpt-tiny/eage/ws1"])
    assert "gpt-tiny/eager/ws1" in caught.value.hint
