"""Token files as tensors, and the windows that a language model trains and is judged on."""

from __future__ import annotations

import os

import torch
from torch import Tensor


def read(path: str) -> Tensor:
    """Maps a file of little-endian int32 token ids: tokens_N, not read into memory before it is used."""
    return torch.from_file(path, shared=False, size=os.path.getsize(path) // 4, dtype=torch.int32)


def random_windows(tokens_N: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """``count`` windows at random places: windows_CL, int64."""
    starts_C = torch.randint(len(tokens_N) - length + 1, (count,), generator=generator)
    return windows(tokens_N, starts_C, length)


def consecutive_windows(tokens_N: Tensor, count: int, length: int, stride: int) -> Tensor:
    """The first windows of a text, at most ``count``: windows_CL, int64."""
    fitting = (len(tokens_N) - length) // stride + 1
    return windows(tokens_N, torch.arange(min(count, fitting)) * stride, length)


def windows(tokens_N: Tensor, starts_C: Tensor, length: int) -> Tensor:
    return tokens_N[starts_C[:, None] + torch.arange(length)].long()


def unigram_loss(train_N: Tensor, targets: Tensor, vocab_size: int) -> float:
    """Mean cross-entropy in nats of ``targets`` under the word frequencies of ``train_N`` (add-one smoothing)."""
    counts_V = torch.bincount(train_N.flatten(), minlength=vocab_size).double() + 1
    log_p_V = (counts_V / counts_V.sum()).log()
    return -log_p_V[targets.flatten()].mean().item()
