"""What ``llmbench ab`` says in a terminal."""

from __future__ import annotations

import re

import pytest

from llmbench.cli.ab_text import ab_text, case_line
from llmbench.stats.ab import compared
from tests import factory
from tests.ab_factory import SCENARIOS, made_ab, made_case, made_session, made_sessions, made_side
from tests.report.test_run_page import HOSTILE


def loose(text: str) -> str:
    """Without what the boundaries decide: intervals, sessions at the verdict, noise, what could have been seen."""
    for pattern, instead in (
        (r"\[[^]]*\]", "[#]"),
        (r"≥ +\S+ ", "≥ # "),
        (r"\[#\] +\d+ +(?=\d)", "[#] # "),
        (r"0\.\d+ %", "0.# %"),
        (r"[+−]5\.\d % time", "+5 % time"),
        (r"differ by \S+ %", "differ by # %"),
    ):
        text = re.sub(pattern, instead, text)
    return text


@pytest.fixture(scope="module")
def lines():
    return ab_text(SCENARIOS["mixed"].comparison).splitlines()


def test_what_differs_stands_first(lines):
    assert lines[:4] == [
        "BASE main (4e2b1aa0) · torch 2.13.0+cpu · /envs/main/bin/python",
        "CAND cand (9c41e07b) · torch 2.13.0+cpu · /envs/cand/bin/python",
        "the environments differ in 1 of 15 keys",
        "  packages.numpy: 2.3.1 → 2.4.0",
    ]


def test_equal_environments_and_very_different_ones():
    side = made_side("main")
    assert "the environments agree in all 15 keys" in ab_text(compared(made_ab(base=side, cand=side), []))
    other = made_side("cand", environment={"packages": {f"p{number}": "1" for number in range(20)}})
    told = ab_text(compared(made_ab(base=made_side("a", environment={}), cand=other), [])).splitlines()
    assert "  and 14 more" in told


def test_where_the_sides_differ_in_mode_the_modes_are_their_names():
    side = made_side("nightly")
    cases = [made_case(case, cand_mode="bf16") for case in ("gpt-tiny/eager/ws1", "bert-tiny/eager/ws1")]
    told = ab_text(compared(made_ab(cases, base=side, cand=side), [])).splitlines()
    assert [line.split(" · ")[0] for line in told[:2]] == ["BASE eager", "CAND bf16"]
    told = ab_text(compared(made_ab(cases, base=side, cand=made_side("stable")), [])).splitlines()
    assert [line.split(" · ")[0] for line in told[:2]] == ["BASE nightly eager", "CAND stable bf16"]
    mixed = [made_case("gpt-tiny/eager/ws1", cand_mode="bf16"), made_case("gpt-tiny/bf16/ws1", cand_mode="compile")]
    told = ab_text(compared(made_ab(mixed, base=side, cand=side), [])).splitlines()
    assert [line.split(" · ")[0] for line in told[:2]] == ["BASE nightly", "CAND nightly"]


def test_a_row_for_each_metric_of_each_case(lines):
    begin = lines.index("gpt-tiny/eager/ws1 · 8 sessions in 1 min 47 s")
    assert [" ".join(loose(line).split()) for line in lines[begin + 1 : begin + 5]] == [
        "step ▼ slower +6.1 % time [#] # 0.# % ≥ # %",
        "total ▼ slower +6.1 % time [#] # 0.# % ≥ # %",
        "memory ▲ more +6.0 % of 1.21 GiB 8",
        "loss = same bitwise 8",
    ]


def test_the_columns_stand_below_their_heads(lines):
    (head,) = (line for line in lines if "could have seen" in line)
    rows = [line for line in lines if line.startswith("  step ") and "≥" in line]
    assert {len(line) for line in [head, *rows]} == {len(head)}
    assert {line.index("time [") for line in rows if "time [" in line} <= set(range(100))


def test_the_direction_is_said(lines):
    assert any(line.startswith("change: CAND over BASE, + is more") for line in lines)


