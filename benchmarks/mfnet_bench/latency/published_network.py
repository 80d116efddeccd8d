"""MFNet in the published order of operations: the baseline that every latency is a ratio to.

`mfnet.MFNet` leaves window padding out of qkv, projection and adapters. The published code does
not (MFNET.md 2): it pads the normalised tokens with zeros to whole windows, runs qkv, attention,
projection and whatever follows it on all of them, 784 for 256 at 256 px, and crops afterwards;
each stream alone, nothing merged. Fusion and decoder are those of `mfnet`, which keep the
published order. Where an operator is chosen rather than an order, the quicker one is taken: the
published LoRA writes its change of q and v through a mask of booleans, this one concatenates.

Knows no files, no clocks and no tuning but its hooks.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mfnet.config import PATCH
from mfnet.model.encoder import resized_position
from mfnet.model.network import MFNet
from mfnet.sam import (
    Block,
    add_decomposed_rel_pos,
    window_partition,
    window_unpartition,
)
from mfnet.tuning.base import BlockTuning, Streams


class PublishedMFNet(nn.Module):
    """The same function as the network given, with whose weights it runs.

    Args:
        network: Unmerged: a merged one no longer does what was published.
    """

    def __init__(self, network: MFNet) -> None:
        super().__init__()
        self.network = network
        self.config = network.config

    def forward(self, image: Tensor, dsm: Tensor) -> Tensor:
        """Class logits of a batch of windows.

        Args:
            image: (N, 3, S, S) in [0, 1], S a multiple of 32.
            dsm: (N, 1, S, S) in [0, 1], scaled over its scene.

        Returns:
            Logits (N, classes, S, S).
        """
        encoder = self.network.encoder
        sam = encoder.sam
        position = resized_position(sam.pos_embed, image.shape[-1] // PATCH)
        x = sam.patch_embed(image) + position
        y = sam.patch_embed(dsm.repeat(1, 3, 1, 1)) + position
        for block, tuning in zip(sam.blocks, encoder.tuning, strict=True):
            x, y = published_block(block, cast(BlockTuning, tuning), x, y)
        fused = self.network.fusion(
            sam.neck(x.permute(0, 3, 1, 2)), sam.neck(y.permute(0, 3, 1, 2))
        )
        logits: Tensor = self.network.decoder(fused, image.shape[-1])
        return logits


def published_block(block: Block, tuning: BlockTuning, x: Tensor, y: Tensor) -> Streams:
    """One transformer block over both streams, tokens (N, G, G, D)."""
    skip_x, skip_y = x, y
    x, y = block.norm1(x), block.norm1(y)
    side, grid = block.window_size, (x.shape[1], x.shape[2])
    if side:
        x, padded = window_partition(x, side)
        y, _ = window_partition(y, side)
    x, y = tuning.qkv(block, x, y)
    x, y = _attention(block, x), _attention(block, y)
    x, y = tuning.attended(block.attn.proj(x), block.attn.proj(y))
    if side:
        x = window_unpartition(x, side, padded, grid)
        y = window_unpartition(y, side, padded, grid)
    x, y = skip_x + x, skip_y + y
    mlp_x, mlp_y = tuning.mlp(block, block.norm2(x), block.norm2(y))
    return x + mlp_x, y + mlp_y


def _attention(block: Block, qkv: Tensor) -> Tensor:
    """Attention over all tokens of each window, padding included: (M, S, S, 3D) to (M, S, S, D)."""
    attention = block.attn
    count, height, width, _ = qkv.shape
    parts = qkv.reshape(count, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = parts.reshape(3, count * attention.num_heads, height * width, -1).unbind(0)
    scores = (q * attention.scale) @ k.transpose(-2, -1)
    sizes = (height, width)
    scores = add_decomposed_rel_pos(
        scores, q, attention.rel_pos_h, attention.rel_pos_w, sizes, sizes
    )
    out = (scores.softmax(dim=-1) @ v).view(count, attention.num_heads, height, width, -1)
    joined: Tensor = out.permute(0, 2, 3, 1, 4).reshape(count, height, width, -1)
    return joined
