"""Our training steps against those of transformers and peft, in lock-step.

    python suites/against_peers.py [--size tiny] [--turns 60] [--family gpt]… [--mode compile+bf16]… [--device cpu]

Both sides take turns of three steps, from the same weights, on the same batches, with the same optimizer, in the same
loop. Prints for each workload and mode the ratio of throughputs (ours /
theirs; above 1 ours is faster) with a 95 % interval (bootstrap of the median over turns), the loss of both after the
last step, and two peaks of the memory of each, measured in fresh processes that train one side only: what tensors took,
and the resident memory beyond that before the model was built. All libraries are imported in both.

BERT has a second row, ``bert, same head``: there the head of transformers works on the masked positions only, as ours
does. Nobody trains it so; the row tells how much of the first is owed to that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from paired import ratio
from torch import Tensor, nn

from llmbench.suite.workloads import FAMILIES
from llmbench.worker.device import Device
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.models.vocabulary import cross_entropy
from llmbench.worker.optimizer import adamw, by_placement, clip
from llmbench.worker.workloads import WORKLOADS

WARM_UP = 5  # turns
TURN = 3  # steps
BATCHES = 32
MASKED = 0.15
PEERS = {"gpt": "hf-gpt2", "bert": "hf-bert", "lora": "peft-lora"}
SAME_HEAD = "bert, same head"
ROW = "{:16} {:13} {:21} {:15} {:21} {}"
MODES = ("eager", "bf16", "compile", "compile+bf16")


class MaskedHead(nn.Module):
    """transformers' BERT with the head on the masked positions only."""

    def __init__(self, masked_lm: nn.Module) -> None:
        super().__init__()
        self.model = masked_lm.model

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor, positions_BK: Tensor, labels_BK: Tensor) -> Tensor:
        x_BTD = self.model.bert(input_ids=tokens_BT, token_type_ids=segments_BT).last_hidden_state
        B, T, D = x_BTD.shape
        first_B1 = T * torch.arange(B, device=x_BTD.device).unsqueeze(1)
        x_NKD = x_BTD.reshape(B * T, D).index_select(0, (first_B1 + positions_BK).flatten())
        return cross_entropy(self.model.cls(x_NKD), labels_BK)


