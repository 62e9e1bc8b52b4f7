"""The installed torch: the dynamic linker, its files, its import, and its use."""

from __future__ import annotations

from llmbench.doctor.checks import torch_files, torch_import, torch_libraries, torch_use, torch_wheels
from llmbench.doctor.checks.installing import install, reinstall
from llmbench.doctor.checks.torch_use import OLDEST_TO_TRAIN

__all__ = [
    "OLDEST_TO_TRAIN",
    "install",
    "reinstall",
    "torch_files",
    "torch_import",
    "torch_libraries",
    "torch_use",
    "torch_wheels",
]
