"""What training costs on paper: parameters, FLOPs of a step, and memory, without importing torch.

The models are those of ``llmbench/worker/models``; the keys of a ``model`` dictionary are the fields of their
configurations. Letters in the formulas: B batch, T positions, K masked positions of a sequence (BERT), d ``d_model``,
f ``d_ff`` (4 d in GPT), h ``n_head``, V padded vocabulary, r rank of LoRA.

Families: ``regression`` (MLP), ``bert``, ``gpt``, and ``lora`` (a GPT of which only rank-r updates of the attention
projections are trained).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

FP32 = 4
BF16 = 2

Model = Mapping[str, int]


def padded_vocabulary(vocab_size: int) -> int:
    """Rows of the embedding: the next multiple of 64 (``llmbench/worker/models/vocabulary.py`` says why)."""
    return -(-vocab_size // 64) * 64


def parameters(family: str, model: Model, lora_rank: int | None = None) -> tuple[int, int]:
    """How many parameters there are, and how many of them are trained. A tied tensor counts once.

    GPT: V·d + n_positions·d + n_layer·(12 d² + 13 d) + 2 d; LoRA adds n_layer·6 r d, and trains only these.
    BERT: (V + n_positions + n_segments)·d + 2 d + n_layer·(4 d² + 2 d f + f + 9 d) for the encoder,
    d² + 3 d + vocab_size for the MLM head, and with NSP d² + 3 d + 2 more.

    Raises:
        ValueError: an unknown family, or ``lora`` without a rank.
    """
    _check(family, lora_rank)
    if family == "regression":
        widths = _widths(model)
        total = sum((inner + 1) * outer for inner, outer in pairwise(widths))
        return total, total
    d, layers = model["d_model"], model["n_layer"]
    embedding = (padded_vocabulary(model["vocab_size"]) + model["n_positions"]) * d
    if family == "bert":
        f = model["d_ff"]
        encoder = embedding + model["n_segments"] * d + 2 * d + layers * (4 * d**2 + 2 * d * f + f + 9 * d)
        heads = d**2 + 3 * d + model["vocab_size"] + (d**2 + 3 * d + 2 if model.get("nsp") else 0)
        return encoder + heads, encoder + heads
    base = embedding + layers * (12 * d**2 + 13 * d) + 2 * d
    if family == "lora":
        updates = layers * 6 * (lora_rank or 0) * d
        return base + updates, updates
    return base, base


@dataclass(frozen=True)
class Product:
    """A matrix product (rows × inner) · (inner × outer). Each gradient of a factor costs another product as large.

    Attributes:
        weight: whether the right factor is a weight (not so in attention, where both are activations).
        right_gradient: whether the backward pass computes that of the right factor (not of a frozen weight).
        left_gradient: whether it computes that of the left factor (not where nothing below is trained).
    """

    rows: int
    inner: int
    outer: int
    weight: bool = True
    right_gradient: bool = True
    left_gradient: bool = True

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.outer * (1 + self.right_gradient + self.left_gradient)


def flops_per_step(
    family: str,
    model: Model,
    batch: int,
    sequence: int | None,
    *,
    masked: int | None = None,
    lora_rank: int | None = None,
) -> float:
    """FLOPs of the matrix products of one training step, forward and backward; of m × k by k × n there are 2 m k n.

    This is "6 N + 12 L d T for a token" (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B) made exact for
    these models. Attention is the full T × T, not halved for the causal mask; the tied head is counted, lookups are
    not. Nor are pointwise operations, the optimizer, and what is computed again in the backward pass (by activation
    checkpointing, or inside a fused attention kernel). What is not computed does not count: weight gradients of frozen
    weights, gradients of inputs under which nothing is trained, and the MLM head at positions that are not masked.
    ``FlopCounterMode`` of torch counts the same on eager fp32 with attention as plain products: see
    ``tests/suite/test_costs.py``.

    Args:
        family: one of the four of this module.
        model: the configuration.
        batch: sequences (text) or samples (regression) of one step.
        sequence: positions of a sequence; ignored for regression.
        masked: BERT: masked positions of each sequence; None for all of them.
        lora_rank: of the family ``lora``.

    Raises:
        ValueError: an unknown family, ``lora`` without a rank, or text without a sequence length.
    """
    step = _Step(family, model, batch, sequence, masked, lora_rank)
    return float(sum(product.flops for product in _products(step)))


def memory_bytes(
    family: str,
    model: Model,
    batch: int,
    sequence: int | None,
    *,
    masked: int | None = None,
    lora_rank: int | None = None,
    bf16: bool = False,
) -> dict[str, int]:
    """Estimate of the memory that training in eager mode allocates, by kind.

    - weights: 4 bytes a parameter (fp32, in bf16 autocast too);
    - gradients: 4 bytes a trained parameter;
    - optimizer: 8 bytes a trained parameter, AdamW's two moments;
    - activations: what the forward pass keeps for the backward pass with a fused attention kernel (``_activations``);
    - temporary: the gradients of the log-probabilities and of the logits, which exist at once;
    - total: the peak, which is not the sum, because activations are freed while gradients appear: weights + optimizer +
      the larger of gradients and (activations + temporary). Not in it: the runtime itself (Python, torch, a CUDA
      context), workspaces of kernels, fragmentation, and gradients kept from one step to the next.

    Args:
        family: one of the four of this module.
        model: the configuration.
        batch: as in ``flops_per_step``.
        sequence: as there.
        masked: as there.
        lora_rank: as there.
        bf16: under bf16 autocast, which keeps the inputs of products in 2 bytes, and a copy of each weight besides.

    Raises:
        ValueError: as ``flops_per_step``.
    """
    total, trainable = parameters(family, model, lora_rank)
    step = _Step(family, model, batch, sequence, masked, lora_rank)
    activations = _activations(step, BF16 if bf16 else FP32)
    if bf16:
        activations += sum(BF16 * p.inner * p.outer for p in _products(step) if p.weight and p.left_gradient)
    weights, gradients, optimizer = FP32 * total, FP32 * trainable, 2 * FP32 * trainable
    temporary = 2 * FP32 * step.logits
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": activations,
        "temporary": temporary,
        "total": weights + optimizer + max(gradients, activations + temporary),
    }


@dataclass(frozen=True)
class _Step:
    """One training step: what ``flops_per_step`` is given, checked."""

    family: str
    model: Model
    batch: int
    sequence: int | None
    masked: int | None
    lora_rank: int | None

    def __post_init__(self) -> None:
        _check(self.family, self.lora_rank)
        if self.family != "regression" and self.sequence is None:
            raise ValueError(f"the family {self.family} needs a sequence length")

    @property
    def length(self) -> int:
        return 1 if self.family == "regression" else self.sequence or 0

    @property
    def rank(self) -> int:
        return self.lora_rank or 0

    @property
    def rows(self) -> int:
        return self.batch * self.length

    @property
    def head_rows(self) -> int:
        """Positions that reach the head over the vocabulary."""
        return self.rows if self.family != "bert" or self.masked is None else self.batch * self.masked

    @property
    def logits(self) -> int:
        return 0 if self.family == "regression" else self.head_rows * padded_vocabulary(self.model["vocab_size"])


def _products(step: _Step) -> Iterator[Product]:
    model, rows = step.model, step.rows
    if step.family == "regression":
        for layer, (inner, outer) in enumerate(pairwise(_widths(model))):
            yield Product(rows, inner, outer, left_gradient=layer > 0)
        return
    d = model["d_model"]
    f = model["d_ff"] if step.family == "bert" else 4 * d
    lora = step.family == "lora"
    for layer in range(model["n_layer"]):
        # With LoRA the first trained tensors are the updates of the first qkv: nothing needs a gradient below.
        below = not lora or layer > 0
        yield Product(rows, d, 3 * d, right_gradient=not lora, left_gradient=below)
        yield Product(rows, d, step.length, weight=False)  # queries · keys
        yield Product(rows, step.length, d, weight=False)  # probabilities · values
        yield Product(rows, d, d, right_gradient=not lora)
        yield Product(rows, d, f, right_gradient=not lora)
        yield Product(rows, f, d, right_gradient=not lora)
        if lora:
            for outer, left_gradient in ((3 * d, below), (d, True)):
                yield Product(rows, d, step.rank, left_gradient=left_gradient)
                yield Product(rows, step.rank, outer)
    if step.family == "bert":
        yield Product(step.head_rows, d, d)
        if model.get("nsp"):
            yield Product(step.batch, d, d)
            yield Product(step.batch, d, 2)
    yield Product(step.head_rows, d, padded_vocabulary(model["vocab_size"]), right_gradient=not lora)


def _activations(step: _Step, size: int) -> int:
    """Bytes that the forward pass keeps for the backward pass; ``size`` bytes for what goes into or out of a product.

    Derived operator by operator, in elements for one position: a norm keeps its input (d, fp32), mean and deviation
    (2, fp32); a product keeps its input if its weight is trained; attention keeps queries, keys and values (3 d), its
    output (d, also the input of the next product) and the log-sum of each row (h, fp32); GELU keeps its input (f). The
    cross-entropy keeps the log-probabilities (V, fp32) and the labels (8 bytes), an embedding its indices (8 bytes).
    Korthikanti et al. 2022 (arXiv 2205.05198, §4.1) count so too, but attention without a fused kernel, and dropout.
    """
    model, rows = step.model, step.rows
    if step.family == "regression":
        widths = _widths(model)
        return rows * (size * sum(widths[:-1]) + 2 * FP32 * widths[-1])
    d, layers = model["d_model"], model["n_layer"]
    norm = FP32 * (d + 2)
    attention = size * 4 * d + FP32 * model["n_head"]
    loss = FP32 * step.logits + 8 * step.head_rows
    if step.family == "gpt":
        layer = norm + size * d + attention + norm + size * (d + 4 * d + 4 * d)
        return rows * (layers * layer + norm + size * d + 8) + loss
    if step.family == "lora":
        # The inputs of the frozen products (around GELU, the head) are not kept; those of the updates are.
        layer = norm + size * d + attention + norm + size * 4 * d + size * 2 * step.rank
        return rows * layers * layer + loss  # the last norm instead of the first, under which nothing is trained
    layer = size * d + attention + norm + size * (d + 2 * model["d_ff"]) + norm
    encoder = rows * (norm + layers * layer + 2 * 8)
    head = step.head_rows * (4 * size * d + 2 * FP32 + 8)
    pooler = step.batch * (2 * size * d + 2 * FP32 + 8) if model.get("nsp") else 0
    return encoder + head + pooler + loss


def _widths(model: Model) -> list[int]:
    return [model["d_in"], *[model["d_hidden"]] * model["n_hidden"], model["d_out"]]


def _check(family: str, lora_rank: int | None) -> None:
    if family not in ("regression", "bert", "gpt", "lora"):
        raise ValueError(f"unknown family {family!r}")
    if family == "lora" and not lora_rank:
        raise ValueError("the family lora needs a rank")
