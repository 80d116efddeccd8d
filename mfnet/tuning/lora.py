"""MMLoRA (MFNET.md 2.1) and its merged form."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfnet.config import ModelConfig
from mfnet.sam import Block
from mfnet.tuning.base import BlockTuning, Streams, frozen, wide


def _down(rows: int, columns: int) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(rows, columns))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # A random, B zero: LoRA starts as SAM
    return weight


class QkvLora(nn.Module):
    """Low-rank change of q and v for each stream: q += (1/r) Bq Aq x, v += (1/r) Bv Av x."""

    def __init__(self, embed_dim: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.lora_Ax = _down(2 * rank, embed_dim)
        self.lora_Bx = nn.Parameter(torch.zeros(2 * embed_dim, rank))
        self.lora_Ay = _down(2 * rank, embed_dim)
        self.lora_By = nn.Parameter(torch.zeros(2 * embed_dim, rank))

    def forward(self, qkv: nn.Linear, x: Tensor, y: Tensor) -> Streams:
        """Map tokens (..., D) to (..., 3D)."""
        return (
            qkv(x) + self._change(x, self.lora_Ax, self.lora_Bx),
            qkv(y) + self._change(y, self.lora_Ay, self.lora_By),
        )

    def _change(self, tokens: Tensor, down: Tensor, up: Tensor) -> Tensor:
        low_q, low_v = F.linear(tokens, down).chunk(2, dim=-1)
        up_q, up_v = up.chunk(2)
        q, v = F.linear(low_q, up_q), F.linear(low_v, up_v)
        return torch.cat([q, torch.zeros_like(q), v], dim=-1) / self.rank  # k is unchanged

    def merged_weight(self, qkv: nn.Linear, down: Tensor, up: Tensor) -> nn.Parameter:
        """Return W + (1/r) B A, (3D, D)."""
        (down_q, down_v), (up_q, up_v) = wide(down).chunk(2), wide(up).chunk(2)
        q, v = up_q @ down_q, up_v @ down_v
        change = torch.cat([q, torch.zeros_like(q), v]) / self.rank
        return frozen(wide(qkv.weight) + change, qkv.weight)


class CrossLora(nn.Module):
    """Low-rank change of a linear layer that also mixes the streams, without scaling by 1/r.

    out_x = W x + b + wx·Bx(Ax x) + (1-wx)·By(Ay y), and likewise with x and y exchanged.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.lora_Ax = _down(rank, inputs)
        self.lora_Ay = _down(rank, inputs)
        self.lora_Bx = nn.Parameter(torch.zeros(outputs, rank))
        self.lora_By = nn.Parameter(torch.zeros(outputs, rank))
        self.lora_wx = nn.Parameter(torch.full((1,), 0.5))
        self.lora_wy = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, linear: nn.Linear, x: Tensor, y: Tensor) -> Streams:
        """Map tokens (..., inputs) to (..., outputs)."""
        change_x = F.linear(F.linear(x, self.lora_Ax), self.lora_Bx)
        change_y = F.linear(F.linear(y, self.lora_Ay), self.lora_By)
        wx, wy = self.lora_wx, self.lora_wy
        return (
            linear(x) + wx * change_x + (1 - wx) * change_y,
            linear(y) + wy * change_y + (1 - wy) * change_x,
        )


