"""How fast two nodes talk: collectives of a process group of their own, by message size.

Bus bandwidth is nccl-tests' definition (its doc/PERFORMANCE.md): bytes over seconds, times 2 (n - 1) / n for
``all_reduce``, (n - 1) / n for ``all_gather`` and ``reduce_scatter``, of whose two buffers the larger one counts, and 1
for ``sendrecv``, where each rank sends and receives so much at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter

RANKS = 2
SIZES = {"cpu": (2**16, 2**20, 2**24), "cuda": (2**16, 2**20, 2**24, 2**28)}
FACTORS = {
    "all_reduce": 2 * (RANKS - 1) / RANKS,
    "all_gather": (RANKS - 1) / RANKS,
    "reduce_scatter": (RANKS - 1) / RANKS,
    "sendrecv": 1.0,
}
DECIDING = "sendrecv"  # at the largest size: nothing is computed, and both directions of the link are busy
LEAST_REPETITIONS, MOST_REPETITIONS = 3, 200  # of the point that decides
SHARE_OF_POINT = 0.05  # of the seconds for the point that decides, for each of the others
SHARE_OF_CURVES = 3.0  # of these seconds, for all others; what is left then, on a very slow link, is not measured


def measure_pair(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Bus bandwidth between this node and another one, which does the same job as the other rank.

    Args:
        job: ``device``; ``rank`` 0 or 1; ``address`` and ``port`` at which rank 0 listens; ``interface`` of this node
            for gloo, None for its own choice; ``patience``: seconds to wait for the other; ``seconds`` for what
            decides; ``curves``: whether to measure all other points, too; ``shared``: whether other nodes are on these
            machines; ``sizes``: messages in bytes, the largest one last, None for the usual ones.

    Returns:
        ``points``: for each collective and size its bus bandwidth in bytes/s, None where torch has no such operation,
        or where there was no time left on a slow link.
        ``value``: what decides, all bytes over all time; on a shared machine the median of the repetitions. ``best``:
        at most so much; on a shared machine the best repetition, as others disturb the rest.
    """
    device = Device(job["device"])
    if job["interface"] and "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = job["interface"]
    enter(events, "rendezvous")
    patience = timedelta(seconds=job["patience"])
    store = dist.TCPStore(job["address"], job["port"], RANKS, job["rank"] == 0, patience)
    dist.init_process_group(
        "nccl" if device.cuda else "gloo", store=store, rank=job["rank"], world_size=RANKS, timeout=patience
    )
    enter(events, "exchange")
    pair = _Pair(device, store, job["rank"])
    sizes, seconds = job.get("sizes") or SIZES[device.kind], job["seconds"]
    deciding = pair.times(DECIDING, sizes[-1], seconds, LEAST_REPETITIONS)
    times = {(DECIDING, sizes[-1]): deciding}
    pair.give(SHARE_OF_CURVES * seconds)
    for size in sizes if job["curves"] else ():
        for collective in FACTORS:
            if (collective, size) not in times:
                times[collective, size] = pair.times(collective, size, SHARE_OF_POINT * seconds, 1)
    points = [
        {
            "collective": collective,
            "message_bytes": size,
            "bus_bandwidth_bytes_per_s": size * FACTORS[collective] / median(taken) if taken else None,
        }
        for (collective, size), taken in sorted(times.items())
    ]
    dist.barrier()  # neither leaves, and closes its connections, while the other still measures
    return {"device": device.kind, "points": points, "repetitions": len(deciding)} | _speeds(
        sizes[-1] * FACTORS[DECIDING], deciding, job["shared"]
    )


def _speeds(moved: float, times: list[float], shared: bool) -> dict[str, float]:
    if shared:
        return {"value": moved / median(times), "best": moved / min(times)}
    speed = moved * len(times) / sum(times)
    return {"value": speed, "best": speed}


class _Pair:
    """The operations between the two, and how long they take.

    Args:
        store: by which rank 0 tells how often an operation is done, as both must do the same.
    """

    def __init__(self, device: Device, store: Any, rank: int) -> None:
        self._device, self._store, self._rank = device, store, rank
        self._told = 0
        self._until = math.inf

    def give(self, seconds: float) -> None:
        """From now on what begins later than in so many seconds is left out."""
        self._until = time.perf_counter() + seconds

    def times(self, collective: str, size: int, seconds: float, least: int) -> list[float]:
        """Seconds of each repetition, of about so many seconds; empty if it cannot be done here, or is left out."""
        if not self._agree(int(time.perf_counter() < self._until)):
            return []
        try:
            run = self._operation(collective, size)
            run()  # makes the connection; one waits for the other, who may not have begun yet
        except RuntimeError as error:
            if "not support" in str(error) or "not implemented" in str(error).lower():
                return []
            raise
        once = self._seconds(run, 1)
        more = min(MOST_REPETITIONS, max(least, round(seconds / max(once[0], 1e-9)))) - 1
        return once + self._seconds(run, self._agree(more))

    def _agree(self, number: int) -> int:
        """What rank 0 says."""
        self._told += 1
        if self._rank == 0:
            self._store.set(f"agreed {self._told}", str(number))
        return int(self._store.get(f"agreed {self._told}"))

    def _seconds(self, run: Callable[[], None], repetitions: int) -> list[float]:
        """On CUDA all are queued, and waited for once."""
        marks = [self._device.mark()]
        for _ in range(repetitions):
            run()
            marks.append(self._device.mark())
        self._device.synchronize()
        return [self._device.between(begin, end) for begin, end in pairwise(marks)]

    def _operation(self, collective: str, size: int) -> Callable[[], None]:
        """One of so many bytes: of the larger buffer, where two differ."""
        whole = torch.zeros(size // 4, device=self._device.torch)
        part = torch.zeros(size // 4 // RANKS, device=self._device.torch)
        if collective == "all_reduce":
            return lambda: dist.all_reduce(whole)
        if collective == "all_gather":
            return lambda: dist.all_gather_into_tensor(whole, part)
        if collective == "reduce_scatter":
            return lambda: dist.reduce_scatter_tensor(part, whole)
        received = torch.empty_like(whole)
        other = 1 - self._rank

        def exchange() -> None:
            operations = [dist.P2POp(dist.isend, whole, other), dist.P2POp(dist.irecv, received, other)]
            for work in dist.batch_isend_irecv(operations):
                work.wait()

        return exchange
