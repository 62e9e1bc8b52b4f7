from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llmbench.worker.methods.lora import LoRALinear, apply_lora, merge_lora, trainable_fraction
from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.models.gpt import GPT, GPTConfig

V, T, D, LAYERS, RANK = 100, 32, 48, 2, 4


def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=V, n_positions=T, n_layer=LAYERS, n_head=4, d_model=D))


def tokens() -> torch.Tensor:
    return torch.randint(V, (3, T), generator=torch.Generator().manual_seed(1))


def adapted(model: nn.Module) -> nn.Module:
    """With LoRA that does something: B is not zero."""
    model = apply_lora(model, RANK)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.B, std=0.3)
    return model


def train(model: nn.Module, steps: int, learning_rate: float, stride: int) -> list[float]:
    """Losses on a sequence that goes round seven tokens by ``stride``."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.1)
    sequence_BT = (stride * torch.arange(T + 1) % 7).expand(4, -1)
    losses = []
    for _ in range(steps):
        loss = model(sequence_BT[:, :-1], sequence_BT[:, 1:])
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_at_first_nothing_changes() -> None:
    before = gpt()(tokens())
    assert torch.equal(apply_lora(gpt(), RANK)(tokens()), before)


def test_the_update_is_alpha_by_rank_times_b_a() -> None:
    torch.manual_seed(0)
    base = nn.Linear(8, 6)
    layer = LoRALinear(base, rank=2, alpha=6)
    nn.init.normal_(layer.B)
    x_BTI = torch.randn(5, 7, 8)
    expected = x_BTI @ (base.weight + 3 * layer.B @ layer.A).T + base.bias
    torch.testing.assert_close(layer(x_BTI), expected)
    torch.testing.assert_close(layer(x_BTI[0]), expected[0])
    torch.testing.assert_close(layer(x_BTI[0, 0]), expected[0, 0])


def test_alpha_is_twice_the_rank_unless_given() -> None:
    assert apply_lora(gpt(), 8).blocks[0].attention.qkv.scale == 2
    assert apply_lora(gpt(), 8, alpha=4).blocks[0].attention.qkv.scale == 0.5


def test_a_starts_as_in_the_paper_s_code() -> None:
    torch.manual_seed(0)
    A_RI = LoRALinear(nn.Linear(1000, 10), rank=16, alpha=16).A
    bound = 1 / math.sqrt(1000)  # Kaiming-uniform with a = √5
    assert bound * 0.99 < A_RI.abs().max() <= bound
    assert A_RI.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_attention_projections_are_adapted_and_nothing_else() -> None:
    names = [name for name, module in apply_lora(gpt(), RANK).named_modules() if isinstance(module, LoRALinear)]
    assert names == [f"blocks.{i}.attention.{name}" for i in range(LAYERS) for name in ("qkv", "proj")]


def test_only_a_and_b_get_gradients_and_change() -> None:
    model = adapted(gpt())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(tokens(), tokens()).backward()
    assert {name[-2:] for name, p in model.named_parameters() if p.grad is not None} == {".A", ".B"}
    model.zero_grad()
    train(model, steps=3, learning_rate=1e-2, stride=1)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(changed) == 2 * 2 * LAYERS


def test_a_trained_base_is_adapted_to_another_sequence() -> None:
    base = gpt()
    assert train(base, steps=30, learning_rate=3e-3, stride=1)[-1] < 1
    losses = train(apply_lora(base, RANK), steps=30, learning_rate=1e-2, stride=2)
    assert losses[0] > 2
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_merging_keeps_the_logits(dtype: torch.dtype, limit: float) -> None:
    model = adapted(gpt()).to(dtype)
    before = model(tokens())[..., :V]
    keys = set(gpt().state_dict())
    merged = merge_lora(model)
    after = merged(tokens())[..., :V]
    assert ((after - before).abs().max() / before.abs().max()).item() <= limit
    assert not torch.allclose(gpt().to(dtype)(tokens())[..., :V], after, atol=1e-2)  # there was something to merge
    assert set(merged.state_dict()) == keys


def test_merging_in_bf16_rounds_only_once() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(64, 64), rank=4, alpha=8)
    nn.init.normal_(layer.B)
    layer = layer.to(torch.bfloat16)
    exact = layer.base.weight.double() + 2 * layer.B.double() @ layer.A.double()
    assert torch.equal(layer.merged().weight, exact.to(torch.float32).to(torch.bfloat16))


def test_the_trainable_fraction() -> None:
    model = gpt()
    base = sum(parameter.numel() for parameter in model.parameters())
    assert trainable_fraction(model) == 1
    updates = LAYERS * RANK * ((D + 3 * D) + (D + D))
    assert trainable_fraction(apply_lora(model, RANK)) == updates / (base + updates)


def test_bert_can_be_adapted_too() -> None:
    config = BERTConfig(vocab_size=V, n_positions=T, n_layer=2, n_head=4, d_model=D, d_ff=160)
    model, segments_BT = adapted(BERT(config)), torch.zeros_like(tokens())
    before = model(tokens(), segments_BT)
    torch.testing.assert_close(merge_lora(model)(tokens(), segments_BT), before, rtol=1e-4, atol=1e-5)


def test_it_trains_under_autocast() -> None:
    model = adapted(gpt())
    reference = model(tokens(), tokens()).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens(), tokens())
    loss.backward()
    assert loss.item() == pytest.approx(reference, rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_a_compiler_sees_one_graph() -> None:
    model = adapted(gpt())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens(), tokens()), model(tokens(), tokens()))


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank of LoRA is 0"):
        apply_lora(gpt(), 0)
