"""What DDP costs where it brings nothing, at world size 1: throughput against the plain case, in lock-step.

    python -m torch.distributed.run --standalone --nproc-per-node 1 suites/ddp_alone.py [--size tiny] [--turns 200]

Both sides take turns of three steps, with the same model, weights, batches and optimizer. Prints the ratio of
throughputs (DDP / plain) with a 95 % interval.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from paired import TURN, WARM_UP, gpt, ratio

from llmbench.worker.device import Device
from llmbench.worker.loop import Trainer
from llmbench.worker.models.gpt import GPT, GPTConfig
from llmbench.worker.modes import apply
from llmbench.worker.optimizer import adamw
from llmbench.worker.world import World, join

ONE = {"data_parallel": 1, "tensor_parallel": 1, "pipeline_stages": 1, "grad_accum": 1, "deadline_seconds": 600}


def main() -> None:
    options, size, batches = gpt(__doc__.splitlines()[0])
    device = Device("cpu")
    world = join(["ddp"], ONE, device)
    sides: list[Trainer] = []
    for mode, alone in (([], World()), (["ddp"], world)):
        torch.manual_seed(0)
        execution = apply(GPT(GPTConfig(**size.model)), mode, device, ONE, alone)
        optimizer = adamw(execution.model, size.settings["learning_rate"], 0.1)
        sides.append(Trainer(execution, batches, optimizer, lambda step: 1e-4, clip_norm=1.0))
    plain, ddp = ((lambda side=side: [side.step() for _ in range(TURN)]) for side in sides)
    _, found = ratio(ddp, plain, options.turns, WARM_UP)
    print(f"gpt-{options.size}: DDP alone / plain = {found}, {options.turns} turns of {TURN} steps")
    world.leave()


if __name__ == "__main__":
    main()
