"""Collectives between processes of this machine. torch is imported once, then forked into the ranks."""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

PORT_DIGITS = 5


def probe(arguments: dict) -> Iterator[dict]:
    """Yields what each rank found, and how it ended.

    Args:
        arguments: ``world_size``, 0 for one rank per GPU; ``timeout``, seconds; ``backend``, gloo if not given;
            ``operations``, names of functions below; ``bytes``, of the message whose time is taken, none if 0.
    """
    import torch  # noqa: F401

    timeout, world_size = arguments["timeout"], arguments["world_size"] or count_devices()
    arguments = {**arguments, "world_size": world_size}
    yield {"imported": True, "world_size": world_size}
    if not world_size:
        return
    ranks, started = [], time.perf_counter()
    port_read, port_write = os.pipe()
    for rank in range(world_size):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(port_write)
            os.close(read)
            os._exit(run_rank(rank, arguments, port_read, write))
        os.close(write)
        ranks.append((pid, read))
    # Only now: a thread of the store looks up the name of each rank that connects, and a rank forked at that moment
    # would hang in its own first lookup, with a copy of the resolver's lock that nobody releases.
    store = serve(timeout)
    os.write(port_write, b"%*d" % (PORT_DIGITS, store.port) * world_size)
    os.close(port_write)
    os.close(port_read)
    answers, codes = [], []
    for pid, read in ranks:
        with os.fdopen(read, encoding="utf-8") as file:
            answers.append(last(file.read()))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    yield {"answers": answers, "codes": codes, "seconds": time.perf_counter() - started}


def count_devices() -> int:
    """GPUs that torch can use, counted in a child: a process that has used CUDA cannot be forked."""
    import torch

    pid = os.fork()
    if pid == 0:
        os._exit(min(torch.cuda.device_count(), 255))
    return max(0, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def last(text: str) -> dict:
    """All that a rank told, one JSON object a line; it may have died in between."""
    told: dict = {}
    for line in text.splitlines():
        told.update(json.loads(line))
    return told


def serve(timeout: float) -> Any:
    """The meeting point, on a port that the system chooses: a fixed one may be taken."""
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=timeout))


def run_rank(rank: int, arguments: dict, port_read: int, write: int) -> int:
    def tell(part: dict) -> None:
        os.write(write, json.dumps(part).encode() + b"\n")

    try:
        port = int(os.read(port_read, PORT_DIGITS))
        collectives(rank, arguments, port, tell)
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        tell({"error": f"{type(error).__name__}: {error}"[:2000]})
        return 1
    return 0


def collectives(rank: int, arguments: dict, port: int, tell: Callable[[dict], None]) -> None:
    import torch
    import torch.distributed as dist

    world_size, backend = arguments["world_size"], arguments.get("backend", "gloo")
    limit = datetime.timedelta(seconds=arguments["timeout"])
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=limit)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    for name in arguments["operations"]:
        tell({"at": name})
        tell({name: OPERATIONS[name](dist, torch, device, rank, world_size)})
    if arguments.get("bytes"):
        tell({"at": "a large all_reduce"})
        tell({"bytes_per_second": bandwidth(dist, torch, device, arguments["bytes"])})
    dist.destroy_process_group()
    tell({"at": "done"})


def full(torch: Any, device: Any, value: float) -> Any:
    return torch.full((1024,), float(value), device=device)


def told(expected: list, tensors: list) -> str | None:
    """None if each tensor holds the number that it should everywhere, else what it holds."""
    for number, tensor in zip(expected, tensors):  # noqa: B905
        low, high = float(tensor.min()), float(tensor.max())
        if (low, high) != (number, number):
            return f"{low:g} to {high:g} instead of {number:g}"
    return None


def all_reduce(dist: Any, torch: Any, device: Any, rank: int, world_size: int) -> str | None:
    """Rank r gives r + 1; the sum is known."""
    value = full(torch, device, rank + 1)
    dist.all_reduce(value)
    return told([world_size * (world_size + 1) / 2], [value])


def broadcast(dist: Any, torch: Any, device: Any, rank: int, world_size: int) -> str | None:
    value = full(torch, device, rank + 7)
    dist.broadcast(value, src=world_size - 1)
    return told([world_size + 6], [value])


def all_gather(dist: Any, torch: Any, device: Any, rank: int, world_size: int) -> str | None:
    values = [full(torch, device, 0) for _ in range(world_size)]
    dist.all_gather(values, full(torch, device, rank + 1))
    return told([other + 1 for other in range(world_size)], values)


def all_to_all(dist: Any, torch: Any, device: Any, rank: int, world_size: int) -> str | None:
    """Rank r gives 100 r + s to rank s."""
    given = torch.cat([full(torch, device, 100 * rank + other) for other in range(world_size)])
    got = torch.empty_like(given)
    dist.all_to_all_single(got, given)
    return told([100 * other + rank for other in range(world_size)], list(got.chunk(world_size)))


def barrier(dist: Any, torch: Any, device: Any, rank: int, world_size: int) -> str | None:
    dist.barrier()
    return None


OPERATIONS = {
    "all_reduce": all_reduce,
    "broadcast": broadcast,
    "all_gather": all_gather,
    "all_to_all": all_to_all,
    "barrier": barrier,
}


def bandwidth(dist: Any, torch: Any, device: Any, size: int) -> float:
    """Bytes of the message by seconds of one all-reduce, after a first one."""
    value = torch.ones(size // 4, device=device)
    dist.all_reduce(value)
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    dist.all_reduce(value)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return size / (time.perf_counter() - started)
