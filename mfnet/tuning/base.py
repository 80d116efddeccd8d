"""The interface of a fine-tuning mechanism: hooks into one transformer block.

A block runs `qkv`, attention, projection, `attended`, `mlp`; the three named steps are hooks, which
work token by token.
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
    """Changes to one block; this base class changes nothing and runs SAM's own weights.

    All parameters of a tuning train. SAM's block is passed to the hooks and never stored, so it
    stays frozen. Tokens are (..., D), and both streams have one shape.
    """

    # Prefix of a parameter in an official block ("mlp.lin1.lora_") -> prefix here ("lin1.lora_").
    official: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def from_config(cls, config: ModelConfig) -> BlockTuning:
        """Return a freshly initialised tuning for one block."""
        return cls()

    def qkv(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """Return packed (q, k, v) of both streams, each (..., 3D).

        A zero token must become `block.attn.qkv.bias`: the encoder fills window padding with it.
        """
        return block.attn.qkv(x), block.attn.qkv(y)

    def attended(self, x: Tensor, y: Tensor) -> Streams:
        """Change the output of the attention projection, before the residual sum; (..., D) each."""
        return x, y

    def mlp(self, block: Block, x: Tensor, y: Tensor) -> Streams:
        """Return the MLP branch of both normalised streams, before the residual sum; (..., D)."""
        return block.mlp(x), block.mlp(y)

    def with_qkv_gain(self, gain: Tensor) -> BlockTuning | None:
        """Scale the rows of the tuning's own qkv weights by `gain` (3D,), without the biases.

        The result takes its bias from `block.attn.qkv`. Returns the tuning itself if it does not
        change `qkv`, and None if scaling is not supported: exporting then keeps the block's qkv.
        """
        return self if type(self).qkv is BlockTuning.qkv else None

    def merge(self, block: Block) -> BlockTuning:
        """Return an equal tuning with fewer operations; a merged tuning returns itself.

        The result owns every weight that it changes and shares none with `block` or with this
        tuning. Weights that it leaves unchanged are still read from `block`.
        """
        return self


def frozen(weight: Tensor, like: Tensor) -> nn.Parameter:
    """Return a merged weight as a parameter that does not train, in the dtype of `like`."""
    return nn.Parameter(weight.detach().to(like.dtype, copy=True), requires_grad=False)


def wide(weight: Tensor) -> Tensor:
    """Return a weight in float64, so that merging rounds only once."""
    return weight.detach().to(torch.float64)
