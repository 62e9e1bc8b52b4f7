from __future__ import annotations

import pytest

from llmbench.errors import UserError
from llmbench.suite.modes import (
    MODES,
    any_mode_matches,
    arithmetic,
    canonical,
    compiles,
    ingredients,
    parallel,
    parity_limit,
    precision,
    rungs,
)


@pytest.mark.parametrize(
    ("spelled", "mode"),
    [
        ("eager", "eager"),
        ("bf16", "bf16"),
        ("bf16+compile", "compile+bf16"),
        ("compile+bf16", "compile+bf16"),
        (" bf16 + compile ", "compile+bf16"),
        ("fp32", "eager"),
        ("fp32+compile", "compile"),
        ("ddp+ac+bf16+fused+compile-blocks", "compile-blocks+bf16+fused+ac+ddp"),
    ],
)
def test_a_mode_has_one_spelling(spelled: str, mode: str) -> None:
    assert canonical(spelled) == mode
    assert canonical(canonical(spelled)) == mode


@pytest.mark.parametrize(
    ("spelled", "said", "advised"),
    [
        ("bf61", "unknown mode 'bf61'", "did you mean bf16"),
        ("bf16+compil", "unknown mode 'compil'", "did you mean compile"),
        ("egaer", "unknown mode 'egaer'", "did you mean eager"),
        ("", "unknown mode ''", "known: eager, fp32, compile"),
        ("bf16+", "unknown mode ''", "known: eager, fp32, compile"),
        ("eager+bf16", "eager means no other mode", "leave one of them out"),
        ("compile+compile", "compile is there twice", "take one of them"),
        ("bf16+fp16", "bf16 and fp16 are both a choice of precision", "take one of them"),
        ("fp32+bf16", "fp32 and bf16 are both a choice of precision", "take one of them"),
        ("compile+max-autotune", "both a choice of compile", "take one of them"),
        ("ac+sac", "both a choice of recompute", "take one of them"),
        ("ddp+fsdp", "ddp and fsdp are both a choice of parallel", "take one of them"),
        ("tp+pp", "both a choice of parallel", "take one of them"),
        ("pp+accum4", "a pipeline splits the batch into micro-batches already", "take one of them"),
        ("pp+fp16", "skip steps of its own", "take one of them"),
    ],
)
def test_what_is_no_mode(spelled: str, said: str, advised: str) -> None:
    with pytest.raises(UserError) as error:
        canonical(spelled)
    assert repr(spelled) in error.value.message
    assert said in error.value.message
    assert advised in str(error.value.hint)


@pytest.mark.parametrize(
    ("pattern", "meets"),
    [
        ("*", True),
        ("bf16", True),
        ("compile+bf16", True),
        ("bf16+compile", False),  # never spelled so
        ("*bf16*", True),
        ("compile*+ddp", True),
        ("*+fsdp+tp", True),
        ("bf61", False),
        ("*fp61*", False),
        ("ddp+fsdp", False),
    ],
)
def test_whether_a_pattern_can_meet_a_mode(pattern: str, meets: bool) -> None:
    assert any_mode_matches(pattern) is meets


def test_two_splits_of_a_model_go_together() -> None:
    assert canonical("tp+fsdp") == "fsdp+tp"


def test_a_ladder_adds_one_technique_on_each_rung() -> None:
    assert rungs(["bf16", "fused", "compile"]) == ["eager", "bf16", "bf16+fused", "compile+bf16+fused"]


def test_what_a_mode_is_made_of() -> None:
    assert (precision("compile+bf16-params+fsdp"), arithmetic("compile+bf16-params+fsdp")) == ("bf16-params", "bf16")
    assert (precision("fsdp"), arithmetic("fsdp")) == ("fp32", "fp32")
    assert [parallel(mode) for mode in ("eager", "bf16+tp", "accum4")] == [False, True, False]
    assert [compiles(mode) for mode in ("eager", "compile-blocks+ddp", "max-autotune")] == [False, True, True]


def test_the_ingredients_make_the_mode() -> None:
    assert ingredients("eager") == []
    assert ingredients("compile+bf16") == ["compile", "bf16"]


def test_the_widest_limit_of_its_ingredients_is_that_of_a_mode() -> None:
    assert parity_limit("eager") == 0.0
    assert parity_limit("compile") == MODES["compile"].parity
    assert parity_limit("compile+bf16") == MODES["bf16"].parity > MODES["compile"].parity
