"""The formulas against the models themselves: parameters and FLOPs exactly, memory by what torch really keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from llmbench.suite.costs import flops_per_step, memory_bytes, padded_vocabulary, parameters
from llmbench.suite.workloads import WORKLOADS
from llmbench.worker.methods.lora import apply_lora
from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.models.mlp import MLP, MLPConfig
from llmbench.worker.models.vocabulary import padded


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(family: str, model: dict[str, int], lora_rank: int | None) -> torch.nn.Module:
    if family == "regression":
        return MLP(MLPConfig(**model))
    if family == "bert":
        return BERT(BERTConfig(**model))
    gpt = GPT(GPTConfig(**model))
    return apply_lora(gpt, lora_rank) if lora_rank else gpt


@dataclass(frozen=True)
class Step:
    """A training step of one shape, on paper and for real."""

    family: str
    model: dict[str, int]
    batch: int
    sequence: int
    masked: int | None = None
    lora_rank: int | None = None

    def arguments(self) -> dict[str, Any]:
        return dict(vars(self))

    def network(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return build(self.family, self.model, self.lora_rank)

    def inputs(self) -> tuple[torch.Tensor | None, ...]:
        B, T, model = self.batch, self.sequence, self.model
        if self.family == "regression":
            return torch.randn(B, model["d_in"]), torch.randn(B, model["d_out"])
        tokens_BT, targets_BT = torch.randint(model["vocab_size"], (2, B, T))
        if self.family != "bert":
            return tokens_BT, targets_BT
        positions_BK = torch.stack([torch.randperm(T)[: self.masked or T] for _ in range(B)])
        next_B = torch.randint(2, (B,)) if model.get("nsp") else None
        return tokens_BT, torch.randint(2, (B, T)), positions_BK, targets_BT.gather(1, positions_BK), next_B


# Odd shapes, so that no two numbers of a formula can be mistaken for each other.
GPT_MODEL = {"vocab_size": 1000, "n_positions": 80, "n_layer": 3, "n_head": 4, "d_model": 48}
BERT_MODEL = GPT_MODEL | {"d_ff": 160, "n_segments": 2}
STEPS = [
    pytest.param(step, id=name)
    for name, step in {
        "line": Step("regression", {"d_in": 1, "d_hidden": 0, "n_hidden": 0, "d_out": 1}, 16, 1),
        "mlp": Step("regression", {"d_in": 7, "d_hidden": 64, "n_hidden": 3, "d_out": 3}, 16, 1),
        "gpt": Step("gpt", GPT_MODEL, 4, 56),
        "gpt-one-layer": Step("gpt", GPT_MODEL | {"n_layer": 1}, 3, 40),
        "lora": Step("lora", GPT_MODEL, 4, 56, lora_rank=5),
        "lora-one-layer": Step("lora", GPT_MODEL | {"n_layer": 1}, 3, 40, lora_rank=2),
        "bert": Step("bert", BERT_MODEL, 4, 56, masked=9),
        "bert-all-masked": Step("bert", BERT_MODEL, 4, 56),
        "bert-nsp": Step("bert", BERT_MODEL | {"nsp": True}, 4, 56, masked=9),
    }.items()
]


def count(network: torch.nn.Module) -> tuple[int, int]:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


@pytest.mark.parametrize("step", STEPS)
def test_parameters(step: Step) -> None:
    assert parameters(step.family, step.model, step.lora_rank) == count(step.network())


@pytest.mark.parametrize("name", WORKLOADS)
def test_parameters_of_every_workload(name: str) -> None:
    family, model = WORKLOADS[name].family.name, WORKLOADS[name].size.model
    rank = 8 if family == "lora" else None
    for variant in [model, model | {"nsp": True}] if family == "bert" else [model]:
        with torch.device("meta"):
            assert parameters(family, variant, rank) == count(build(family, variant, rank))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # transformers' parameter counts of openai-community/gpt2, -medium, -large, -xl
        ("gpt-124m", 124_439_808),
        ("gpt-355m", 354_823_168),
        ("gpt-774m", 774_030_080),
        ("gpt-1.5b", 1_557_611_200),
    ],
)
def test_gpt2_has_its_published_size_and_the_padding(name: str, published: int) -> None:
    model = WORKLOADS[name].size.model
    assert parameters("gpt", model)[0] == published + (50304 - 50257) * model["d_model"]


def test_both_sides_pad_the_vocabulary_alike() -> None:
    assert [padded_vocabulary(size) for size in range(1, 300)] == [padded(size) for size in range(1, 300)]


@pytest.mark.parametrize("step", STEPS)
def test_flops_are_those_that_torch_counts(step: Step) -> None:
    network, inputs = step.network(), step.inputs()
    # FlopCounterMode has no formula for the fused attention of the CPU and counts it as 0; plain products it counts.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(*inputs).backward()
    assert flops_per_step(**step.arguments()) == counter.get_total_flops()


def test_flops_of_gpt2_are_six_for_each_weight_and_twelve_for_attention() -> None:
    model, B, T, d, layers = WORKLOADS["gpt-124m"].size.model, 2, 1024, 768, 12
    weights = layers * 12 * d**2 + 50304 * d
    assert flops_per_step("gpt", model, B, T) == B * T * (6 * weights + 12 * layers * d * T)


def test_lora_costs_about_two_thirds_of_full_training() -> None:
    model = WORKLOADS["gpt-124m"].size.model
    ratio = flops_per_step("lora", model, 2, 128, lora_rank=8) / flops_per_step("gpt", model, 2, 128)
    assert 0.66 < ratio < 0.70


def saved_bytes(network: torch.nn.Module, inputs: tuple[torch.Tensor | None, ...]) -> int:
    """Bytes of all storages that autograd keeps for the backward pass, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(*inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("step", STEPS)
def test_activations_are_what_autograd_keeps(step: Step, bf16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        kept = saved_bytes(step.network(), step.inputs())
    assert memory_bytes(**step.arguments(), bf16=bf16)["activations"] == pytest.approx(kept, rel=0.02)


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors held at once, starting from ``held``."""

    def __init__(self, held: list[torch.Tensor]) -> None:
        super().__init__()
        self.alive = WeakIdKeyDictionary()
        self.peak = 0
        self.note(held)

    def note(self, tensors: list[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                self.alive[tensor.untyped_storage()] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self.alive.values()))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.note(tree_leaves(result))
        return result


SMALL = {"vocab_size": 2000, "n_positions": 128, "n_layer": 4, "n_head": 4, "d_model": 128}


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Step("gpt", SMALL, 4, 128), id="gpt-activations-dominate"),
        pytest.param(Step("gpt", SMALL, 1, 16), id="gpt-gradients-dominate"),
        pytest.param(Step("lora", SMALL, 4, 128, lora_rank=8), id="lora"),
        pytest.param(Step("bert", SMALL | {"d_ff": 512, "n_segments": 2}, 4, 128, masked=19), id="bert"),
    ],
)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_total_is_the_peak_of_a_step(step: Step, bf16: bool) -> None:
    network, inputs = step.network(), step.inputs()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], fused=True)

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(*inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    train()  # makes the moments
    moments = [tensor for state in optimizer.state.values() for tensor in state.values()]
    with PeakBytes([*network.parameters(), *moments]) as tracker:
        train()
    assert memory_bytes(**step.arguments(), bf16=bf16)["total"] == pytest.approx(tracker.peak, rel=0.15)


def test_the_parts_of_the_estimate() -> None:
    estimate = memory_bytes("lora", SMALL, 4, 128, lora_rank=8)
    total, trainable = parameters("lora", SMALL, 8)
    assert estimate["weights"] == 4 * total
    assert estimate["gradients"] == 4 * trainable
    assert estimate["optimizer"] == 8 * trainable


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("vision", GPT_MODEL, 1, 8), "unknown family 'vision'"),
        (("lora", GPT_MODEL, 1, 8), "the family lora needs a rank"),
        (("gpt", GPT_MODEL, 1, None), "the family gpt needs a sequence length"),
    ],
)
def test_what_has_no_cost_is_refused(arguments: tuple[Any, ...], reason: str) -> None:
    for cost in (flops_per_step, memory_bytes):
        with pytest.raises(ValueError, match=reason):
            cost(*arguments)
