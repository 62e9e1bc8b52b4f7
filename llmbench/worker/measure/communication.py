"""Time in collectives, by torch's profiler, in steps of its own after the timed window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmbench.worker.device import Device

STEPS = 3
WINDOW = "llmbench: profiled steps"


def measure_communication(trainer: Any, device: Device) -> dict[str, Any] | None:
    """Seconds of one step in which a collective ran, waiting for other ranks included; None if none was seen.

    Collectives may overlap with computing, so this is not what a step would save without them. On the CPU the
    operations of gloo count, on CUDA the kernels of NCCL.

    Args:
        trainer: after its last step; it is stepped on, at learning rate zero.

    Returns:
        ``seconds_per_step``, and ``step_seconds`` of the same steps: the profiler makes them longer than others, so
        shares are to be told of these. ``source`` says what was seen.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.cuda else [])
    with profile(activities=activities) as profiler:
        trainer.step()  # here the ranks wait for the last one to start its profiler, which is no communication
        device.synchronize()
        with record_function(WINDOW):
            for _ in range(STEPS):
                trainer.step()
            device.synchronize()
    wanted, prefix = (DeviceType.CUDA, "nccl") if device.cuda else (DeviceType.CPU, "gloo:")
    events = profiler.events()
    window = next(event.time_range for event in events if event.name == WINDOW and event.device_type == DeviceType.CPU)
    spans = [
        (max(event.time_range.start, window.start), min(event.time_range.end, window.end))
        for event in events
        if event.device_type == wanted and event.name.startswith(prefix)
    ]
    seconds = covered(spans) / 1e6
    if not seconds:
        return None
    return {
        "seconds_per_step": seconds / STEPS,
        "step_seconds": (window.end - window.start) / 1e6 / STEPS,
        "source": f"torch.profiler, {prefix.rstrip(':')}",
    }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals; those that end before they begin are empty."""
    total, end = 0.0, float("-inf")
    for begin, until in sorted(spans):
        total += max(0.0, until - max(begin, end))
        end = max(end, until)
    return total
