"""Training steps of every family, on paper and for real, and instruments that see what torch holds in them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from llmbench.worker.methods.lora import apply_lora
from llmbench.worker.models.bert import BERT, BERTConfig
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.models.mlp import MLP, MLPConfig
from llmbench.worker.modes.chunked import apply_chunked_ce
from llmbench.worker.modes.recompute import apply_recompute
from llmbench.worker.workloads import hf

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
BERTS = ("bert", "hf-bert")


def build(family: str, model: dict[str, int], lora_rank: int | None = None) -> nn.Module:
    """The model of a family, of transformers and peft as ``llmbench/worker/workloads/hf.py`` makes it."""
    match family:
        case "regression":
            return MLP(MLPConfig(**model))
        case "bert":
            return BERT(BERTConfig(**model))
        case "gpt":
            return GPT(GPTConfig(**model))
        case "lora":
            return apply_lora(GPT(GPTConfig(**model)), lora_rank)
        case "hf-bert":
            return hf.MaskedLM(hf.bert(BERTConfig(**model)))
        case "hf-gpt2":
            return hf.CausalLM(hf.gpt2(GPTConfig(**model)))
        case "peft-lora":
            return hf.CausalLM(hf.lora(hf.gpt2(GPTConfig(**model)), lora_rank))
    raise ValueError(family)


@dataclass(frozen=True)
class Step:
    """A training step of one shape."""

    family: str
    model: dict[str, int]
    batch: int
    sequence: int = 1
    masked: int | None = None
    lora_rank: int | None = None

    def arguments(self) -> dict[str, Any]:
        return dict(vars(self))

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return build(self.family, self.model, self.lora_rank)

    def inputs(self) -> tuple[Tensor | None, ...]:
        """Tokens and targets are tensors of their own, as in a batch of the loop."""
        B, T, model = self.batch, self.sequence, self.model
        if self.family == "regression":
            return torch.randn(B, model["d_in"]), torch.randn(B, model["d_out"])
        tokens_BT, targets_BT = (torch.randint(model["vocab_size"], (B, T)) for _ in range(2))
        if self.family not in BERTS:
            return tokens_BT, targets_BT
        positions_BK = torch.stack([torch.randperm(T)[: self.masked or T] for _ in range(B)])
        labels_BK = targets_BT.gather(1, positions_BK)
        everywhere = (hf.everywhere(tokens_BT, positions_BK, labels_BK),)
        labels = (positions_BK, labels_BK) if self.family == "bert" else everywhere
        next_B = (torch.randint(2, (B,)),) if model.get("nsp") else ()
        return tokens_BT, torch.randint(2, (B, T)), *labels, *next_B


# Odd shapes, so that no two numbers of a formula can be mistaken for each other.
GPT_MODEL = {"vocab_size": 1000, "n_positions": 80, "n_layer": 3, "n_head": 4, "d_model": 48}
BERT_MODEL = GPT_MODEL | {"d_ff": 160, "n_segments": 2}

OURS = {
    "line": Step("regression", {"d_in": 1, "d_hidden": 0, "n_hidden": 0, "d_out": 1}, 16),
    "mlp": Step("regression", {"d_in": 7, "d_hidden": 64, "n_hidden": 3, "d_out": 3}, 16),
    "gpt": Step("gpt", GPT_MODEL, 4, 56),
    "gpt-one-layer": Step("gpt", GPT_MODEL | {"n_layer": 1}, 3, 40),
    "lora": Step("lora", GPT_MODEL, 4, 56, lora_rank=5),
    "lora-one-layer": Step("lora", GPT_MODEL | {"n_layer": 1}, 3, 40, lora_rank=24),
    "bert": Step("bert", BERT_MODEL, 4, 56, masked=9),
    "bert-all-masked": Step("bert", BERT_MODEL, 4, 56),
    "bert-nsp": Step("bert", BERT_MODEL | {"nsp": True}, 4, 56, masked=9),
}
PEERS = {
    "hf-gpt2": Step("hf-gpt2", GPT_MODEL, 4, 56),
    "hf-bert": Step("hf-bert", BERT_MODEL, 4, 56, masked=9),
    "hf-bert-nsp": Step("hf-bert", BERT_MODEL | {"nsp": True}, 4, 56, masked=9),
    "peft-lora": Step("peft-lora", GPT_MODEL, 4, 56, lora_rank=5),
    "peft-lora-one-layer": Step("peft-lora", GPT_MODEL | {"n_layer": 1}, 3, 40, lora_rank=24),
}


def count(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained; each tensor once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def in_mode(step: Step, mode: Sequence[str]) -> tuple[nn.Module, tuple[Tensor | None, ...]]:
    """The model in a mode that changes it, and a batch for it."""
    network, inputs = step.network(), step.inputs()
    if "bf16-params" in mode:
        network = network.to(torch.bfloat16)
        inputs = tuple(x.bfloat16() if x is not None and x.is_floating_point() else x for x in inputs)
    if "chunked-ce" in mode:
        apply_chunked_ce(network)
    apply_recompute(network, list(mode))
    return network, inputs


def kernels(mode: Sequence[str]) -> AbstractContextManager[None]:
    """In which all of a step runs: what is computed again must be computed by the same kernel."""
    return sdpa_kernel(SDPBackend.MATH) if "sdpa-math" in mode else nullcontext()


def context(mode: Sequence[str]) -> AbstractContextManager[None]:
    """In which the forward pass runs; FSDP has its own mixed precision."""
    dtype = next((dtype for name, dtype in AUTOCAST.items() if name in mode), torch.bfloat16)
    return torch.autocast("cpu", dtype, enabled=bool(AUTOCAST.keys() & set(mode)) and not {"fsdp", "hsdp"} & set(mode))


class Storages(TorchDispatchMode):
    """Bytes of the storages that tensors hold, now and at most, from those given on."""

    def __init__(self, held: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._alive = WeakIdKeyDictionary()
        self.peak = 0
        self.note(held)

    def note(self, tensors: Sequence[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                shard = getattr(tensor, "_local_tensor", tensor)  # of a DTensor
                self._alive[shard.untyped_storage()] = None
        self.peak = max(self.peak, self.now)

    @property
    def now(self) -> int:
        return sum(storage.nbytes() for storage in self._alive)  # FSDP frees storages by resizing them

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.note(tree_leaves(result))
        return result


def kept_bytes(network: nn.Module, inputs: tuple[Tensor | None, ...], mode: Sequence[str] = ()) -> int:
    """Bytes of all storages that a forward pass leaves behind for the backward pass, parameters aside.

    Seen from both sides: what autograd saves (which may be of the batch), and what is made and stays alive (which
    selective checkpointing puts by without telling autograd).
    """
    with Storages(list(network.parameters())) as storages:
        parameters, saved = storages.now, []

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor)
            return tensor

        with kernels(mode), context(mode), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = network(*inputs)  # holds the graph
        storages.note(saved)
        return storages.now - parameters - loss.untyped_storage().nbytes()


def peak_bytes(step: Step, mode: Sequence[str] = (), grad_accum: int = 1) -> int:
    """The most bytes that tensors hold in an optimizer step, with the moments there from the step before."""
    network, inputs = in_mode(step, mode)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], fused=True)

    def train() -> None:
        for _ in range(grad_accum):
            with context(mode):
                loss = network(*inputs)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with kernels(mode):
        train()
        moments = [tensor for state in optimizer.state.values() for tensor in state.values()]
        with Storages([*network.parameters(), *moments]) as storages:
            train()
    return storages.peak
