"""What each ingredient does to a training in one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmbench.worker.measure.memory import ActivationMeter
from llmbench.worker.models.attention import SDPA
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.models.mlp import MLP, MLPConfig
from llmbench.worker.models.vocabulary import TiedHead
from llmbench.worker.modes import Execution, apply, offload
from llmbench.worker.modes.attention import Flex, apply_attention, block_mask
from llmbench.worker.modes.chunked import FEWEST_CHUNKS, MOST_ROWS, ChunkedHead, chunk_rows
from llmbench.worker.modes.compile import before_forward, keep_gradients
from llmbench.worker.modes.precision import cast
from tests.worker.conftest import MODELS

from .conftest import STEPS, Case, Train
from .test_parallel import assert_near, assert_same
from .training import CPU, Tensors, prepared, train

ONCE = {"grad_accum": 1, "sequence_length": 16}
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**MODELS["gpt"]))


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(MODELS["gpt"]["vocab_size"], (rows, 17), generator=generator)
    return tokens_BT[:, :-1], tokens_BT[:, 1:]


def in_mode(*mode: str, model: nn.Module | None = None, **config: Any) -> Execution:
    return apply(cast(model or gpt(), list(mode)), list(mode), CPU, ONCE | config)


class Operators(TorchDispatchMode):
    """Remembers what torch computes: (operator, dtype and size of its result)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, torch.dtype, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        first = made[0] if isinstance(made, tuple) else made
        if isinstance(first, Tensor):
            self.seen.append((func, first.dtype, first.numel()))
        return made

    def dtypes(self, operators: set[Any]) -> set[torch.dtype]:
        return {dtype for operator, dtype, _ in self.seen if operator in operators}


@contextmanager
def watched() -> Iterator[Operators]:
    with Operators() as operators:
        yield operators


def gradients(model: nn.Module) -> Tensors:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def plain_gradients() -> Tensors:
    model = gpt()
    model(*batch()).backward()
    return gradients(model)


# Precision


def test_eager_changes_nothing() -> None:
    model = gpt()
    modules = list(model.modules())
    execution = in_mode(model=model)
    assert execution.model is model
    assert list(model.modules()) == modules
    assert not execution.scaler.is_enabled()
    with watched() as operators:
        loss = execution.gradients(batch())
    assert operators.dtypes(PRODUCTS) == {torch.float32}
    assert loss.item() == model(*batch()).item()
    assert_same(gradients(model), plain_gradients())


