"""What must be the same on all nodes, as far as the interpreter under test knows it."""

from __future__ import annotations

from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    """Yields version by version; what came before a crash is not lost."""
    import platform

    yield {"python": platform.python_version()}
    import torch

    yield {"torch": str(torch.__version__)}
    version = getattr(torch, "version", None)
    yield {"cuda": getattr(version, "cuda", None) or getattr(version, "hip", None)}
    import torch.distributed as dist

    yield {"gloo": dist.is_available() and dist.is_gloo_available()}
    if not torch.cuda.is_available():
        return
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield {"devices": names}
    if dist.is_available() and dist.is_nccl_available():
        yield {"nccl": ".".join(map(str, torch.cuda.nccl.version()))}