class Side:
    """A model, its batches and its optimizer."""

    def __init__(self, family: str, mode: str, options: argparse.Namespace, folder: Path) -> None:
        same_head = family == SAME_HEAD
        family = "hf-bert" if same_head else family
        size = FAMILIES[family].sizes[options.size]
        self.device = Device(options.device)
        config = {"family": family, "model": dict(size.model), "seed": 0, "eval_batches": 1, "lora_rank": 8}
        config |= size.settings | {"masked": round(MASKED * size.settings["sequence_length"])}
        data = _data(folder, size.model)
        torch.manual_seed(0)
        workload = WORKLOADS[family](config, data)
        model = workload.build()
        if same_head:
            model, workload = MaskedHead(model), WORKLOADS["bert"](config, data)
        self.batches = self.device.move(workload.stage(BATCHES))
        self.model = model.to(self.device.torch)
        if "compile" in mode:
            self.model.compile()
        self.bf16 = "bf16" in mode
        self.optimizer = adamw(self.model, size.settings["learning_rate"] / 4, 0.1)
        self.groups = by_placement(self.model.parameters())
        self.order = itertools.cycle(range(BATCHES))

    def turn(self) -> float:
        """Trains a few steps; the loss of the last."""
        for step in itertools.islice(self.order, TURN):
            with torch.autocast(self.device.kind, torch.bfloat16, enabled=self.bf16):
                loss = self.model(*(tensor[step] for tensor in self.batches))
            loss.backward()
            clip(self.groups, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.device.synchronize()
        return loss.item()


def _data(folder: Path, model: dict[str, int]) -> dict[str, Any]:
    """Token files of random words, half of them decided by the word before."""
    file, base = folder / f"{model['vocab_size']}.bin", folder / "base.pt"
    if not file.exists():
        words, rng = range(5, model["vocab_size"]), random.Random(0)
        ids = array("i", [words[0]])
        while len(ids) < 400_000:
            ids.append(words[ids[-1] * 7 % len(words)] if rng.random() < 0.5 else rng.choice(words))
        file.write_bytes(ids.tobytes())
    if not base.exists() and "d_ff" not in model:
        torch.manual_seed(1)
        torch.save(GPT(GPTConfig(**model)).state_dict(), base)
    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    text = {"train": str(file), "valid": str(file)}
    return text | {"vocab_size": model["vocab_size"], "special": special, "base": str(base)}


def duel(ours: str, theirs: str, mode: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The ratio of throughputs with its interval, and the last losses."""
    sides = [Side(family, mode, options, folder) for family in (ours, theirs)]
    losses: dict[Side, float] = {}

    def turns(side: Side) -> Callable[[], None]:
        def turn() -> None:
            losses[side] = side.turn()

        return turn

    _, found = ratio(*map(turns, sides), options.turns, WARM_UP)
    return {"ratio": found, "losses": [losses[side] for side in sides]}


def peak_memory(family: str, mode: str, options: argparse.Namespace) -> tuple[float, float]:
    """Peak bytes of one side in a fresh process: of its tensors, and resident beyond what was before the model."""
    command = [sys.executable, __file__, "--memory-of", family, "--mode", mode]
    command += ["--size", options.size, "--device", options.device]
    command += ["--threads", str(options.threads)] if options.threads else []
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    allocated, resident = json.loads(answer.splitlines()[-1])
    return allocated, resident


def _memory_of(family: str, mode: str, options: argparse.Namespace, folder: Path) -> None:
    """Prints the two peaks. What libraries take when they are imported and first used is not of the training."""
    import peft  # noqa: F401
    import transformers.models.bert.modeling_bert
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    _first_use(options.device, mode)
    size = FAMILIES.get(family, FAMILIES["hf-bert"]).sizes[options.size]
    _data(folder, size.model)
    before = _status("VmRSS")
    side = Side(family, mode, options, folder)
    for _ in range(WARM_UP):
        side.turn()
    print(json.dumps((_allocated(side), _status("VmHWM") - before)))


def _first_use(device: str, mode: str) -> None:
    """One step of a model that has a little of everything."""
    model = nn.Sequential(nn.Embedding(64, 64), nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()).to(device)
    if "compile" in mode:
        model.compile()
    optimizer = adamw(model, 1e-3, 0.1)
    tokens = torch.zeros(4, 8, dtype=torch.long, device=device)
    with torch.autocast(device, torch.bfloat16, enabled="bf16" in mode):
        x = model(tokens)[None]
        x = nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
        loss = cross_entropy(x[0], tokens)
    loss.backward()
    clip(by_placement(model.parameters()), 1.0)
    optimizer.step()


def _allocated(side: Side) -> int:
    """Peak of what torch's allocator handed out in a turn: weights, optimizer state, and all that a step makes."""
    if side.device.cuda:
        return torch.cuda.max_memory_allocated()
    state = [value for entry in side.optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    kept = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in [*side.model.parameters(), *state]}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        side.turn()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return sum(kept.values()) + max(itertools.accumulate(changes))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--turns", type=int, default=60, help="of three steps, for each side")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--family", action="append", choices=(*PEERS, SAME_HEAD))
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--no-memory", action="store_true", help="only the ratio of throughputs")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.memory_of:
            _memory_of(options.memory_of, options.mode[0], options, folder)
            return
        print("each: ours / theirs, or ours, theirs (ours / theirs)")
        print(ROW.format("workload", "mode", "throughput", "loss", "allocated (MiB)", "resident (MiB)"), flush=True)
        for family, mode in itertools.product(options.family or (*PEERS, SAME_HEAD), options.mode or MODES):
            ours, theirs = (family, PEERS[family]) if family in PEERS else ("bert", family)
            torch.compiler.reset()
            found = duel(ours, theirs, mode, options, folder)
            losses = ", ".join(f"{loss:.4f}" for loss in found["losses"])
            memory = ["", ""]
            if not options.no_memory:
                peaks = zip(*(peak_memory(side, mode, options) for side in (ours, theirs)), strict=True)
                memory = [f"{one / 2**20:.1f}, {other / 2**20:.1f} ({one / other:.2f})" for one, other in peaks]
            print(ROW.format(family, mode, found["ratio"], losses, *memory), flush=True)


if __name__ == "__main__":
    main()
