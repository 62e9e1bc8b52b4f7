"""Can this torch reach the GPUs of this machine? From the bus up: build, driver, selection, torch, each device."""

from llmbench.doctor.checks import cuda_build, cuda_devices, cuda_reach, cuda_visible

__all__ = ["cuda_build", "cuda_devices", "cuda_reach", "cuda_visible"]
