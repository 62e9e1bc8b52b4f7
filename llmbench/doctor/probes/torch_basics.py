"""Uses what every training uses of torch once, on the CPU, and asks what this build lacks."""

from __future__ import annotations

from collections.abc import Iterator


def probe(arguments: dict) -> Iterator[dict]:
    import torch

    yield {
        "openmp": torch.backends.openmp.is_available(),
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "lapack": bool(getattr(torch._C, "has_lapack", True)),
        "distributed": torch.distributed.is_available(),
        "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    }
    if torch.version.cuda:
        # Does not touch a device: the library says its version, and torch compares it with what it was built for.
        try:
            yield {"cudnn": torch.backends.cudnn.version()}
        except Exception as error:
            yield {"cudnn_error": f"{type(error).__name__}: {error}"}
    yield {"trying": "a matrix product"}
    # Large enough for the BLAS library, which loads its kernels when it is first called.
    product = torch.ones(32, 32) @ torch.ones(32, 32)
    yield {"product": float(product[0, 0]), "trying": "a gradient"}
    x = torch.ones(2, requires_grad=True)
    try:
        (x * x).sum().backward()
        yield {"gradient": x.grad.tolist() if x.grad is not None else None}
    except Exception as error:
        yield {"gradient_error": f"{type(error).__name__}: {error}"}
    yield {"trying": None}
