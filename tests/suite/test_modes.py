from __future__ import annotations

import pytest

from llmbench.errors import UserError
from llmbench.suite.modes import MODES, canonical, combinations, ingredients, parity_limit


@pytest.mark.parametrize(
    ("spelled", "mode"),
    [
        ("eager", "eager"),
        ("bf16", "bf16"),
        ("bf16+compile", "compile+bf16"),
        ("compile+bf16", "compile+bf16"),
        (" bf16 + compile ", "compile+bf16"),
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
        ("", "unknown mode ''", "known: eager, compile, bf16"),
        ("bf16+", "unknown mode ''", "known: eager, compile, bf16"),
        ("eager+bf16", "eager means no other mode", "leave one of them out"),
        ("compile+compile", "compile and compile are both a choice of compile", "take one of them"),
    ],
)
def test_what_is_no_mode(spelled: str, said: str, advised: str) -> None:
    with pytest.raises(UserError) as error:
        canonical(spelled)
    assert repr(spelled) in error.value.message
    assert said in error.value.message
    assert advised in str(error.value.hint)


def test_the_combinations_are_all_there_are() -> None:
    assert sorted(combinations()) == ["bf16", "compile", "compile+bf16", "eager"]
    assert all(canonical(mode) == mode for mode in combinations())


def test_the_ingredients_make_the_mode() -> None:
    assert ingredients("eager") == []
    assert ingredients("compile+bf16") == ["compile", "bf16"]


def test_the_widest_limit_of_its_ingredients_is_that_of_a_mode() -> None:
    assert parity_limit("eager") == 0.0
    assert parity_limit("compile") == MODES["compile"].parity
    assert parity_limit("compile+bf16") == MODES["bf16"].parity > MODES["compile"].parity
