from __future__ import annotations

import hashlib

import pytest
import torch

from llmbench.worker.tensors import fingerprint, frozen_weights


def values() -> torch.Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(0))


def test_it_is_the_sha256_of_the_bytes() -> None:
    one, two = values(), torch.arange(9)
    expected = hashlib.sha256(one.numpy().tobytes() + two.numpy().tobytes())
    assert fingerprint(one, two) == expected.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_changed_bit_is_seen(dtype: torch.dtype) -> None:
    tensor = values().to(dtype)
    before = fingerprint(tensor)
    assert fingerprint(tensor.clone()) == before
    bits = tensor.view(torch.uint8)
    for byte in (0, bits.numel() // 2, bits.numel() - 1):
        bits.flatten()[byte] ^= 1
        assert fingerprint(tensor) != before
        bits.flatten()[byte] ^= 1
    assert fingerprint(tensor) == before


def test_what_is_equal_and_has_other_bits_is_another() -> None:
    assert fingerprint(torch.tensor([0.0])) != fingerprint(torch.tensor([-0.0]))
    assert fingerprint(torch.tensor([float("nan")])) == fingerprint(torch.tensor([float("nan")]))


def test_the_layout_in_memory_does_not_count() -> None:
    tensor = values()
    assert fingerprint(tensor.t()) == fingerprint(tensor.t().contiguous())
    assert fingerprint(tensor.t()) != fingerprint(tensor)
    assert fingerprint(tensor[1:, ::2]) == fingerprint(tensor[1:, ::2].clone())


def test_parameters_and_empty_tensors() -> None:
    parameter = torch.nn.Parameter(values())
    assert fingerprint(parameter) == fingerprint(values())
    assert fingerprint(torch.empty(0)) == fingerprint() == hashlib.sha256().hexdigest()


def test_the_order_counts() -> None:
    one, two = values(), torch.arange(9)
    assert fingerprint(one, two) != fingerprint(two, one)


def test_the_frozen_weights_of_a_model() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    assert frozen_weights(model) == {}
    model[0].requires_grad_(False)
    before = frozen_weights(model)
    assert before.keys() == {"0.weight", "0.bias"}
    with torch.no_grad():
        model[1].weight += 1
        assert frozen_weights(model) == before
        model[0].weight[1, 0] = torch.nextafter(model[0].weight[1, 0], torch.tensor(1e9))  # by the least that there is
    after = frozen_weights(model)
    assert after["0.weight"] != before["0.weight"]
    assert after["0.bias"] == before["0.bias"]
