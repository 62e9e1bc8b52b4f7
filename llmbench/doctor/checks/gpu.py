"""The health of each GPU, as the driver's management library (NVML) and the kernel log tell it."""

from __future__ import annotations

from importlib import import_module

_PARTS = ("nvml", "present", "smi", "heat", "memory", "use", "links", "log")
"""Files ``gpu_….py``, in the order in which their checks are told."""

for _part in _PARTS:
    import_module(f"llmbench.doctor.checks.gpu_{_part}")
