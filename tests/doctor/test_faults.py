"""All faults that doctor tells apart: complete, fit for any machine, and each provoked by a test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from llmbench.doctor.checks import AREAS, all_checks, all_faults
from llmbench.doctor.model import Fault

HERE = Path(__file__).parent
LEAST = 120
PLACEHOLDER = re.compile(r"<[^<>\n]*>")
WORDS = re.compile(r"<[A-Za-z](?:[\w ,.-]*\w)?>")
FOREIGN_PATH = re.compile(r"/(?:home|root|work|Users|mnt/[a-z])/\S|\.pyenv|site-packages/[a-z]+\.(?:pth|py)\b")


def texts(fault: Fault) -> list[str]:
    return [text for text in (fault.title, fault.cause, fault.fix, fault.script) if text is not None]


def test_there_are_many() -> None:
    assert len(all_faults()) >= LEAST


def test_each_belongs_to_a_check() -> None:
    checks = {check.id for check in all_checks()}
    assert [fault.id for fault in all_faults() if fault.check not in checks] == []


def test_ids_are_words() -> None:
    assert [
        fault.id for fault in all_faults() if not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+(-[a-z0-9]+)*){2}", fault.id)
    ] == []


def test_each_is_complete() -> None:
    for fault in all_faults():
        assert all(text.strip() == text and text for text in texts(fault)), fault.id
        assert fault.verdict in ("fail", "warn"), fault.id
        assert fault.link is None or fault.link.startswith("https://"), fault.id
        assert len(fault.title) <= 100, fault.id
        assert "\n" not in fault.title + fault.cause + fault.fix, fault.id
        assert not fault.title.endswith("."), fault.id


def test_titles_tell_them_apart() -> None:
    titles = [fault.title for fault in all_faults()]
    assert sorted(titles) == sorted(set(titles))


def test_no_text_is_of_one_machine() -> None:
    for fault in all_faults():
        for text in texts(fault):
            assert not FOREIGN_PATH.search(text), (fault.id, text)
            odd = [place for place in PLACEHOLDER.findall(text) if not WORDS.fullmatch(place)]
            assert odd == [], (fault.id, text)


def test_scripts_are_shell() -> None:
    for fault in all_faults():
        if fault.script:
            script = WORDS.sub("value", fault.script)
            done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True)
            assert done.returncode == 0, (fault.id, done.stderr)


@pytest.mark.parametrize(
    "word", ["sudo", "reboot", "rm -r", "rm -f", "mkfs", "dd ", "kill", "curl", "wget", "exit", "set -e"]
)
def test_scripts_are_safe(word: str) -> None:
    pattern = re.compile(rf"(?:^|[\s;&|]){re.escape(word)}")
    assert [fault.id for fault in all_faults() if fault.script and pattern.search(fault.script)] == []


def test_each_is_provoked_by_a_test() -> None:
    files = [file.read_text(encoding="utf-8") for file in HERE.rglob("*.py") if file != Path(__file__)]
    source = "\n".join(files)
    missing = [fault.id for fault in all_faults() if not re.search(rf"{re.escape(fault.id)}(?![\w.-])", source)]
    assert missing == []


def test_every_area_has_a_check() -> None:
    assert {check.area for check in all_checks()} >= set(AREAS)
