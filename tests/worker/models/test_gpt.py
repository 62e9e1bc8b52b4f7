from __future__ import annotations

import math

import pytest
import torch

from llmbench.worker.models.gpt import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=100, n_positions=32, n_layer=2, n_head=4, d_model=48)


def model(config: GPTConfig = CONFIG) -> GPT:
    torch.manual_seed(0)
    return GPT(config)


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(100, (3, 32), generator=torch.Generator().manual_seed(seed))


def test_a_later_token_does_not_change_earlier_logits() -> None:
    gpt, tokens_BT = model(), tokens()
    changed_BT = tokens_BT.clone()
    changed_BT[:, 20] = (changed_BT[:, 20] + 1) % 100
    before_BTV, after_BTV = gpt(tokens_BT), gpt(changed_BT)
    torch.testing.assert_close(after_BTV[:, :20], before_BTV[:, :20], rtol=0, atol=1e-6)
    assert ((after_BTV - before_BTV)[:, 20:].abs().amax(dim=-1) > 1e-6).all()


def test_the_loss_is_the_mean_cross_entropy_of_the_logits() -> None:
    gpt, inputs_BT, targets_BT = model(), tokens(1), tokens(2)
    log_probabilities_BTV = gpt(inputs_BT).log_softmax(dim=-1)
    expected = -log_probabilities_BTV.gather(2, targets_BT.unsqueeze(2)).mean()
    torch.testing.assert_close(gpt(inputs_BT, targets_BT), expected)


def test_an_untrained_model_knows_nothing() -> None:
    assert model()(tokens(1), tokens(2)).item() == pytest.approx(math.log(100), abs=0.1)


def test_initial_weights_are_gpt2s() -> None:
    gpt = model(GPTConfig(vocab_size=1000, n_positions=200, n_layer=4, n_head=4, d_model=128))
    for name, parameter in gpt.named_parameters():
        if "norm.weight" in name:
            assert (parameter == 1).all()
        elif "bias" in name:
            assert (parameter == 0).all()
        else:
            std = 0.02 / math.sqrt(8) if "proj" in name else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name


def test_a_seed_gives_the_same_training_bit_for_bit() -> None:
    def gradients() -> list[torch.Tensor]:
        gpt = model()
        gpt(tokens(1), tokens(2)).backward()
        return [parameter.grad for parameter in gpt.parameters()]

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


def test_it_learns_a_repeating_sequence() -> None:
    gpt = model()
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=3e-3)
    sequence_BT = (torch.arange(33) % 7).expand(4, -1)
    losses = []
    for _ in range(30):
        loss = gpt(sequence_BT[:, :-1], sequence_BT[:, 1:])
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.2 * losses[0]


def test_every_parameter_is_trained() -> None:
    gpt = model()
    gpt(tokens(1), tokens(2)).backward()
    assert all(parameter.grad is not None for parameter in gpt.parameters())


@pytest.mark.parametrize(
    ("precision", "loss_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_the_loss_is_in_fp32_or_wider(precision: torch.dtype, loss_dtype: torch.dtype) -> None:
    loss = model().to(precision)(tokens(1), tokens(2))
    assert loss.dtype == loss_dtype
    assert loss.item() == pytest.approx(model()(tokens(1), tokens(2)).item(), rel=0.01)


def test_autocast_keeps_the_loss_in_fp32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model()(tokens(1), tokens(2))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model()(tokens(1), tokens(2)).item(), rel=0.01)


def test_a_compiler_sees_one_graph() -> None:
    gpt = model()
    compiled = torch.compile(gpt, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens(1), tokens(2)), gpt(tokens(1), tokens(2)))


def test_a_sequence_longer_than_the_model_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"size of tensor a \(33\) must match"):
        model()(torch.zeros(1, 33, dtype=torch.long))
