"""MMAdapter (MFNET.md 2.2) and its merged form (DESIGN 4.3). Knows one block's MLP."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfnet.config import ModelConfig
from mfnet.sam import Block
from mfnet.tuning.base import BlockTuning, Streams, frozen, wide


class Adapter(nn.Module):
    """D_fc1, GELU, D_fc2 through D/4 hidden units; no skip.

    D_fc2 starts at zero, so that the network starts as SAM. Its own gradient is the hidden
    activation and not zero, so D_fc1 is reached from the second step on, as in LoRA.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(embed_dim, embed_dim // 4)
        self.D_fc2 = nn.Linear(embed_dim // 4, embed_dim)
        nn.init.zeros_(self.D_fc2.weight)
        nn.init.zeros_(self.D_fc2.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.D_fc2(F.gelu(self.D_fc1(tokens)))
        return out


class AdapterTuning(BlockTuning):
    """One adapter a stream after attention, one a stream beside the MLP, the latter mixed."""

    official = {  # noqa: RUF012  (a ClassVar in the base)
        prefix: prefix
        for prefix in (
            "Img_Adapter.",
            "DSM_Adapter.",
            "MLPx_Adapter.",
            "MLPy_Adapter.",
            "wx_Adapter",
            "wy_Adapter",
        )
    }

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.Img_Adapter = Adapter(embed_dim)
        self.DSM_Adapter = Adapter(embed_dim)
        self.MLPx_Adapter = Adapter(embed_dim)
        self.MLPy_Adapter = Adapter(embed_dim)
        self.wx_Adapter = nn.Parameter(torch.full((1,), 0.5))
        self.wy_Adapter = nn.Parameter(torch.full((1,), 0.5))

    @classmethod
    def from_config(cls, config: ModelConfig) -> BlockTuning:
        """A fresh tuning: adapters that add nothing yet, both streams weighted alike."""
        return cls(config.embed_dim)

    def attended(self, x: Tensor, y: Tensor) -> Streams:
        """See the base; the adapters' skip is inside."""
        return x + self.Img_Adapter(x), y + self.DSM_Adapter(y)

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """mlp(x) + wx·ax + (1-wx)·ay, and the same with x and y exchanged."""
        ax, ay = self.MLPx_Adapter(x), self.MLPy_Adapter(y)
        wx, wy = self.wx_Adapter, self.wy_Adapter
        return (
            block.mlp(x) + wx * ax + (1 - wx) * ay,
            block.mlp(y) + wy * ay + (1 - wy) * ax,
        )

    def merge(self, block: Block) -> MergedAdapter:
        """See the base."""
        return MergedAdapter(self, block)


class MergedAdapter(BlockTuning):
    """AdapterTuning whose MLP adapters are hidden units of the MLP: both hold the same GELU.

    `lin1_x` is [lin1; D_fc1 of x] (H + D/4, D). `lin2_x` is [lin2, wx·D_fc2 of x] (D, H + D/4) over
    the own hidden units; `cross_x`, (1-wx)·D_fc2 of y (D, D/4), is over the other adapter's. Making
    one product of all three would copy the hidden units of both streams to save a small one.
    """

    def __init__(self, tuning: AdapterTuning, block: Any) -> None:
        super().__init__()
        self.Img_Adapter = copy.deepcopy(tuning.Img_Adapter).requires_grad_(False)
        self.DSM_Adapter = copy.deepcopy(tuning.DSM_Adapter).requires_grad_(False)
        lin1, lin2 = block.mlp.lin1, block.mlp.lin2
        mlp_x, mlp_y = tuning.MLPx_Adapter, tuning.MLPy_Adapter
        self.sizes = (lin1.out_features, mlp_x.D_fc1.out_features)
        wx, wy = wide(tuning.wx_Adapter), wide(tuning.wy_Adapter)
        self.lin1_x, self.lin1_x_bias = _stacked(lin1, mlp_x.D_fc1)
        self.lin1_y, self.lin1_y_bias = _stacked(lin1, mlp_y.D_fc1)
        self.lin2_x, self.lin2_x_bias, self.cross_x = _summed(lin2, wx, mlp_x.D_fc2, mlp_y.D_fc2)
        self.lin2_y, self.lin2_y_bias, self.cross_y = _summed(lin2, wy, mlp_y.D_fc2, mlp_x.D_fc2)

    def attended(self, x: Tensor, y: Tensor) -> Streams:
        """See the base."""
        return x + self.Img_Adapter(x), y + self.DSM_Adapter(y)

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """See the base."""
        x = F.gelu(F.linear(x, self.lin1_x, self.lin1_x_bias))
        y = F.gelu(F.linear(y, self.lin1_y, self.lin1_y_bias))
        _, adapter_x = x.split_with_sizes(self.sizes, dim=-1)
        _, adapter_y = y.split_with_sizes(self.sizes, dim=-1)
        return (
            F.linear(x, self.lin2_x, self.lin2_x_bias) + F.linear(adapter_y, self.cross_x),
            F.linear(y, self.lin2_y, self.lin2_y_bias) + F.linear(adapter_x, self.cross_y),
        )


def _stacked(upper: nn.Linear, lower: nn.Linear) -> tuple[nn.Parameter, nn.Parameter]:
    """One layer giving the outputs of both."""
    weight = torch.cat([upper.weight, lower.weight])
    bias = torch.cat([upper.bias, lower.bias])
    return frozen(weight, upper.weight), frozen(bias, upper.bias)


def _summed(
    lin2: nn.Linear, share: Tensor, own: nn.Linear, other: nn.Linear
) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Weight and bias of lin2 with `share` times `own`, and the weight of the rest of `other`."""
    weight = torch.cat([wide(lin2.weight), share * wide(own.weight)], dim=1)
    bias = wide(lin2.bias) + share * wide(own.bias) + (1 - share) * wide(other.bias)
    cross = (1 - share) * wide(other.weight)
    return frozen(weight, lin2.weight), frozen(bias, lin2.bias), frozen(cross, lin2.weight)


TUNING = AdapterTuning
