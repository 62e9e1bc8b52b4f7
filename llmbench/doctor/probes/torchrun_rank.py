"""A rank that torchrun starts: meets the others as every training script does, and adds up. Not a probe by itself."""

from __future__ import annotations

import datetime
import os

if __name__ == "__main__":
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
    value = torch.full((16,), float(dist.get_rank() + 1))
    dist.all_reduce(value)
    size = dist.get_world_size()
    said = f"\nllmbench: rank {dist.get_rank()} of {size} has {value[0].item() - size * (size + 1) / 2:g}\n"
    os.write(1, said.encode())  # at once: the ranks share the pipe, and so does what torch itself logs in pieces
    dist.destroy_process_group()
