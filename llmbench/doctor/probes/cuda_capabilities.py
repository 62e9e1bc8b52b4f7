"""The compute capability of each GPU that torch sees."""

from __future__ import annotations

from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield {"capabilities": [list(torch.cuda.get_device_capability(index)) for index in range(count)]}
