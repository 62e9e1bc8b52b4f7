"""The bytes of tensors."""

from __future__ import annotations

import ctypes
import hashlib

from torch import Tensor, nn


def fingerprint(*tensors: Tensor) -> str:
    """sha256 of the tensors' bytes, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        # The bytes where they lie: numpy, the usual way to them, need not be there.
        digest.update((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))
    return digest.hexdigest()


def frozen_weights(model: nn.Module) -> dict[str, str]:
    """A fingerprint of every weight that is not trained."""
    return {name: fingerprint(weight) for name, weight in model.named_parameters() if not weight.requires_grad}
