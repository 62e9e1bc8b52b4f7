"""What a forward pass keeps for the backward pass, tensor by tensor, in every mode.

Derived operator by operator, and held by tests against what torch really keeps. Korthikanti et al. 2022 (arXiv
2205.05198, §4.1) count so too, but attention without a fused kernel, and dropout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmbench.suite.architecture import Pass, Product, block_products, head_products

FP32 = 4
HALF = 2  # bf16 and fp16
INDEX = 8

# Rows of a chunk of ``chunked-ce``: see llmbench/worker/modes/chunked.py.
CHUNK_ROWS = 1024
CHUNKS = 4


@dataclass(frozen=True)
class Format:
    """How a mode stores things.

    Attributes:
        mode: the ingredients.
        parameter: bytes of a stored parameter, of its gradient, and of each of AdamW's two moments.
        wide: bytes of an element of the residual stream.
        narrow: bytes of what goes into a product or comes out of it.
        autocast: whether there is a narrow copy of each weight from the forward to the backward pass.
        tensor_parallel: ranks over which attention and MLP are split.
    """

    mode: tuple[str, ...]
    parameter: int
    wide: int
    narrow: int
    autocast: bool
    tensor_parallel: int = 1

    @property
    def recompute(self) -> str | None:
        return next((part for part in self.mode if part in ("ac", "sac")), None)

    @property
    def fsdp(self) -> bool:
        return "fsdp" in self.mode or "hsdp" in self.mode

    @property
    def offload(self) -> bool:
        """Whether saved activations go to the host; with FSDP it is the parameters that do."""
        return "cpu-offload" in self.mode and not self.fsdp


def format_of(mode: Sequence[str], tensor_parallel: int = 1) -> Format:
    """What the ingredients of a mode mean for memory.

    Compiling, TF32, fused AdamW and the attention kernels other than math are taken to keep what eager keeps.
    """
    half = any(part in mode for part in ("bf16", "fp16", "fp8"))
    stored = HALF if "bf16-params" in mode else FP32
    # FSDP's mixed precision stands in for autocast: all of the model computes with narrow copies of its shards.
    narrow_model = half and ("fsdp" in mode or "hsdp" in mode)
    return Format(
        mode=tuple(mode),
        parameter=stored,
        wide=HALF if narrow_model else stored,
        narrow=HALF if half else stored,
        autocast=half and not narrow_model,
        tensor_parallel=tensor_parallel,
    )


@dataclass(frozen=True)
class Kept:
    """A tensor of the forward pass that some mode keeps for the backward pass.

    Attributes:
        size: bytes.
        eager: whether autograd keeps it by itself.
        start: whether it is the input of a block, which activation checkpointing keeps.
        product: whether it comes out of a product or of attention, which selective checkpointing keeps besides.
        shared: whether there is one for all micro-batches in flight: autocast's copy of a weight.
    """

    size: int
    eager: bool = True
    start: bool = False
    product: bool = False
    shared: bool = False

    def held(self, recompute: str | None, offload: bool = False) -> bool:
        """Whether the device holds it from the forward to the backward pass.

        Args:
            recompute: ``ac`` or ``sac`` where it is of a block; what is outside of the blocks is not computed again.
            offload: to the host goes what autograd saves, not what selective checkpointing puts by.
        """
        selected = recompute == "sac" and self.product
        return selected or (not offload and (self.start if recompute else self.eager))


def embedding(step: Pass, how: Format) -> list[Kept]:
    """What is kept below the blocks: indices, and what BERT's norm needs."""
    model, rows = step.architecture, step.rows
    if not model.text or model.lora:
        return []
    if model.bert:
        return [Kept(rows * 2 * INDEX), Kept(rows * how.wide * model.d), _statistics(rows)]
    return [Kept(rows * INDEX)]


