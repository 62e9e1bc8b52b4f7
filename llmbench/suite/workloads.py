"""What can be trained: families of workloads and their named sizes. The training itself is in ``llmbench/worker``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmbench.errors import UserError, nearest

Unit = Literal["tokens/s", "samples/s"]
Tokenizer = Literal["bpe", "wordpiece"]
Objective = Literal["regression", "causal", "masked", "own"]


@dataclass(frozen=True)
class Size:
    """One named size of a family.

    Attributes:
        model: the model's configuration, as the worker's config dataclass takes it. Of a model that is not ours:
            ``vocab_size``, the most that the tokenizer may have, and ``n_positions``, the longest sequence.
        settings: defaults of the suite settings that depend on the size.
    """

    model: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Workloads of one objective.

    Attributes:
        tokenizer: the kind that cuts the text, or None for a workload without text.
        objective: what is learned; ``masked`` has a number of masked words in each sequence, and may have NSP.
        models: whose model it is: llmbench's, one of the hf libraries, or the user's. Some modes are made for ours.
        peer_of: the family that trains the same on the same data with a model of ours.
        base: it adapts a model that another job has trained before.
        preload: modules that the server of the target imports once, so that no case waits for them.
    """

    name: str
    title: str
    unit: Unit
    tokenizer: Tokenizer | None
    sizes: dict[str, Size] = field(default_factory=dict)
    objective: Objective = "own"
    models: Literal["own", "hf", "foreign"] = "own"
    peer_of: str | None = None
    base: bool = False
    preload: tuple[str, ...] = ()

    @property
    def smallest(self) -> str:
        return f"{self.name}-{next(iter(self.sizes))}"

    @property
    def vocabulary_head(self) -> bool:
        """Whether the model ends in our head over the vocabulary, which can work in chunks."""
        return self.models == "own" and self.tokenizer is not None


@dataclass(frozen=True)
class Workload:
    """A family at one size, e.g. ``gpt-tiny``, or a foreign one.

    Attributes:
        foreign: of a workload that is not built in, what its cases keep as ``config["foreign"]``; see ``foreign()``.
    """

    name: str
    family: Family
    size: Size
    foreign: dict[str, Any] | None = None


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
    "tiny": Size(_gpt(1024, 128, 2, 4, 128), _text(8, 128, 3e-3)),
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

_TRANSFORMERS = "transformers.models.{0}.modeling_{0}"

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "regression",
            "y = 3x + noise by mean squared error",
            "samples/s",
            None,
            _REGRESSION_SIZES,
            objective="regression",
        ),
        Family("bert", "BERT encoder, masked language model", "tokens/s", "wordpiece", _BERT_SIZES, objective="masked"),
        Family("gpt", "GPT-2 decoder, language model", "tokens/s", "bpe", _GPT_SIZES, objective="causal"),
        Family(
            "lora",
            "GPT-2 trained on one text, adapted to another by low-rank updates",
            "tokens/s",
            "bpe",
            _GPT_SIZES,
            objective="causal",
            base=True,
        ),
        Family(
            "hf-bert",
            "the same as bert, with transformers' BertForMaskedLM",
            "tokens/s",
            "wordpiece",
            _BERT_SIZES,
            objective="masked",
            models="hf",
            peer_of="bert",
            preload=(_TRANSFORMERS.format("bert"),),
        ),
        Family(
            "hf-gpt2",
            "the same as gpt, with transformers' GPT2LMHeadModel",
            "tokens/s",
            "bpe",
            _GPT_SIZES,
            objective="causal",
            models="hf",
            peer_of="gpt",
            preload=(_TRANSFORMERS.format("gpt2"),),
        ),
        Family(
            "peft-lora",
            "the same as lora, with peft on transformers' GPT2LMHeadModel",
            "tokens/s",
            "bpe",
            _GPT_SIZES,
            objective="causal",
            models="hf",
            peer_of="lora",
            base=True,
            preload=(_TRANSFORMERS.format("gpt2"), "peft"),
        ),
    )
}

WORKLOADS: dict[str, Workload] = {
    f"{family.name}-{size}": Workload(f"{family.name}-{size}", family, values)
    for family in FAMILIES.values()
    for size, values in family.sizes.items()
}

Lookup = Callable[[str], Workload]
"""Finds a workload by its name, built in or foreign. Raises: UserError: there is none."""

HF = "hf"
"""Family of the workloads ``hf:CONFIG_DIR``."""
OWN = "own"
"""Family of the users' own workloads: ``module:attribute``, or the name of an entry point."""


def workload(name: str) -> Workload:
    """A workload that is built in.

    Raises:
        UserError: there is no such workload; the nearest names are suggested.
    """
    try:
        return WORKLOADS[name]
    except KeyError:
        raise UserError(f"unknown workload {name!r}", nearest(name, WORKLOADS)) from None


def foreign(name: str, size: Size, about: Mapping[str, Any]) -> Workload:
    """A workload that is not built in.

    Args:
        name: as it stands in the ids of cases.
        about: ``family`` (``HF`` or ``OWN``), ``title``, ``unit``, ``tokenizer``, ``objective``, ``parameters`` (total,
            or None if unknown), and what the worker needs to build it (``source`` or ``hf``). It is kept with the
            configuration of each case, so that a run is told, resumed and compared without asking again.
    """
    return Workload(name, _foreign_family(about), size, dict(about))


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a case by its configuration."""
    about = config.get("foreign")
    return _foreign_family(about) if about else FAMILIES[config["family"]]


def _foreign_family(about: Mapping[str, Any]) -> Family:
    return Family(
        about["family"],
        about["title"],
        about["unit"],
        about["tokenizer"],
        objective=about["objective"],
        models="hf" if about["family"] == HF else "foreign",
    )


def peer_name(name: str) -> str | None:
    """Our workload that is the same as a peer's: ``hf-gpt2-tiny`` → ``gpt-tiny``; None if it is no peer's."""
    known = WORKLOADS.get(name)
    if known is None or known.family.peer_of is None:
        return None
    return known.family.peer_of + name.removeprefix(known.family.name)
