"""Every legal pair of ingredients trains right in one process; those over ranks are in ``test_parallel.py``."""

from __future__ import annotations

from itertools import combinations

import pytest

from llmbench.suite.modes import MODES, refusal

from .conftest import STEPS, Case, Train
from .test_parallel import WITH, check
from .training import train

PARALLEL = [name for name, mode in MODES.items() if mode.axis == "parallel"]
COMPILE = [name for name, mode in MODES.items() if mode.axis == "compile"]
CUDA = ["tf32", "fp8", "cpu-offload", "sdpa-cudnn", "flex"]
PAIRS = [f"{one}+{other}" for one, other in combinations(WITH, 2) if refusal([one, other]) is None]
COMBINED = [
    "bf16+fused+ac+chunked-ce",
    "bf16+sac+accum4",
    "fp16+fused+accum4+chunked-ce",
    "bf16-params+fused+ac+accum4",
]


def test_these_are_all_that_a_cpu_can() -> None:
    assert {*WITH, *PARALLEL, *COMPILE, *CUDA} == set(MODES)


@pytest.mark.parametrize("mode", [*WITH, *PAIRS, *COMBINED])
def test_it_trains_right(mode: str, case: Case, eager: Train) -> None:
    check(train(case("gpt", mode), STEPS), eager("gpt"), mode)


@pytest.mark.parametrize("mode", [*WITH, *COMBINED])
@pytest.mark.parametrize("family", ["bert", "lora"])
def test_other_models_train_right(mode: str, family: str, case: Case, eager: Train) -> None:
    check(train(case(family, mode), STEPS), eager(family), mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", PAIRS)
@pytest.mark.parametrize("family", ["bert", "lora"])
def test_other_models_train_right_in_pairs(mode: str, family: str, case: Case, eager: Train) -> None:
    check(train(case(family, mode), STEPS), eager(family), mode)


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.parametrize(
    "mode",
    [
        "compile",
        "compile-blocks",
        "max-autotune",
        "compile+fp16",
        "compile+ac",
        "compile+sac",
        "compile-blocks+ac",
        "compile-blocks+bf16+sac",
        "compile+bf16+accum4+chunked-ce",
        "compile-blocks+bf16-params+fused",
    ],
)
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_it_trains_right_when_compiled(mode: str, family: str, case: Case, eager: Train) -> None:
    found = train(case(family, mode), STEPS)
    assert found.graphs > 0  # it was compiled indeed
    check(found, eager(family), mode)
