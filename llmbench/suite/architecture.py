"""What the models that we know are made of: parameters, and matrix products of a pass through them.

Letters in formulas: B batch, T positions, K masked positions of a sequence (BERT), d ``d_model``, f ``d_ff`` (4 d in
GPT), h ``n_head``, V rows of the token embedding, r rank of LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

Model = Mapping[str, int]

FAMILIES = ("regression", "bert", "gpt", "lora", "hf-bert", "hf-gpt2", "peft-lora")
_BERT = ("bert", "hf-bert")
_LORA = ("lora", "peft-lora")
_PEERS = ("hf-bert", "hf-gpt2", "peft-lora")


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of our embedding: the next multiple of 64 (``llmbench/worker/models/vocabulary.py`` says why)."""
    return -(-vocab_size // 64) * 64


@dataclass(frozen=True)
class Architecture:
    """A family at one size.

    Raises:
        ValueError: an unknown family, or LoRA without a rank.
    """

    family: str
    model: Model
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown family {self.family!r}")
        if self.lora and not self.lora_rank:
            raise ValueError(f"the family {self.family} needs a rank")

    @property
    def text(self) -> bool:
        return self.family != "regression"

    @property
    def bert(self) -> bool:
        return self.family in _BERT

    @property
    def lora(self) -> bool:
        """Whether only updates of the attention projections are trained."""
        return self.family in _LORA

    @property
    def peer(self) -> bool:
        """Whether the model is that of transformers."""
        return self.family in _PEERS

    @property
    def layers(self) -> int:
        return self.model["n_layer"] if self.text else self.model["n_hidden"]

    @property
    def d(self) -> int:
        return self.model["d_model"]

    @property
    def width(self) -> int:
        """Of what goes from block to block."""
        return self.d if self.text else self.model["d_hidden"]

    @property
    def f(self) -> int:
        return self.model["d_ff"] if self.bert else 4 * self.d

    @property
    def rank(self) -> int:
        return self.lora_rank or 0

    @property
    def nsp(self) -> bool:
        return bool(self.model.get("nsp"))

    @property
    def vocabulary(self) -> int:
        """V: transformers has no rows beyond the vocabulary."""
        return self.model["vocab_size"] if self.peer else padded_vocabulary(self.model["vocab_size"])

    @property
    def widths(self) -> list[int]:
        """Of the layers of a perceptron, inputs first."""
        model = self.model
        return [model["d_in"], *[model["d_hidden"]] * model["n_hidden"], model["d_out"]]


@dataclass(frozen=True)
class Weights:
    """Numbers of parameters: all, and those that are trained."""

    total: int = 0
    trained: int = 0

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.total + other.total, self.trained + other.trained)


@dataclass(frozen=True)
class Parts:
    """The parameters of a model from its inputs to its outputs.

    Attributes:
        tied: the token embedding, which is the weight of the head too and counts once.
        embedding: the other embeddings, and BERT's norm over them.
    """

    tied: Weights
    embedding: Weights
    blocks: list[Weights]
    head: Weights

    @property
    def whole(self) -> Weights:
        return sum(self.blocks, self.tied + self.embedding + self.head)


