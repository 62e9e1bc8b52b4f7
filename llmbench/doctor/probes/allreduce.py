"""A gloo all-reduce between processes of this machine. torch is imported once, then forked into the ranks."""

from __future__ import annotations

import datetime
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any


def probe(arguments: dict) -> Iterator[dict]:
    import torch  # noqa: F401

    world_size, timeout = arguments["world_size"], arguments["timeout"]
    yield {"imported": True}
    store, ranks, started = serve(timeout), [], time.perf_counter()
    for rank in range(world_size):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os._exit(run_rank(rank, world_size, store.port, timeout, write))
        os.close(write)
        ranks.append((pid, read))
    answers, codes = [], []
    for pid, read in ranks:
        with os.fdopen(read, encoding="utf-8") as file:
            answers.append(file.read())
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    yield {"answers": answers, "codes": codes, "seconds": time.perf_counter() - started}


def serve(timeout: float) -> Any:
    """The meeting point, on a port that the system chooses: a fixed one may be taken."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=timeout))


def run_rank(rank: int, world_size: int, port: int, timeout: float, write: int) -> int:
    try:
        os.write(write, all_reduce(rank, world_size, port, timeout).encode())
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        os.write(write, f"{type(error).__name__}: {error}".encode())
        return 1
    return 0


def all_reduce(rank: int, world_size: int, port: int, timeout: float) -> str:
    """Rank r gives r + 1; the sum is known. Returns it as text."""
    import torch
    import torch.distributed as dist

    limit = datetime.timedelta(seconds=timeout)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
    value = torch.full((1024,), float(rank + 1))
    dist.all_reduce(value)
    low, high = float(value.min()), float(value.max())
    dist.destroy_process_group()
    return str(low) if low == high else f"{low} to {high}"
