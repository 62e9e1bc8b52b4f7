"""What people and programs get to see."""

from __future__ import annotations

import json
import os

import pytest

from llmbench.doctor.model import Answer, Check, Diagnosis, Finding, failure, passed, skipped, warning
from llmbench.doctor.render import text

LONG = "word " * 60


def diagnosis(*found: tuple[str, Finding], facts: dict[str, object] | None = None) -> Diagnosis:
    answers = [
        Answer(Check(id, id.partition(".")[0], f"title of {id}", 5.0, (), lambda context: iter(())), (finding,), 0.1)
        for id, finding in found
    ]
    return Diagnosis("/venv/bin/python", tuple(answers), facts or {}, {}, 1.0, "2026-01-01T00:00:00+00:00")


MIXED = diagnosis(
    ("a.fine", passed("all right")),
    ("a.warned", warning(f"warned of {LONG}", "a cause", "a fix")),
    ("storage.broken", failure("found broken", LONG, "run this --now", "https://example.org/why")),
    ("b.one", skipped("needs storage.broken")),
    ("b.two", skipped("needs storage.broken")),
    ("b.three", skipped("not here")),
)


def test_failures_come_first_each_with_cause_and_fix() -> None:
    shown = text(MIXED.to_json())
    places = [
        shown.index(part) for part in ("Training will", "FAIL", "WARN", "a.fine", "b.three", "2 not asked", "6 checks")
    ]
    assert places == sorted(places)
    assert "run this --now" in shown
    assert "https://example.org/why" in shown
    assert "they need storage.broken" in shown
    assert "needs storage.broken" not in shown


@pytest.mark.parametrize("width", [60, 100, 300])
def test_width(width: int) -> None:
    lines = text(MIXED.to_json(), width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)


def test_plain_where_nobody_looks_and_coloured_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in text(MIXED.to_json())
    assert "\x1b[31m" in text(MIXED.to_json(), colours=True) or "\x1b[1;31m" in text(MIXED.to_json(), colours=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in text(MIXED.to_json(), colours=True)


@pytest.mark.parametrize(
    ("found", "code", "strict"),
    [
        (passed(""), 0, 0),
        (skipped(""), 0, 0),
        (warning("", "", ""), 0, 1),
        (failure("", "", ""), 1, 1),
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
    document = diagnosis(("a.one", failure(evidence, "c", "f")), facts={"x": {"y": ["0123456789planted"]}}).to_json()
    written = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    assert b"planted" not in written
    assert b"me:pw" not in written
    assert b"\\u001b" not in written
    assert b"\\\\udce9" in written


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
            diagnosis(("compile.compiler", warning("", "", "")), facts={"torch": {"version": "2.9.0"}}),
            "Ready to train on the CPU with torch 2.9.0; no C++ compiler, so torch.compile will be skipped",
        ),
        (diagnosis(("torch.import", failure("", "it is gone", ""))), "This install will not train: it is gone"),
        (diagnosis(("storage.shm", failure("", "too small", ""))), "Training will run into trouble: too small"),
        (diagnosis(("storage.disk", passed(""))), "No fault found in storage"),
    ],
)
def test_headline(given: Diagnosis, expected: str) -> None:
    assert given.to_json()["headline"] == expected