def block(step: Pass, how: Format, layer: int) -> Iterator[Kept]:
    """What a block keeps. A norm keeps its input, mean and deviation; a product its input, if its weight is trained."""
    model, rows, split = step.architecture, step.rows, how.tensor_parallel
    if how.autocast:
        yield from _weight_copies(block_products(step, layer), how.narrow, split)
    if not model.text:
        yield Kept(rows * how.narrow * model.widths[layer], start=True)  # ReLU keeps its output, the next layer's input
        return
    d, f, lora = model.d, model.f, model.lora
    wide, narrow = rows * how.wide, rows * how.narrow

    if model.bert:  # the norms come last
        yield Kept(wide * d, eager=not how.autocast, start=True)  # as the input of qkv, unless that is a narrow copy
        # Under autocast each product takes a narrow copy; transformers has three of them here.
        yield Kept((3 if model.peer else 1) * narrow * d if how.autocast else 0)
    else:
        trained_below = not lora or layer > 0
        yield Kept(wide * d, eager=trained_below, start=True)
        yield _statistics(rows, eager=trained_below)
        yield Kept(narrow * d)  # input of qkv; with LoRA, of its update
    yield from _attention(step, how)
    yield Kept(narrow * d, eager=False, product=True)  # out of the projection
    if lora:
        yield Kept(narrow * 2 * model.rank, product=True)
        yield Kept(narrow * (3 * d // split + d), eager=False, product=True)  # bases with their updates added
    yield Kept(wide * d)  # input of a norm
    yield _statistics(rows)
    yield Kept(narrow * d, eager=not lora)  # input of the MLP
    yield Kept(narrow * f // split, product=True)  # input of GELU
    if model.peer and not model.bert:
        yield Kept(narrow * 3 * f // split)  # transformers spells out the GELU of GPT-2, with a tanh
    yield Kept(narrow * f // split, eager=not lora)
    yield Kept(narrow * d, eager=False, product=True)
    if model.bert:
        yield Kept(wide * d)
        yield _statistics(rows)


def _attention(step: Pass, how: Format) -> Iterator[Kept]:
    """Queries, keys and values; the output, which is the next product's input; and what the kernel needs besides."""
    split = how.tensor_parallel
    d = step.rows * step.architecture.d // split
    heads = step.rows * step.architecture.model["n_head"] // split
    if "sdpa-math" not in how.mode:
        if how.autocast and step.architecture.family == "peft-lora":
            yield Kept(how.narrow * d)  # the output once more: peft casts the input of an update to fp32 and back
        yield Kept(how.narrow * 3 * d, product=True)
        yield Kept(how.narrow * d, product=True)
        yield Kept(FP32 * heads, product=True)  # the log-sum of each row
        return
    # Plain products, which torch computes in fp32.
    yield Kept(how.narrow * 3 * d, eager=False, product=True)
    yield Kept(FP32 * 3 * d)
    yield Kept(FP32 * heads * step.length, eager=False, product=True)  # queries · keys
    yield Kept(FP32 * heads * step.length)  # probabilities
    yield Kept(FP32 * d, eager=False, product=True)  # probabilities · values
    yield Kept(how.narrow * d)


def head(step: Pass, how: Format) -> Iterator[Kept]:
    """What is kept above the blocks, the loss included."""
    model, rows, chunked = step.architecture, step.head_rows, "chunked-ce" in how.mode
    if how.autocast:
        products = list(head_products(step))
        yield from _weight_copies(products[:-1] if chunked else products, how.narrow)
    if not model.text:
        inner, outer = model.widths[-2:]
        yield Kept(rows * (how.narrow * inner + 2 * FP32 * outer))
        return
    yield Kept(rows * INDEX)  # labels
    if model.bert:
        yield Kept(rows * 3 * how.narrow * model.d)  # inputs of the dense layer, GELU and norm
        yield Kept(step.batch * (2 * how.narrow * model.d + 2 * FP32 + INDEX) if model.nsp else 0)
    else:
        yield Kept(rows * how.wide * model.d)
    yield _statistics(rows)
    if chunked:
        yield Kept(rows * (how.narrow if model.bert else how.wide) * model.d)  # as it is, cast with each chunk
    else:
        yield Kept(rows * how.narrow * model.d, eager=not model.lora)
        yield Kept(step.logits * loss_size(step, how))  # log-probabilities


def loss_size(step: Pass, how: Format) -> int:
    """Bytes of an element of the log-probabilities: ours are fp32, transformers' BERT takes the logits as they are."""
    return how.narrow if step.architecture.family == "hf-bert" and not how.autocast else FP32


def loss_gradients(step: Pass, how: Format) -> int:
    """Bytes that come and go when the backward pass begins: the gradients of the log-probabilities and of the logits.

    In chunks: of one chunk, with its log-probabilities, and another gradient of the head's weight, to be added.
    """
    model = step.architecture
    if not model.text:
        return 0
    size = loss_size(step, how)
    if "chunked-ce" not in how.mode:
        return (3 if how.offload else 2) * size * step.logits  # what was offloaded comes back
    rows = min(CHUNK_ROWS, -(-step.head_rows // CHUNKS))
    weight = model.vocabulary * model.d
    copies = how.narrow * weight if how.autocast else 0
    return 3 * size * rows * model.vocabulary + copies + (0 if model.lora else how.parameter * weight)


def block_gradients(step: Pass, how: Format, layer: int) -> int:
    """Bytes of the gradients that come and go in the backward pass of a block, where there are most: at its GELU."""
    model, rows = step.architecture, step.rows
    if not model.text:
        return rows * 3 * how.narrow * model.widths[layer + 1]  # into and out of ReLU, which needs its output
    inner = model.f // how.tensor_parallel
    weight = 0 if model.lora else how.parameter * inner * model.d
    return rows * (how.wide * model.d + how.narrow * inner) + weight


def _statistics(rows: int, eager: bool = True) -> Kept:
    return Kept(rows * 2 * FP32, eager=eager)


def _weight_copies(products: Iterable[Product], size: int, split: int = 1) -> Iterator[Kept]:
    # Autocast makes one copy of a trained weight for as long as it is on, and of a frozen one at every use.
    for product in products:
        yield Kept(size * product.copied // (split if product.split else 1), shared=product.right_gradient)