class MergedCrossLora(nn.Module):
    """CrossLora with the same-stream part merged; one product computes the output and A x.

    `weight_x` is [W + wx·Bx Ax; Ax] (outputs + r, inputs); `cross_x` is (1-wx)·By (outputs, r).
    """

    def __init__(self, lora: CrossLora, linear: nn.Linear) -> None:
        super().__init__()
        self.sizes = (linear.out_features, lora.lora_Ax.shape[0])
        weight, like = wide(linear.weight), linear.weight
        ax, ay = wide(lora.lora_Ax), wide(lora.lora_Ay)
        bx, by = wide(lora.lora_Bx), wide(lora.lora_By)
        wx, wy = wide(lora.lora_wx), wide(lora.lora_wy)
        self.weight_x = frozen(torch.cat([weight + wx * (bx @ ax), ax]), like)
        self.weight_y = frozen(torch.cat([weight + wy * (by @ ay), ay]), like)
        self.cross_x = frozen((1 - wx) * by, like)
        self.cross_y = frozen((1 - wy) * bx, like)
        bias = wide(linear.bias)
        self.bias = frozen(torch.cat([bias, bias.new_zeros(self.sizes[1])]), like)

    def forward(self, x: Tensor, y: Tensor) -> Streams:
        """Map tokens (..., inputs) to (..., outputs)."""
        out_x, low_x = F.linear(x, self.weight_x, self.bias).split_with_sizes(self.sizes, dim=-1)
        out_y, low_y = F.linear(y, self.weight_y, self.bias).split_with_sizes(self.sizes, dim=-1)
        return out_x + F.linear(low_y, self.cross_x), out_y + F.linear(low_x, self.cross_y)


class LoraTuning(BlockTuning):
    """LoRA on q, v and both layers of the MLP; the attention projection stays unchanged."""

    official = {  # noqa: RUF012  (a ClassVar in the base)
        "attn.qkv.lora_": "lora_qkv.lora_",
        "mlp.lin1.lora_": "lin1.lora_",
        "mlp.lin2.lora_": "lin2.lora_",
    }

    def __init__(self, embed_dim: int, rank: int) -> None:
        super().__init__()
        hidden = 4 * embed_dim  # SAM's MLP ratio
        self.lora_qkv = QkvLora(embed_dim, rank)
        self.lin1 = CrossLora(embed_dim, hidden, rank)
        self.lin2 = CrossLora(hidden, embed_dim, rank)

    @classmethod
    def from_config(cls, config: ModelConfig) -> BlockTuning:
        """Return a fresh tuning: A Kaiming-uniform, B zero, both streams weighted equally."""
        return cls(config.embed_dim, config.rank)

    def qkv(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """See `BlockTuning`."""
        streams: Streams = self.lora_qkv(block.attn.qkv, x, y)
        return streams

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """See `BlockTuning`."""
        x, y = self.lin1(block.mlp.lin1, x, y)
        streams: Streams = self.lin2(block.mlp.lin2, F.gelu(x), F.gelu(y))
        return streams

    def merge(self, block: Block) -> MergedLora:
        """See `BlockTuning`."""
        return MergedLora(self, block)


class MergedLora(BlockTuning):
    """LoraTuning with one qkv weight per stream and two products per layer of the MLP."""

    def __init__(self, tuning: LoraTuning, block: Any) -> None:
        super().__init__()
        qkv, lora = block.attn.qkv, tuning.lora_qkv
        self.qkv_x = lora.merged_weight(qkv, lora.lora_Ax, lora.lora_Bx)
        self.qkv_y = lora.merged_weight(qkv, lora.lora_Ay, lora.lora_By)
        self.lin1 = MergedCrossLora(tuning.lin1, block.mlp.lin1)
        self.lin2 = MergedCrossLora(tuning.lin2, block.mlp.lin2)

    def qkv(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """See `BlockTuning`."""
        bias = block.attn.qkv.bias
        return F.linear(x, self.qkv_x, bias), F.linear(y, self.qkv_y, bias)

    def with_qkv_gain(self, gain: Tensor) -> MergedLora:
        """See `BlockTuning`."""
        made = copy.copy(self)
        made._parameters = dict(self._parameters)
        for name, weight in (("qkv_x", self.qkv_x), ("qkv_y", self.qkv_y)):
            made._parameters[name] = frozen(wide(weight) * wide(gain)[:, None], weight)
        return made

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """See `BlockTuning`."""
        x, y = self.lin1(x, y)
        streams: Streams = self.lin2(F.gelu(x), F.gelu(y))
        return streams


TUNING = LoraTuning
