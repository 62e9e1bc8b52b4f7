"""A multi-layer perceptron for regression; without hidden layers it is linear regression.

Letters in names are dimensions: B batch, I inputs, W ``d_hidden``, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class MLPConfig:
    """``n_hidden`` layers of ``d_hidden`` units between ``d_in`` inputs and ``d_out`` outputs."""

    d_in: int
    d_hidden: int
    n_hidden: int
    d_out: int


class Block(nn.Module):
    """A hidden layer."""

    def __init__(self, d_in: int, d_hidden: int) -> None:
        super().__init__()
        self.fc = nn.Linear(d_in, d_hidden)

    def forward(self, x_BI: Tensor) -> Tensor:
        return F.relu(self.fc(x_BI))


class MLP(nn.Module):
    """The perceptron; ``blocks`` is empty for linear regression."""

    # What each end uses beside the blocks.
    parts: ClassVar[dict[str, tuple[str, ...]]] = {"embed": (), "finish": ("head",)}
    embed_inputs = 1  # tensors of a batch that ``embed`` takes; the others go to ``finish``

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.d_in] + [config.d_hidden] * config.n_hidden
        self.blocks = nn.ModuleList(Block(width, config.d_hidden) for width in widths[:-1])
        self.head = nn.Linear(widths[-1], config.d_out)

    def forward(self, x_BI: Tensor, y_BO: Tensor | None = None) -> Tensor:
        """The prediction_BO, or with ``y_BO`` the mean squared error over all B·O entries, in fp32 or wider."""
        x_BW = self.embed(x_BI)
        for block in self.blocks:
            x_BW = block(x_BW)
        return self.finish(x_BW, y_BO)

    def embed(self, x_BI: Tensor) -> Tensor:
        return x_BI.to(next(self.parameters()).dtype)

    def finish(self, x_BW: Tensor, y_BO: Tensor | None = None) -> Tensor:
        prediction_BO = self.head(x_BW)
        if y_BO is None:
            return prediction_BO
        wide = torch.promote_types(prediction_BO.dtype, torch.float32)
        return F.mse_loss(prediction_BO.to(wide), y_BO.to(wide))