def parts(model: Architecture, tensor_parallel: int = 1) -> Parts:
    """What one rank of ``tensor_parallel`` has: attention and MLP are split, LoRA's updates where their base is."""
    if not model.text:
        sizes = [Weights(size, size) for size in ((inner + 1) * outer for inner, outer in pairwise(model.widths))]
        return Parts(Weights(), Weights(), sizes[:-1], sizes[-1])
    d, f, shape = model.d, model.f, model.model
    tied = model.vocabulary * d
    embedding = shape["n_positions"] * d + (shape["n_segments"] * d + 2 * d if model.bert else 0)
    # The biases of qkv and of the MLP's first layer are split with their rows; two more and two norms are on each.
    attention, mlp = 4 * d**2 + 3 * d, 2 * d * f + f
    block = attention // tensor_parallel + mlp // tensor_parallel + 6 * d
    head = 2 * d
    if model.bert:
        head = d**2 + 3 * d + shape["vocab_size"] + (d**2 + 3 * d + 2 if model.nsp else 0)
    if model.lora:
        updates = 2 * model.rank * d + 4 * model.rank * d // tensor_parallel  # A of qkv and B of proj are whole
        block_weights = Weights(block + updates, updates)
        return Parts(Weights(tied), Weights(embedding), [block_weights] * model.layers, Weights(head))
    return Parts(
        Weights(tied, tied), Weights(embedding, embedding), [Weights(block, block)] * model.layers, Weights(head, head)
    )


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        batch: sequences (text) or samples (regression).
        sequence: positions of a sequence; ignored for regression.
        masked: BERT: masked positions of each sequence; None for all of them.

    Raises:
        ValueError: text without a sequence length.
    """

    architecture: Architecture
    batch: int
    sequence: int | None
    masked: int | None = None

    def __post_init__(self) -> None:
        if self.architecture.text and self.sequence is None:
            raise ValueError(f"the family {self.architecture.family} needs a sequence length")

    @property
    def length(self) -> int:
        return self.sequence or 1 if self.architecture.text else 1

    @property
    def rows(self) -> int:
        return self.batch * self.length

    @property
    def head_rows(self) -> int:
        """Positions that reach the head over the vocabulary: in our BERT the masked ones, in transformers' all."""
        ours = self.architecture.family == "bert"
        return self.batch * self.masked if ours and self.masked is not None else self.rows

    @property
    def logits(self) -> int:
        return self.head_rows * self.architecture.vocabulary if self.architecture.text else 0


@dataclass(frozen=True)
class Product:
    """A matrix product (rows × inner) · (inner × outer). Each gradient of a factor costs another product as large.

    Attributes:
        weight: whether the right factor is a weight (not so in attention, where both are activations).
        split: whether tensor parallelism splits that weight.
        right_gradient: whether the backward pass computes that of the right factor (not of a frozen weight).
        left_gradient: whether it computes that of the left factor (not where nothing below is trained).
    """

    rows: int
    inner: int
    outer: int
    weight: bool = True
    split: bool = False
    right_gradient: bool = True
    left_gradient: bool = True

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.outer * (1 + self.right_gradient + self.left_gradient)

    @property
    def copied(self) -> int:
        """Elements of the weight that autocast keeps a copy of, for the gradient of the left factor."""
        return self.inner * self.outer if self.weight and self.left_gradient else 0


def block_products(step: Pass, layer: int) -> Iterator[Product]:
    """The products of one block."""
    model, rows = step.architecture, step.rows
    if not model.text:
        yield Product(rows, model.widths[layer], model.widths[layer + 1], left_gradient=layer > 0)
        return
    d, f, lora = model.d, model.f, model.lora
    # With LoRA the first trained tensors are the updates of the first qkv: nothing needs a gradient below.
    below = not lora or layer > 0
    yield Product(rows, d, 3 * d, split=True, right_gradient=not lora, left_gradient=below)
    yield Product(rows, d, step.length, weight=False)  # queries · keys
    yield Product(rows, step.length, d, weight=False)  # probabilities · values
    yield Product(rows, d, d, split=True, right_gradient=not lora)
    yield Product(rows, d, f, split=True, right_gradient=not lora)
    yield Product(rows, f, d, split=True, right_gradient=not lora)
    if lora:
        yield Product(rows, d, model.rank, left_gradient=below)
        yield Product(rows, model.rank, 3 * d, split=True)
        yield Product(rows, d, model.rank, split=True)
        yield Product(rows, model.rank, d)


def head_products(step: Pass) -> Iterator[Product]:
    """The products after the last block."""
    model = step.architecture
    if not model.text:
        inner, outer = model.widths[-2:]
        yield Product(step.rows, inner, outer, left_gradient=model.layers > 0)
        return
    d = model.d
    if model.bert:
        yield Product(step.head_rows, d, d)
        if model.nsp:
            yield Product(step.batch, d, d)
            yield Product(step.batch, d, 2)
    yield Product(step.head_rows, d, model.vocabulary, right_gradient=not model.lora)