def test_open_questions_are_asked_once_with_what_to_do(lines):
    asked = [line for line in lines if line.startswith("? ")]
    assert list(map(loose, asked)) == [
        "? gpt-tiny/compile+bf16/ws1 step, total: this machine is too noisy: sessions of the same code differ by "
        "# %; more sessions would not tell: compare anew on a quieter machine",
        "? regression-linear/eager/ws1 step: BASE failed in 1 of 1 sessions: cannot import name 'fused' from "
        "'kernels'; make the base run: its log says more",
    ]
    names = [f"gpt-tiny/m{number}/ws1" for number in range(8)]
    told = ab_text(compared(made_ab(names), []))
    assert "? gpt-tiny/m0/ws1 step and 7 more: too few sessions; `--resume DIR` adds sessions" in told


def test_it_ends_with_the_verdict_and_the_gate(lines):
    assert lines[-2].startswith(
        "5 of 10 cases got worse (1 broken, 2 slower, 2 with more memory, 1 with a changed loss"
    )
    assert lines[-1] == "failed: 5 cases got worse"


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        ("same", "passed"),
        ("budget over", "passed; 1 case could not be told"),
        ("slower total", "failed: gpt-tiny/eager/ws1 got worse: total"),
        ("broken", "failed: gpt-tiny/eager/ws1 is broken"),
        ("no base", "not judged: the base could not be run in 1 case"),
        ("strict", "failed: --strict, and 1 case could not be told"),
        ("empty", "passed: no case"),
        ("empty and strict", "failed: --strict, no case"),
    ],
)
def test_gates(name, gate):
    assert ab_text(SCENARIOS[name].comparison).splitlines()[-1] == gate


def test_a_self_check_says_that_it_is_one():
    assert "Self-check: no false alarm (1 same)" in ab_text(SCENARIOS["self-check"].comparison)
    assert "Self-check: a false alarm in 1 of 1 case (1 faster)" in ab_text(SCENARIOS["false praise"].comparison)


def test_apart_is_said_with_what_it_means():
    told = ab_text(SCENARIOS["apart"].comparison)
    assert "both sides did not fit into memory at once: gpt-tiny/eager/ws1" in told
    assert "only larger differences can be seen" in told


def test_modes_that_differ_are_named():
    assert "gpt-tiny/eager/ws1 · eager → compile · 8 sessions" in ab_text(SCENARIOS["modes"].comparison)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("same", "= same          gpt-tiny/eager/ws1                  0.# % time [#]  5 sessions, 66.5 s, "
         "noise 0.# %, could have seen ≥ # %"),
        ("slower total", "▼ slower        gpt-tiny/eager/ws1                  total +5 % time [#]  "
         "5 sessions, 66.5 s, noise 0.# %, could have seen ≥ # %"),
        ("more memory", "▲ more memory   gpt-tiny/eager/ws1                  memory +8.0 % of 1.21 GiB  "
         "5 sessions, 66.5 s"),
        ("not begun", "? inconclusive  gpt-tiny/eager/ws1                  too few sessions  0 sessions, 0 s"),
    ],
)  # fmt: skip
def test_the_line_of_a_case(name, line):
    assert loose(case_line(SCENARIOS[name].comparison.cases[0])) == line


def test_a_long_name_keeps_to_the_width():
    name = f"{'very-' * 30}long/eager/ws1"
    case = made_case("gpt-tiny/eager/ws1").model_copy(update={"id": name})
    told = ab_text(compared(made_ab([case]), made_sessions(5, step=0.2, spread=1e-4)))
    assert max(len(line) for line in told.splitlines() if "sessions in" in line) <= 100
    told = [one.model_copy(update={"case": name}) for one in made_sessions(5)]
    heading = next(line for line in ab_text(compared(made_ab([case]), told)).splitlines() if " sessions in " in line)
    assert len(heading) <= 100
    assert heading.endswith("… · 5 sessions in 66.5 s")


def test_hostile_texts_stay_on_their_line():
    case = made_case().model_copy(update={"id": HOSTILE})
    error = {"cand": factory.Error(type=HOSTILE, message=f"a\n::error::b {HOSTILE}")}
    session = made_session(broken=error).model_copy(update={"case": HOSTILE})
    side = made_side(HOSTILE, environment={HOSTILE: HOSTILE})
    comparison = compared(made_ab([case], base=side), [session])
    for text in (ab_text(comparison), case_line(comparison.cases[0])):
        assert "\u202e" not in text
        assert "\x1b" not in text
        assert not any(line.startswith("::") for line in text.splitlines())
    assert "\n" not in case_line(comparison.cases[0])
