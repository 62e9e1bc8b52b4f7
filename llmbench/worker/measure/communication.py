"""Time in collectives, by torch's profiler, in steps of its own after the timed window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmbench.worker.device import Device

STEPS = 3


def measure_communication(trainer: Any, device: Device) -> dict[str, Any] | None:
    """Seconds of one step in which a collective ran, waiting for other ranks included; None if none was seen.

    Collectives may overlap with computing, so this is not what a step would save without them. On the CPU the
    operations of gloo count, on CUDA the kernels of NCCL.

    Args:
        trainer: after its last step; it is stepped on, at learning rate zero.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.cuda else [])
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            trainer.step()
        device.synchronize()
    wanted, prefix = (DeviceType.CUDA, "nccl") if device.cuda else (DeviceType.CPU, "gloo:")
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == wanted and event.name.startswith(prefix)
    ]
    if not spans:
        return None
    return {"seconds_per_step": covered(spans) / 1e6 / STEPS, "source": f"torch.profiler, {prefix.rstrip(':')}"}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for begin, until in sorted(spans):
        total += max(0.0, until - max(begin, end))
        end = max(end, until)
    return total
