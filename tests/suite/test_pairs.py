"""Which case is held against which."""

from __future__ import annotations

import pytest

from llmbench.errors import UserError
from llmbench.suite.cases import Case
from llmbench.suite.pairs import pair_id, pair_up


def case(name: str) -> Case:
    workload, mode, size = name.rsplit("/", 2)
    return Case(workload, mode, int(size.removeprefix("ws")), {})


def cases(*names: str) -> list[Case]:
    return [case(name) for name in names]


def paired(base: list[Case], cand: list[Case]) -> list[tuple[str, str]]:
    return [(one.id, other.id) for one, other in pair_up(base, cand)[0]]


def test_cases_of_one_id_belong_together_whatever_their_order() -> None:
    base = cases("gpt-tiny/eager/ws1", "gpt-tiny/bf16/ws1", "lora-tiny/eager/ws1")
    cand = cases("lora-tiny/eager/ws1", "gpt-tiny/eager/ws1", "gpt-tiny/compile/ws1")
    pairs, alone = pair_up(base, cand)
    assert [(one.id, other.id) for one, other in pairs] == [
        ("gpt-tiny/eager/ws1", "gpt-tiny/eager/ws1"),
        ("lora-tiny/eager/ws1", "lora-tiny/eager/ws1"),
    ]
    assert alone == ["gpt-tiny/bf16/ws1", "gpt-tiny/compile/ws1"]


def test_two_modes_are_paired_by_workload() -> None:
    base = cases("gpt-tiny/eager/ws1", "lora-tiny/eager/ws1")
    cand = cases("lora-tiny/compile/ws1", "gpt-tiny/compile/ws1")
    assert paired(base, cand) == [
        ("gpt-tiny/eager/ws1", "gpt-tiny/compile/ws1"),
        ("lora-tiny/eager/ws1", "lora-tiny/compile/ws1"),
    ]


def test_world_sizes_of_two_modes_in_their_order() -> None:
    base = cases("gpt-tiny/ddp/ws2", "gpt-tiny/ddp/ws4")
    cand = cases("gpt-tiny/fsdp/ws2", "gpt-tiny/fsdp/ws4", "gpt-tiny/fsdp/ws8")
    pairs, alone = pair_up(base, cand)
    assert [pair_id(pair) for pair in pairs] == ["gpt-tiny/ddp..fsdp/ws2", "gpt-tiny/ddp..fsdp/ws4"]
    assert alone == ["gpt-tiny/fsdp/ws8"]


def test_each_case_has_one_partner() -> None:
    base, cand = cases("gpt-tiny/eager/ws1", "gpt-tiny/eager/ws1"), cases("gpt-tiny/eager/ws1")
    pairs, alone = pair_up(base, cand)
    assert len(pairs) == 1
    assert alone == ["gpt-tiny/eager/ws1"]


@pytest.mark.parametrize(
    ("base", "cand", "name"),
    [
        ("gpt-tiny/eager/ws1", "gpt-tiny/eager/ws1", "gpt-tiny/eager/ws1"),
        ("gpt-tiny/eager/ws1", "gpt-tiny/compile/ws1", "gpt-tiny/eager..compile/ws1"),
        ("gpt-tiny/ddp/ws2", "gpt-tiny/fsdp/ws4", "gpt-tiny/ddp..fsdp/ws2..ws4"),
        ("a/b:C/eager/ws1", "a/b:C/bf16/ws1", "a/b:C/eager..bf16/ws1"),
    ],
)
def test_a_pair_is_named_by_what_differs(base: str, cand: str, name: str) -> None:
    assert pair_id((case(base), case(cand))) == name


@pytest.mark.parametrize(
    ("base", "cand"),
    [
        (["gpt-tiny/eager/ws1"], ["lora-tiny/eager/ws1"]),
        ([f"gpt-tiny/m{number}/ws1" for number in range(5)], []),
        ([], []),
    ],
)
def test_sides_with_nothing_in_common(base: list[str], cand: list[str]) -> None:
    with pytest.raises(UserError) as error:
        pair_up(cases(*base), cases(*cand))
    assert "no case of one side has a partner on the other" in error.value.message
    assert len(base) < 4 or "gpt-tiny/m2/ws1 …" in error.value.message
