"""What people get to see, and the document that it is drawn from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.doctor.checks import baseline  # noqa: F401 (its faults are known)
from llmbench.doctor.model import Diagnosis, Finding, clean, passed, skipped
from llmbench.doctor.render import text

from .made import diagnosis, failed, warned

LONG = "word " * 60
LINK = "https://example.org/why"

MIXED = diagnosis(
    ("a.fine", passed("all right")),
    ("a.warned", warned(f"warned of {LONG}")),
    ("storage.broken", failed("found broken", LONG, "run this --now", link=LINK, fault="storage.broken.so")),
    ("b.one", skipped("needs storage.broken")),
    ("b.two", Finding("skip", "needs storage.broken", root="storage.broken")),
    ("b.four", Finding("skip", "needs b.five", root="b.five")),
    ("b.five", Finding("skip", "follows from storage.broken: it is full", root="storage.broken", fault="b.five.full")),
    ("b.three", skipped("not here")),
)  # fmt: skip


def shown(given: Diagnosis = MIXED, **options: object) -> str:
    return text(given.to_json(), **options)  # type: ignore[arg-type]


def test_failures_come_first_each_with_cause_fix_and_what_follows_from_it() -> None:
    lines = " ".join(shown().split())
    parts = [
        "Training will run into trouble",
        "FAIL storage.broken.so",
        "found found broken",
        "cause word",
        "fix run this --now",
        "more https://example.org/why",
        "so b.five.full: it is full 2 checks were not asked: b.two, b.four",
        "WARN a.warned",
        "1 check is fine, 2 do not apply (-v shows them)",
        "1 fail, 1 warn, 1 pass, 5 skip in 1.0 s. More: llmbench doctor --explain ID",
    ]
    places = [lines.index(part) for part in parts]
    assert places == sorted(places)
    assert "all right" not in lines
    assert "not here" not in lines


def test_what_is_fine_is_shown_when_asked_for() -> None:
    lines = shown(verbose=True).splitlines()
    assert "ok a.fine                       all right" in lines
    assert any(line.startswith("-  b.three") and line.endswith("not here") for line in lines)
    assert "-v shows them" not in lines


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 100, 300])
def test_width(width: int, verbose: bool) -> None:
    lines = shown(width=width, verbose=verbose).splitlines()
    most = max(20, min(width, 100))
    words = (r"\S{15,}", r"storage\.broken")  # what cannot be broken may stand out
    assert [line for line in lines if len(line) > most and not any(re.search(word, line) for word in words)] == []


def test_plain_where_nobody_looks_and_coloured_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in shown()
    assert "\x1b[1;31mFAIL" in shown(colours=True)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown(colours=True)) == shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown(colours=True)


def test_nothing_to_say_about_nothing() -> None:
    assert shown(diagnosis()).splitlines()[-1].startswith("nothing was asked")


def test_rendering_needs_no_library() -> None:
    """Rich takes as long to start as all the checks of an area."""
    code = (
        "import sys, llmbench.doctor.render, llmbench.doctor.runner\n"
        "assert not {'rich', 'pydantic', 'jinja2', 'llmbench.report'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("found", "code", "strict"),
    [
        (passed(""), 0, 0),
        (skipped(""), 0, 0),
        (warned(), 0, 1),
        (failed(), 1, 1),
        (Finding("incomplete", ""), 1, 1),
    ],
)
def test_exit_code(found: Finding, code: int, strict: int) -> None:
    given = diagnosis(("a.one", found))
    assert (given.exit_code(), given.exit_code(strict=True)) == (code, strict)


def test_document_holds_no_secret_and_is_strict_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789planted")
    latin = os.fsdecode(b"caf" + bytes([233]))
    evidence = f"crashed with 0123456789planted at https://me:pw@host, \x1b[31mred\x07 and {latin}"
    facts = {"x": {"y": ["0123456789planted"], "api_token": "abc"}, "nan": float("nan"), "path": Path("/x")}
    document = diagnosis(("a.one", failed(evidence, script="export A=0123456789planted")), facts=facts).to_json()
    written = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    assert b"planted" not in written
    assert b"me:pw" not in written
    assert b"abc" not in written
    assert b"\\u001b" not in written
    assert b"\\\\udce9" in written
    assert (document["facts"]["nan"], document["facts"]["path"]) == ("nan", "/x")


def test_what_doctor_calls_things_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "storage")
    (check,) = diagnosis(("storage.disk", failed("storage", fault="storage.disk.full"))).to_json()["checks"]
    (finding,) = check["findings"]
    assert (check["id"], check["area"], finding["fault"]) == ("storage.disk", "storage", "storage.disk.full")
    assert finding["evidence"] == "***"


def test_arguments_of_a_command_line_stay_apart() -> None:
    assert clean("train\0--token\0abc\0--lr\x001") == "train --token *** --lr 1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            diagnosis(
                ("compile.kernel", passed("")),
                facts={"torch": {"version": "2.13.0+cpu"}, "compile_works": True, "compiler": {"short": "g++ 12.2.0"}},
            ),
            "Ready to train on the CPU with torch 2.13.0+cpu; torch.compile works (g++ 12.2.0)",
        ),
        (
            diagnosis(
                ("cuda.devices", passed("")),
                facts={"torch": {"version": "2.9.0+cu130"}, "devices": [{"name": "NVIDIA H100"}] * 8},
            ),
            "Ready to train on 8 x NVIDIA H100 with torch 2.9.0+cu130",
        ),
        (
            diagnosis(("compile.compiler", warned()), facts={"torch": {"version": "2.9.0"}}),
            "Ready to train on the CPU with torch 2.9.0; no C++ compiler, so torch.compile will be skipped; 1 warning",
        ),
        (diagnosis(("torch.import", failed("", "it is gone"))), "This install will not train: it is gone"),
        (diagnosis(("cuda.driver", failed("", "too old"))), "This install will not train on the GPU: too old"),
        (
            diagnosis(("storage.shm", failed("", "too small")), ("cpu.memory", failed())),
            "Training will run into trouble: too small (and 1 more)",
        ),
        (
            diagnosis(("a.one", failed("", fault="baseline.same.worse"))),
            "Training will run into trouble: A check that passed on the machine of the baseline fails here",
        ),
        (
            diagnosis(("torch.import", Finding("incomplete", "it broke"))),
            "Not everything could be checked: torch.import: it broke",
        ),
        (diagnosis(("storage.disk", passed(""))), "No fault found in storage"),
        (diagnosis(("storage.disk", warned()), ("storage.shm", warned())), "Nothing fails in storage; 2 warnings"),
    ],
)
def test_headline(given: Diagnosis, expected: str) -> None:
    assert given.to_json()["headline"] == expected