@pytest.mark.parametrize(("mode", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_halves_the_products_and_not_the_weights(mode: str, dtype: torch.dtype) -> None:
    execution = in_mode(mode)
    with watched() as operators:
        loss = execution.gradients(batch())
    assert operators.dtypes(PRODUCTS) == {dtype}
    assert operators.dtypes({FLASH}) == {dtype}
    assert loss.dtype == torch.float32
    assert {each.dtype for each in execution.model.parameters()} == {torch.float32}
    assert {each.grad.dtype for each in execution.model.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_bf16_params_halves_everything_but_the_loss(case: Case) -> None:
    trainer, execution, _ = prepared(case("gpt", "bf16-params"))
    with watched() as operators:
        trainer.compute_gradients()
    assert operators.dtypes(PRODUCTS) == {torch.bfloat16}
    assert trainer.losses.dtype == torch.float32
    assert {each.grad.dtype for each in execution.model.parameters()} == {torch.bfloat16}
    trainer.update()
    assert {each.dtype for each in execution.model.parameters()} == {torch.bfloat16}
    moments = [value for state in trainer.optimizer.state.values() for value in state.values() if value.dim()]
    assert {moment.dtype for moment in moments} == {torch.bfloat16}


def test_only_fp16_scales_its_loss() -> None:
    scaled = in_mode("fp16")
    scaled.gradients(batch())
    scale = scaled.scaler.get_scale()
    assert scale == 2.0**16
    near = {name: scale * gradient for name, gradient in plain_gradients().items()}
    for name, gradient in gradients(scaled.model).items():
        torch.testing.assert_close(gradient, near[name], rtol=0.1, atol=0.02 * near[name].abs().max().item())
    assert not in_mode("bf16").scaler.is_enabled()


def test_fp16_finds_a_scale_at_which_the_first_step_counts(case: Case) -> None:
    changes = {"model": {"d_hidden": 0, "n_hidden": 0}}  # of a loss around nine: 65536 times its gradient overflows
    trainer, execution, _ = prepared(case("regression", "fp16", **changes))
    before = {name: weight.detach().clone() for name, weight in execution.model.named_parameters()}
    trainer.compute_gradients()
    assert 1 <= execution.scaler.get_scale() < 2.0**16
    assert all(each.grad.isfinite().all() for each in execution.model.parameters())
    trainer.update()
    assert all(not torch.equal(weight, before[name]) for name, weight in execution.model.named_parameters())
    assert train(case("regression", "fp16", **changes), 1).parity["passed"]


class Infinite(nn.Module):
    """A loss that no scale makes finite, as its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
        self.calls = 0

    def forward(self, x_2: Tensor) -> Tensor:
        self.calls += 1
        return (self.w * x_2).sum().sqrt()


def test_a_gradient_that_no_scale_saves_is_left_to_be_judged() -> None:
    model = Infinite()
    execution = in_mode("fp16", model=model)
    execution.gradients((torch.ones(2),))
    assert not model.w.grad.isfinite().all()
    assert (model.calls, execution.scaler.get_scale()) == (17, 1.0)
    execution.gradients((torch.ones(2),))
    assert model.calls == 18  # only the first step is tried again


# Optimizer and accumulation


@pytest.mark.parametrize(("mode", "fused"), [("eager", None), ("fused", True)])
def test_fused_is_the_optimizer_s(mode: str, fused: bool | None, case: Case, eager: Train) -> None:
    trainer, _, _ = prepared(case("gpt", mode))
    assert {group["fused"] for group in trainer.optimizer.param_groups} == {fused}
    assert_near(train(case("gpt", mode), STEPS).weights, eager("gpt").weights)


def test_accum4_runs_a_quarter_of_the_batch_four_times(case: Case) -> None:
    trainer, execution, _ = prepared(case("gpt", "accum4"))
    shapes = []
    execution.model.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    trainer.compute_gradients()
    assert shapes == [(2, 16)] * 4


# Recomputation


def test_checkpointing_keeps_less_and_gives_bitwise_the_same_gradients() -> None:
    kept, found = {}, {}
    for mode in ((), ("sac",), ("ac",)):
        execution = in_mode(*mode, model=GPT(GPTConfig(**MODELS["gpt"] | {"n_layer": 4})))
        torch.manual_seed(0)
        for parameter in execution.model.parameters():
            nn.init.normal_(parameter, std=0.02)
        meter = ActivationMeter(execution.model, CPU)
        execution.gradients.watch = meter.forward
        execution.gradients(batch())
        kept["+".join(mode)], found["+".join(mode)] = meter.bytes, gradients(execution.model)
    assert kept["ac"] < 0.6 * kept["sac"] < 0.6 * kept[""]
    assert_same(found["ac"], found[""])
    assert_same(found["sac"], found[""])


def test_sac_computes_no_product_twice_and_ac_all_of_them() -> None:
    counts = {}
    for mode in ((), ("sac",), ("ac",)):
        execution = in_mode(*mode)
        with watched() as operators:
            execution.gradients(batch())
        counts["+".join(mode)] = sum(operator in PRODUCTS | {FLASH} for operator, _, _ in operators.seen)
    assert counts["sac"] == counts[""]
    assert counts["ac"] == counts[""] + 2 * 5 - 2  # of each block qkv, flash, proj and fc; nobody asks for the last


# The head


def largest(*mode: str) -> int:
    """Elements of the largest tensor that a step makes."""
    execution = in_mode(*mode, model=wide())
    with watched() as operators:
        execution.gradients(batch(32))
    return max(size for _, _, size in operators.seen)


def wide() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(**MODELS["gpt"] | {"vocab_size": 1000}))


def test_chunked_ce_never_has_all_logits() -> None:
    rows, padded = 32 * 16, 1024
    assert largest() == rows * padded
    assert largest("chunked-ce") == chunk_rows(rows) * padded == rows * padded // FEWEST_CHUNKS


def test_chunked_ce_is_the_same_loss_with_the_same_gradients() -> None:
    plain, chunked = in_mode(), in_mode("chunked-ce")
    assert plain.gradients(batch()).item() == pytest.approx(chunked.gradients(batch()).item(), rel=1e-6)
    for name, gradient in gradients(plain.model).items():
        torch.testing.assert_close(gradients(chunked.model)[name], gradient, rtol=1e-5, atol=1e-7)


def test_a_chunked_head_leaves_out_what_has_no_label_and_has_the_bias() -> None:
    head = TiedHead(90, bias=True)
    nn.init.normal_(head.bias)
    embedding_PD, x_BTD = torch.randn(128, 8), torch.randn(3, 7, 8)
    targets_BT = torch.randint(90, (3, 7))
    targets_BT[0] = -100
    chunked = ChunkedHead.of(head)
    assert chunked.bias is head.bias
    torch.testing.assert_close(chunked(x_BTD, embedding_PD, targets_BT), head(x_BTD, embedding_PD, targets_BT))
    assert torch.equal(chunked(x_BTD, embedding_PD), head(x_BTD, embedding_PD))  # logits are not chunked


@pytest.mark.parametrize(("rows", "chunk"), [(1, 1), (4, 1), (10, 3), (4096, 1024), (100_000, MOST_ROWS)])
def test_chunks_are_four_or_more_and_no_smaller_than_they_need_be(rows: int, chunk: int) -> None:
    assert chunk_rows(rows) == chunk


# Attention


@pytest.mark.parametrize(("mode", "flash"), [("sdpa-math", False), ("sdpa-flash", True)])
def test_the_kernel_is_the_one_that_was_chosen(mode: str, flash: bool) -> None:
    execution = in_mode(mode)
    with watched() as operators:
        execution.gradients(batch())
    found = {operator for operator, _, _ in operators.seen}
    assert (FLASH in found) is flash
    assert (torch.ops.aten.bmm.default in found) is not flash
    for name, gradient in plain_gradients().items():
        torch.testing.assert_close(gradients(execution.model)[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_flex_takes_the_place_of_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", lambda function: function)  # it need not be fast here
        model = apply_attention(gpt(), ["flex"], CPU, 16)
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(Flex), kinds.count(SDPA)) == (2, 0)
    with torch.no_grad():
        torch.testing.assert_close(model(*batch()), gpt()(*batch()))


def test_what_sees_everything_has_no_mask() -> None:
    assert block_mask(causal=False, length=16, device=CPU) is None
    assert block_mask(causal=True, length=16, device=CPU).shape == (1, 1, 16, 16)


# Offloading: the hooks work on any device, though only CUDA's memory is worth it


def test_offloading_moves_activations_and_leaves_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Tensor] = []
    real = offload.to_host
    monkeypatch.setattr(offload, "to_host", lambda tensor: moved.append(tensor) or real(tensor))
    model = gpt()
    with offload.offloading(nullcontext, model)():
        loss = model(*batch())
    loss.backward()
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    assert len(moved) > 20
    assert not weights & {tensor.untyped_storage().data_ptr() for tensor in moved}
    assert_same(gradients(model), plain_gradients())


def test_a_copy_on_the_host_is_a_copy() -> None:
    tensor = torch.randn(3, 4).t()
    host = offload.to_host(tensor)
    assert torch.equal(host, tensor)
    assert host.data_ptr() != tensor.data_ptr()


# Compiling: what is asked for


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[nn.Module, str | None]]:
    """The modules that are asked to be compiled and how, on a machine that could."""
    monkeypatch.setattr("llmbench.worker.modes.compile.missing_tool", lambda device: None)
    asked: list[tuple[nn.Module, str | None]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, mode: asked.append((module, mode)))
    return asked


Asked = list[tuple[nn.Module, str | None]]


@pytest.mark.parametrize(("part", "how"), [("compile", None), ("max-autotune", "max-autotune")])
def test_compile_is_of_the_whole_model(part: str, how: str | None, compiled: Asked) -> None:
    model = in_mode(part).model
    assert compiled == [(model, how)]


def test_compile_blocks_is_of_each_block(compiled: Asked) -> None:
    model = in_mode("compile-blocks").model
    assert compiled == [(block, None) for block in model.blocks]


def test_a_model_without_blocks_is_compiled_whole(compiled: Asked) -> None:
    line = MLP(MLPConfig(d_in=1, d_hidden=0, n_hidden=0, d_out=1))
    in_mode("compile-blocks", model=line)
    assert compiled == [(line, None)]


class Graph(torch.autograd.Function):
    """Like a CUDA graph: it writes its gradient to the same place each time."""

    place = torch.zeros(3)

    @staticmethod
    def forward(ctx: Any, w_3: Tensor, value: float) -> Tensor:
        ctx.value = value
        return w_3.sum()

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return Graph.place.fill_(ctx.value).detach(), None


@pytest.mark.parametrize(("own", "total"), [(False, 20), (True, 11)])
def test_cuda_graphs_sum_gradients_in_a_place_of_their_own(own: bool, total: int) -> None:
    """Autograd takes a first gradient for the sum itself, which the graph then overwrites."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(3))])
    for value in (1.0, 10.0):
        if own:
            keep_gradients(model)
        Graph.apply(model[0], value).backward()
    assert model[0].grad.tolist() == [total] * 3


def test_what_is_frozen_gets_no_gradient() -> None:
    frozen = nn.ParameterList([nn.Parameter(torch.zeros(1), requires_grad=False)])
    keep_gradients(frozen)
    assert frozen[0].grad is None


def test_only_cuda_graphs_need_that() -> None:
    model = gpt()
    before_forward(model, ["max-autotune"], CPU, 4)()
    assert all(parameter.grad is None for parameter in model.parameters())
