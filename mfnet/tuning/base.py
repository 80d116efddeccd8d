"""The interface of a fine-tuning mechanism: what it changes in one transformer block.

A block runs `qkv`, attention, projection, `attended`, `mlp`; the three named steps are hooks. It
does not know the other blocks, nor attention windows: hooks work token by token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mfnet.config import ModelConfig
from mfnet.sam import Block

Streams = tuple[Tensor, Tensor]  # image stream x, DSM stream y


class BlockTuning(nn.Module):
    """What fine-tuning adds to one block; this base adds nothing and runs SAM's own weights.

    Every parameter held here trains; SAM's block is passed to the hooks and never held, so it
    stays frozen. Tokens are (..., D), both streams of one shape.
    """

    # Prefix of a parameter in an official block ("mlp.lin1.lora_") -> prefix here ("lin1.lora_").
    official: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def from_config(cls, config: ModelConfig) -> BlockTuning:
        """A fresh, initialised tuning for one block of `config`."""
        return cls()

    def qkv(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """Packed (q, k, v) of both streams, each (..., 3D).

        Must map a zero token to `block.attn.qkv.bias`: the encoder fills window padding with it.
        """
        return block.attn.qkv(x), block.attn.qkv(y)

    def attended(self, x: Tensor, y: Tensor) -> Streams:
        """What follows the attention projection and precedes the residual sum, each (..., D)."""
        return x, y

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """The MLP branch of both normalised streams, without the residual sum, each (..., D)."""
        return block.mlp(x), block.mlp(y)

    def with_qkv_gain(self, gain: Tensor) -> BlockTuning | None:
        """This tuning with each row of its own qkv weights times `gain` (3D,), biases left alone.

        Itself where `qkv` is SAM's; None where it cannot be done, and exporting then leaves the
        block's qkv as it is. What gives another tuning must take its bias from `block.attn.qkv`.
        """
        return self if type(self).qkv is BlockTuning.qkv else None

    def merge(self, block: Block) -> BlockTuning:
        """An equal tuning of fewer operations (DESIGN section 4); of a merged one, itself.

        The result owns every weight it changes and shares none with `block` or with this one;
        what a hook leaves to SAM (the shared qkv of adapters, say) is still read from `block`.
        """
        return self


def frozen(weight: Tensor, like: Tensor) -> nn.Parameter:
    """A merged weight, computed in float64, in the dtype of `like`; it does not train."""
    return nn.Parameter(weight.detach().to(like.dtype, copy=True), requires_grad=False)


def wide(weight: Tensor) -> Tensor:
    """The weight in float64, so that merging rounds once."""
    return weight.detach().to(torch.float64)
