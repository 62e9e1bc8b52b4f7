from __future__ import annotations

import json

import pytest
import torch

from llmbench.worker.faults import describe


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


def test_an_exception_is_told_with_its_place() -> None:
    found = describe(caught(ValueError("  the shape is wrong\nlonger story ")))
    assert found["type"] == "ValueError"
    assert found["message"] == "the shape is wrong\nlonger story"
    assert found["where"].startswith("test_faults.py:")
    assert found["where"].endswith(" in caught")
    assert found["out_of_memory"] is False
    assert json.loads(json.dumps(found)) == found


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert describe(ValueError())["where"] is None
    assert describe(ValueError())["message"] == ""


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_whether_memory_ran_out(error: BaseException, verdict: bool) -> None:
    assert describe(error)["out_of_memory"] is verdict


def test_torch_s_own_words_for_too_large_a_tensor_on_the_cpu_are_known() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**56)
    assert describe(error.value)["out_of_memory"] is True
