"""This node's part of an all-reduce over several nodes. torch is imported once, then forked into the node's ranks."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

WARM_UPS, REPEATS = 2, 5
TICK = 0.05


def probe(arguments: dict) -> Iterator[dict]:
    """Yields what each rank of this node tells, by its number, as soon as it tells it.

    Args:
        arguments: ``first`` and ``count`` of this node's ranks, ``world_size``, ``address`` and ``port`` of node 0's
            store, ``backend``, ``sizes`` in bytes, ``stages``: their names, ``join_seconds`` until all must have come,
            ``timeout``, seconds of one collective.
    """
    stages = arguments["stages"]
    ranks = list(range(arguments["first"], arguments["first"] + arguments["count"]))
    told: dict = {str(rank): {"at": stages[1]} for rank in ranks}
    yield {"ranks": told}
    import torch  # noqa: F401

    pipes = {}
    for rank in ranks:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os._exit(run_rank(rank, arguments, write))
        os.close(write)
        os.set_blocking(read, False)
        pipes[rank] = (pid, read)
    yield from listen(pipes, told)


def listen(pipes: dict, told: dict) -> Iterator[dict]:
    """What the ranks tell until all have ended."""
    rests = dict.fromkeys(pipes, b"")
    while pipes:
        time.sleep(TICK)
        for rank, (pid, read) in list(pipes.items()):
            try:
                part = os.read(read, 65536)
            except BlockingIOError:
                continue
            if not part:
                del pipes[rank]
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if code < 0:
                    told[str(rank)]["signal"] = -code
            *lines, rests[rank] = (rests[rank] + part).split(b"\n")
            for line in lines:
                told[str(rank)].update(json.loads(line))
            yield {"ranks": told}


def run_rank(rank: int, arguments: dict, write: int) -> int:
    def tell(**part: Any) -> None:
        os.write(write, json.dumps(part).encode() + b"\n")

    try:
        collectives(rank, arguments, tell)
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        tell(error=f"{type(error).__name__}: {error}"[:1000])
        return 1
    return 0


def collectives(rank: int, arguments: dict, tell: Callable[..., None]) -> None:
    import torch
    import torch.distributed as dist

    _, _, meet, form, *timed, end = arguments["stages"]
    world_size, backend = arguments["world_size"], arguments["backend"]
    join, limit = (datetime.timedelta(seconds=arguments[name]) for name in ("join_seconds", "timeout"))
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", rank - arguments["first"])
        torch.cuda.set_device(device)
    tell(at=meet)
    address, port = arguments["address"], arguments["port"]
    store = dist.TCPStore(address, port, world_size, is_master=rank == 0, timeout=join, wait_for_workers=False)
    # Who imports torch slowly is waited for here, so that the limit of a collective can be short.
    store.add("came", 1)
    until = time.monotonic() + arguments["join_seconds"]
    while store.add("came", 0) < world_size:
        if time.monotonic() > until:
            raise TimeoutError(f"Timed out waiting for {world_size} ranks, {store.add('came', 0)} came")
        time.sleep(TICK)
    tell(at=form)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    check(dist, torch, device, rank, world_size, tell)
    seconds = {}
    for stage, size in zip(timed, arguments["sizes"]):  # noqa: B905
        tell(at=stage)
        seconds[str(size)] = timed_all_reduce(dist, torch, device, size)
        tell(seconds=seconds)
    dist.barrier()
    tell(at=end)
    leave(store, rank, world_size, arguments["timeout"])


def leave(store: Any, rank: int, world_size: int, timeout: float) -> None:
    """The store lives in rank 0, which therefore goes last."""
    store.add("left", 1)
    until = time.monotonic() + timeout
    while rank == 0 and store.add("left", 0) < world_size and time.monotonic() < until:
        time.sleep(TICK)


def check(dist: Any, torch: Any, device: Any, rank: int, world_size: int, tell: Callable[..., None]) -> None:
    """Rank r gives r + 1; the sum is known."""
    value = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(value)
    expected = world_size * (world_size + 1) / 2
    low, high = float(value.min()), float(value.max())
    if (low, high) != (expected, expected):
        tell(wrong=f"{low:g} to {high:g} instead of {expected:g}")


def timed_all_reduce(dist: Any, torch: Any, device: Any, size: int) -> float:
    """Median seconds of one, as this rank sees it."""
    value = torch.ones(size // 4, device=device)
    taken = []
    for _ in range(WARM_UPS + REPEATS):
        started = time.perf_counter()
        dist.all_reduce(value)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[WARM_UPS:])
