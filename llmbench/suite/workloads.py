"""What can be trained: families of workloads and their named sizes. The training itself is in ``llmbench/worker``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from llmbench.errors import UserError, nearest


@dataclass(frozen=True)
class Size:
    """One named size of a family.

    Attributes:
        model: the model's configuration, as the worker's config dataclass takes it.
        settings: defaults of the suite settings that depend on the size.
    """

    model: dict[str, int]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Workloads of one objective.

    Attributes:
        tokenizer: the kind that cuts the text, or None for a workload without text.
        smallest: the size that suites of quick checks use.
    """

    name: str
    title: str
    unit: Literal["tokens/s", "samples/s"]
    tokenizer: Literal["bpe", "wordpiece"] | None
    sizes: dict[str, Size] = field(default_factory=dict)

    @property
    def smallest(self) -> str:
        return f"{self.name}-{next(iter(self.sizes))}"


@dataclass(frozen=True)
class Workload:
    """A family at one size, e.g. ``gpt-tiny``."""

    name: str
    family: Family
    size: Size


def _gpt(vocab_size: int, n_positions: int, n_layer: int, n_head: int, d_model: int) -> dict[str, int]:
    return {
        "vocab_size": vocab_size,
        "n_positions": n_positions,
        "n_layer": n_layer,
        "n_head": n_head,
        "d_model": d_model,
    }


def _bert(vocab_size: int, n_positions: int, n_layer: int, n_head: int, d_model: int) -> dict[str, int]:
    return _gpt(vocab_size, n_positions, n_layer, n_head, d_model) | {"d_ff": 4 * d_model, "n_segments": 2}


def _text(micro_batch_size: int, sequence_length: int, learning_rate: float) -> dict[str, Any]:
    return {
        "micro_batch_size": micro_batch_size,
        "sequence_length": sequence_length,
        "learning_rate": learning_rate,
    }


# Layers, heads and widths from 124m up: GPT-2 (Radford et al. 2019, table 2). Their learning rates: GPT-3, table 2.1.
_GPT_SIZES = {
    "tiny": Size(_gpt(1024, 128, 2, 4, 128), _text(8, 128, 4e-3)),
    "small": Size(_gpt(8192, 256, 6, 6, 384), _text(16, 256, 1e-3)),
    "124m": Size(_gpt(50257, 1024, 12, 12, 768), _text(16, 1024, 6e-4)),
    "355m": Size(_gpt(50257, 1024, 24, 16, 1024), _text(8, 1024, 3e-4)),
    "774m": Size(_gpt(50257, 1024, 36, 20, 1280), _text(4, 1024, 2.5e-4)),
    "1.5b": Size(_gpt(50257, 1024, 48, 25, 1600), _text(2, 1024, 2e-4)),
}

# base and large: Devlin et al. 2019; tiny (here with more heads) and small: Turc et al. 2019.
_BERT_SIZES = {
    "tiny": Size(_bert(1024, 128, 2, 4, 128), _text(8, 128, 1.5e-3)),
    "small": Size(_bert(8192, 128, 4, 8, 512), _text(16, 128, 1e-3)),
    "base": Size(_bert(30522, 512, 12, 12, 768), _text(16, 512, 1e-4)),
    "large": Size(_bert(30522, 512, 24, 16, 1024), _text(8, 512, 1e-4)),
}

_REGRESSION_SIZES = {
    "linear": Size(
        {"d_in": 1, "d_hidden": 0, "n_hidden": 0, "d_out": 1},
        {"micro_batch_size": 256, "learning_rate": 0.1},
    ),
    "mlp": Size(
        {"d_in": 64, "d_hidden": 512, "n_hidden": 2, "d_out": 1},
        {"micro_batch_size": 1024, "learning_rate": 1e-3},
    ),
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("regression", "y = 3x + noise by mean squared error", "samples/s", None, _REGRESSION_SIZES),
        Family("bert", "BERT encoder, masked language model", "tokens/s", "wordpiece", _BERT_SIZES),
        Family("gpt", "GPT-2 decoder, language model", "tokens/s", "bpe", _GPT_SIZES),
        Family(
            "lora",
            "GPT-2 trained on one text, adapted to another by low-rank updates",
            "tokens/s",
            "bpe",
            _GPT_SIZES,
        ),
    )
}

WORKLOADS: dict[str, Workload] = {
    f"{family.name}-{size}": Workload(f"{family.name}-{size}", family, values)
    for family in FAMILIES.values()
    for size, values in family.sizes.items()
}


def workload(name: str) -> Workload:
    """Raises: UserError: there is no such workload; the nearest names are suggested."""
    try:
        return WORKLOADS[name]
    except KeyError:
        raise UserError(f"unknown workload {name!r}", nearest(name, WORKLOADS)) from None
