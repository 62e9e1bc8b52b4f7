"""A run through a log: what goes in comes out, what is damaged is told, and a bounded log has room for what matters."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbench.errors import UserError
from llmbench.submit.bundle import BEGIN, END, LINE, pack, unpack, without


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_comes_out_as_it_went_in(made_run: Callable[..., Path], tmp_path: Path) -> None:
    run = made_run()
    (run / "evidence" / "case").mkdir(parents=True)
    (run / "evidence" / "case" / "rank0.jsonl").write_bytes(bytes(range(256)) * 100)
    before = files(run)
    (run / "report.html").write_text("made of the rest")
    lines, left_out = pack(run)
    assert left_out == []
    assert max(map(len, lines)) <= LINE
    log = ["case 1", *lines[:2], "warning: somebody else writes in between", *lines[2:], "the end"]
    assert unpack(log, tmp_path / "out")
    assert files(tmp_path / "out") == before
    assert list(without(["a", *lines, "b"])) == ["a", "b"]


def test_the_last_run_of_a_log_counts(made_run: Callable[..., Path], tmp_path: Path) -> None:
    one, two = made_run("one", ("eager",)), made_run("two")
    broken = pack(one)[0][:-1]  # killed while it printed
    assert unpack([*pack(one)[0], *broken, *pack(two)[0]], tmp_path / "out")
    assert files(tmp_path / "out") == files(two)


def test_without_a_run_nothing_is_written(tmp_path: Path) -> None:
    assert not unpack(["a log", BEGIN, "AAAA"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_told(made_run: Callable[..., Path], tmp_path: Path) -> None:
    lines, _ = pack(made_run())
    lines[1] = lines[1][:10] + ("A" if lines[1][10] != "A" else "B") + lines[1][11:]
    with pytest.raises(UserError, match="damaged"):
        unpack(lines, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    del lines[1]
    with pytest.raises(UserError, match="damaged"):
        unpack(lines, tmp_path / "out")


def test_records_come_before_evidence_and_logs(made_run: Callable[..., Path], tmp_path: Path) -> None:
    import random

    run = made_run()
    noise = random.Random(0).randbytes(400_000)
    (run / "evidence").mkdir()
    (run / "evidence" / "rank0.jsonl").write_bytes(noise)
    (run / "logs" / "small.log").write_text("small\n")
    lines, left_out = pack(run, most_bytes=300_000)
    assert left_out == ["evidence/rank0.jsonl"]
    assert sum(map(len, lines)) < 300_000
    unpack(lines, tmp_path / "out")
    assert set(files(tmp_path / "out")) == set(files(run)) - set(left_out)


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../outside", "x")
        archive.writestr("/etc/outside", "x")
        archive.writestr("run.json", "{}")
    content = buffer.getvalue()
    text = base64.b64encode(content).decode()
    unpack([BEGIN, text, f"{END}{hashlib.sha256(content).hexdigest()}-----"], tmp_path / "deep" / "out")
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to("deep/out") for path in written)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        pack(tmp_path)
