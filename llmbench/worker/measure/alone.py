"""How fast a node is on its own: matrix products and copies of memory, on all of its devices at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from llmbench.worker.device import Device
from llmbench.worker.events import Events, enter
from llmbench.worker.measure.memory import host_memory
from llmbench.worker.measure.quota import quota_cpus, throttled_seconds

CPU_MATRIX = 1024
GPU_MATRICES = (8192, 4096, 2048)  # the largest that fits
COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}  # of the source; more than a cache holds
SHARE_OF_FREE = 8  # what is copied takes at most one part in so many of the free memory
SLICE_SECONDS = 0.02  # of work on a shared machine: short enough that some are not disturbed
BATCHES = 8  # of queued work on a GPU, whose events tell each one's time
MOST_QUEUED = 10_000

Speed = dict[str, Any]


def measure_alone(job: dict[str, Any], events: Events) -> dict[str, Any]:
    """Speed of this node's slowest device.

    Args:
        job: ``device``; ``seconds`` of work for each metric; ``shared``: whether other nodes are on this machine.

    Returns:
        ``metrics``: by name ``value`` (``matmul`` in FLOP/s, ``memory_bandwidth`` in bytes/s, each byte counted as
        read and as written), ``best``: at most so much, and ``note`` if something explains a low one.
    """
    device = Device(job["device"])
    enter(events, "alone")
    measure = _of_gpus if device.cuda else _of_shared_cpu if job["shared"] else _of_cpu
    return {"device": device.kind, "metrics": measure(job["seconds"])}


def _of_cpu(seconds: float) -> dict[str, Speed]:
    """All work in all the time that passed: what else the node is busy with makes it slower, as it does a training.

    A quota of CPU time cuts it off for most of each period of 100 ms, so this must last many of them.
    """
    found = {}
    for metric, (run, work) in _cpu_work(CPU_MATRIX).items():
        run()
        before, begin, count = throttled_seconds(), time.perf_counter(), 0
        while count == 0 or time.perf_counter() - begin < seconds:
            run()
            count += 1
        passed = time.perf_counter() - begin
        speed = work * count / passed
        found[metric] = _speed(speed, speed, _quota_note(throttled_seconds() - before))
    return found


def _of_shared_cpu(seconds: float) -> dict[str, Speed]:
    """Work in a second of CPU time, times the share of the time that this node's quota leaves it; on one thread.

    Nodes on one machine wait for each other's threads, which says nothing about any of them. Of many short pieces of
    work the best one was disturbed least. What a quota takes away is this node's own: it is known from the limit itself
    and from how long the kernel says that it held the threads back.
    """
    torch.set_num_threads(1)
    found = {}
    for metric, (run, work) in _cpu_work(CPU_MATRIX // 2).items():
        run()
        rates: list[float] = []
        before, begin = throttled_seconds(), time.perf_counter()
        while not rates or time.perf_counter() - begin < seconds:
            rates.append(_rate_of_slice(run, work))
        passed, throttled = time.perf_counter() - begin, throttled_seconds() - before
        share = min(1.0, quota_cpus() or 1.0, max(0.01, 1 - throttled / passed))
        found[metric] = _speed(median(rates) * share, max(rates) * share, _quota_note(throttled))
    return found


def _rate_of_slice(run: Callable[[], Any], work: float) -> float:
    """Work in a second of this thread's CPU time."""
    begin, count = time.thread_time(), 0
    while count == 0 or time.thread_time() - begin < SLICE_SECONDS:
        run()
        count += 1
    return work * count / (time.thread_time() - begin)


def _quota_note(throttled: float) -> str | None:
    quota = quota_cpus()
    told = [f"a quota of {quota:g} CPUs"] if quota is not None else []
    told += [f"held back by a CPU quota for {throttled:.1f} s"] if throttled > 0 else []
    return ", ".join(told) or None


def _cpu_work(size: int) -> Mapping[str, tuple[Callable[[], Any], float]]:
    """By metric: what to run, and how much work that is."""
    a, b, product = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    source = torch.ones(max(1, min(COPY_BYTES["cpu"], host_memory() // SHARE_OF_FREE) // 4))
    target = torch.empty_like(source)
    return {
        "matmul": (lambda: torch.mm(a, b, out=product), 2.0 * size**3),
        "memory_bandwidth": (lambda: target.copy_(source), 2.0 * source.nbytes),
    }


def _of_gpus(seconds: float) -> dict[str, Speed]:
    """The slowest GPU, all of them at work at the same time, as they share power and air."""
    devices = [Device("cuda", index) for index in range(torch.cuda.device_count())]
    found = {}
    for metric, make in (("matmul", _gpu_matmul), ("memory_bandwidth", _gpu_copy)):
        speeds = _at_once(devices, make, seconds)
        slowest = min(range(len(devices)), key=lambda index: speeds[index])
        note = None
        if len(devices) > 1:
            note = f"GPU {slowest} of {len(devices)} is the slowest, the fastest {max(speeds) / speeds[slowest]:.2f}×"
        found[metric] = _speed(speeds[slowest], speeds[slowest], note)
    return found


def _at_once(
    devices: list[Device], make: Callable[[Device], tuple[Callable[[], Tensor], float]], seconds: float
) -> list[float]:
    """Work per second of each device, all of the time."""
    works = []
    for device in devices:
        torch.cuda.set_device(device.torch)
        run, work = make(device)
        run()
        device.synchronize()
        begin = device.mark()
        run()
        end = device.mark()
        device.synchronize()
        works.append((device, run, work, max(1e-6, device.between(begin, end))))
    marks: list[list[Any]] = [[] for _ in devices]
    for _ in range(BATCHES):  # in turns, so that all devices begin together
        for index, (device, run, _, once) in enumerate(works):
            torch.cuda.set_device(device.torch)
            marks[index].append(device.mark())
            for _ in range(min(MOST_QUEUED, max(1, round(seconds / BATCHES / once)))):
                run()
    speeds = []
    for index, (device, _, work, once) in enumerate(works):
        torch.cuda.set_device(device.torch)
        marks[index].append(device.mark())
        device.synchronize()
        runs = BATCHES * min(MOST_QUEUED, max(1, round(seconds / BATCHES / once)))
        speeds.append(work * runs / device.between(marks[index][0], marks[index][-1]))
    return speeds


def _gpu_matmul(device: Device) -> tuple[Callable[[], Tensor], float]:
    """Random matrices, as zeros would be faster; bf16 where the hardware has it, else fp16."""
    dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    free = torch.cuda.mem_get_info()[0]
    size = next((size for size in GPU_MATRICES if 3 * size**2 * 4 < free / 2), GPU_MATRICES[-1])
    a, b = (torch.randn(size, size, device=device.torch, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    return (lambda: torch.mm(a, b, out=product)), 2.0 * size**3


def _gpu_copy(device: Device) -> tuple[Callable[[], Tensor], float]:
    size = min(COPY_BYTES["cuda"], torch.cuda.mem_get_info()[0] // SHARE_OF_FREE)
    source = torch.ones(size // 4, device=device.torch)
    target = torch.empty_like(source)
    return (lambda: target.copy_(source)), 2.0 * source.nbytes


def _speed(value: float, best: float, note: str | None) -> Speed:
    return {"value": value, "best": best, "note": note}
