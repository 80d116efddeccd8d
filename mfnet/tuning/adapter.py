"""MMAdapter (MFNET.md 2.2) and its merged form."""

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
    """Two linear layers around a GELU with D/4 hidden units, without a skip connection.

    D_fc2 starts at zero, so that the network starts as SAM; D_fc1 then has a gradient from the
    second step on, as in LoRA. The published code starts at random: `D_fc2.reset_parameters()`.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(embed_dim, embed_dim // 4)
        self.D_fc2 = nn.Linear(embed_dim // 4, embed_dim)
        nn.init.zeros_(self.D_fc2.weight)
        nn.init.zeros_(self.D_fc2.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (..., D) to the same shape."""
        out: Tensor = self.D_fc2(F.gelu(self.D_fc1(tokens)))
        return out


class AdapterTuning(BlockTuning):
    """Each stream has one adapter after attention and one beside the MLP; the latter are mixed."""

    official = {  # noqa: RUF012  (a ClassVar in the base)
        f"{name}_Adapter": f"{name}_Adapter" for name in ("Img", "DSM", "MLPx", "MLPy", "wx", "wy")
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
        """Return a fresh tuning: adapters that add nothing, both streams weighted equally."""
        return cls(config.embed_dim)

    def attended(self, x: Tensor, y: Tensor) -> Streams:
        """Add the adapters, whose skip connection is in here."""
        return x + self.Img_Adapter(x), y + self.DSM_Adapter(y)

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """Return mlp(x) + wx·ax + (1-wx)·ay, and likewise with x and y exchanged."""
        ax, ay = self.MLPx_Adapter(x), self.MLPy_Adapter(y)
        wx, wy = self.wx_Adapter, self.wy_Adapter
        return (
            block.mlp(x) + wx * ax + (1 - wx) * ay,
            block.mlp(y) + wy * ay + (1 - wy) * ax,
        )

    def merge(self, block: Block) -> MergedAdapter:
        """See `BlockTuning`."""
        return MergedAdapter(self, block)


class MergedAdapter(BlockTuning):
    """AdapterTuning with its MLP adapters merged into the MLP, which has the same GELU.

    `lin1_x` is [lin1; D_fc1 of x] (H + D/4, D). `lin2_x` is [lin2, wx·D_fc2 of x] (D, H + D/4), and
    `cross_x`, (1-wx)·D_fc2 of y (D, D/4), applies to the hidden units of the other's adapter.
    A single product would need a copy of the hidden units of both streams.
    """

    def __init__(self, tuning: AdapterTuning, block: Any) -> None:
        super().__init__()
        self.Img_Adapter = copy.deepcopy(tuning.Img_Adapter).requires_grad_(False)
        self.DSM_Adapter = copy.deepcopy(tuning.DSM_Adapter).requires_grad_(False)
        lin1, lin2 = block.mlp.lin1, block.mlp.lin2
        mlp_x, mlp_y = tuning.MLPx_Adapter, tuning.MLPy_Adapter
        self.sizes = (lin1.out_features, mlp_x.D_fc1.out_features)
        wx, wy = wide(tuning.wx_Adapter), wide(tuning.wy_Adapter)
        self.lin1_x, self.lin1_x_bias = _stack(lin1, mlp_x.D_fc1)
        self.lin1_y, self.lin1_y_bias = _stack(lin1, mlp_y.D_fc1)
        self.lin2_x, self.lin2_x_bias, self.cross_x = _sum(lin2, wx, mlp_x.D_fc2, mlp_y.D_fc2)
        self.lin2_y, self.lin2_y_bias, self.cross_y = _sum(lin2, wy, mlp_y.D_fc2, mlp_x.D_fc2)

    def attended(self, x: Tensor, y: Tensor) -> Streams:
        """See `BlockTuning`."""
        return x + self.Img_Adapter(x), y + self.DSM_Adapter(y)

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """See `BlockTuning`."""
        x = F.gelu(F.linear(x, self.lin1_x, self.lin1_x_bias))
        y = F.gelu(F.linear(y, self.lin1_y, self.lin1_y_bias))
        _, adapter_x = x.split_with_sizes(self.sizes, dim=-1)
        _, adapter_y = y.split_with_sizes(self.sizes, dim=-1)
        return (
            F.linear(x, self.lin2_x, self.lin2_x_bias) + F.linear(adapter_y, self.cross_x),
            F.linear(y, self.lin2_y, self.lin2_y_bias) + F.linear(adapter_x, self.cross_y),
        )


def _stack(upper: nn.Linear, lower: nn.Linear) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of one layer that computes the outputs of both."""
    weight = torch.cat([upper.weight, lower.weight])
    bias = torch.cat([upper.bias, lower.bias])
    return frozen(weight, upper.weight), frozen(bias, upper.bias)


def _sum(
    lin2: nn.Linear, share: Tensor, own: nn.Linear, other: nn.Linear
) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Merge `share` times `own` into lin2; return its weight and bias, and the rest of `other`."""
    weight = torch.cat([wide(lin2.weight), share * wide(own.weight)], dim=1)
    bias = wide(lin2.bias) + share * wide(own.bias) + (1 - share) * wide(other.bias)
    cross = (1 - share) * wide(other.weight)
    return frozen(weight, lin2.weight), frozen(bias, lin2.bias), frozen(cross, lin2.weight)


TUNING = AdapterTuning
