"""SAM's image encoder, run on two streams (MFNET.md 2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfnet.config import PATCH, ModelConfig
from mfnet.sam import Block, ImageEncoderViT, add_decomposed_rel_pos
from mfnet.tuning import tuning_class
from mfnet.tuning.base import BlockTuning, Streams


class TwoStreamEncoder(nn.Module):
    """One ViT for image and DSM, tuned block by block.

    `sam` is segment-anything's encoder under its own names, so Meta's files load by name; `tuning`
    holds one BlockTuning per block.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.sam = ImageEncoderViT(
            img_size=config.position_grid * PATCH,
            patch_size=PATCH,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.heads,
            out_chans=config.neck_channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.attention_window,
            global_attn_indexes=config.global_blocks,
        )
        nn.init.trunc_normal_(self.sam.pos_embed, std=0.02)  # SAM leaves it zero until loaded
        made = tuning_class(config.tuning)
        self.tuning = nn.ModuleList(made.from_config(config) for _ in range(config.depth))

    def forward(self, image: Tensor, dsm: Tensor) -> Streams:
        """Encode a batch of windows.

        Args:
            image: (N, 3, H, W) in [0, 1].
            dsm: (N, 1, H, W) in [0, 1]; repeated for SAM's three channels.

        Returns:
            Image and DSM maps, each (N, neck, G, G) with G = H / 16.
        """
        position = resize_position(self.sam.pos_embed, image.shape[-1] // PATCH)
        x = self.sam.patch_embed(image) + position
        y = self.sam.patch_embed(dsm.expand(-1, 3, -1, -1)) + position
        for block, tuning in zip(self.sam.blocks, self.tuning, strict=True):
            x, y = two_stream_block(block, cast(BlockTuning, tuning), x, y)
        return self.sam.neck(x.permute(0, 3, 1, 2)), self.sam.neck(y.permute(0, 3, 1, 2))

    def merge(self) -> None:
        """Replace every block's tuning by its merged form; merging twice changes nothing."""
        self.tuning = merge_tunings(self.sam, self.tuning)


def merge_tunings(sam: ImageEncoderViT, tuning: nn.ModuleList) -> nn.ModuleList:
    """Return the merged form of every block's tuning; a merged tuning is returned as it is."""
    return nn.ModuleList(
        cast(BlockTuning, one).merge(block) for block, one in zip(sam.blocks, tuning, strict=True)
    )


def two_stream_block(
    block: Block,
    tuning: BlockTuning,
    x: Tensor,
    y: Tensor,
    attend: Callable[[Block, Tensor], Tensor] | None = None,
) -> Streams:
    """Run one transformer block on both streams.

    Args:
        block: SAM's block.
        tuning: Its fine-tuning.
        x: Tokens of the image stream, (N, G, G, D), or in the shape that `attend` takes.
        y: Tokens of the DSM stream.
        attend: Replaces `attention`.
    """
    attend = attend or attention
    qkv_x, qkv_y = tuning.qkv(block, block.norm1(x), block.norm1(y))
    attended_x, attended_y = tuning.attended(
        block.attn.proj(attend(block, qkv_x)), block.attn.proj(attend(block, qkv_y))
    )
    x, y = x + attended_x, y + attended_y
    mlp_x, mlp_y = tuning.mlp(block, block.norm2(x), block.norm2(y))
    return x + mlp_x, y + mlp_y


def attention(block: Block, qkv: Tensor) -> Tensor:
    """Apply multi-head attention to one stream, inside windows or over the whole grid.

    Args:
        block: Holds heads, window (0: none), relative-position tables and the qkv bias.
        qkv: (N, G, G, 3D), for the real tokens only.

    Returns:
        (N, G, G, D), before the projection.
    """
    grid, side = qkv.shape[1], block.window_size or qkv.shape[1]
    padded = -(-grid // side) * side
    if padded > grid:
        # SAM pads with zero tokens, unmasked, and qkv maps a zero token to its bias.
        inside = torch.arange(padded, device=qkv.device) < grid
        real, extra = inside[:, None, None] & inside[None, :, None], padded - grid
        qkv = torch.where(real, F.pad(qkv, (0, 0, 0, extra, 0, extra)), block.attn.qkv.bias)
    heads, windows = block.attn.num_heads, padded // side
    head_dim = qkv.shape[-1] // (3 * heads)
    # (N, wi, i, wj, j, 3, heads, d) -> (3, N·wi·wj·heads, i·j, d)
    parts = qkv.reshape(-1, windows, side, windows, side, 3, heads, head_dim)
    parts = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, side * side, head_dim)
    q, k, v = parts[0], parts[1], parts[2]
    scores = (q * block.attn.scale) @ k.transpose(-2, -1)
    if block.attn.use_rel_pos:
        sides = (side, side)
        scores = add_decomposed_rel_pos(
            scores, q, block.attn.rel_pos_h, block.attn.rel_pos_w, sides, sides
        )
    out = scores.softmax(dim=-1) @ v
    out = out.reshape(-1, windows, windows, heads, side, side, head_dim)
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, padded, padded, heads * head_dim)
    cropped: Tensor = out[:, :grid, :grid]
    return cropped


def resize_position(position: Tensor, grid: int) -> Tensor:
    """Resize the position embedding (1, P, P, D) bicubically to (1, grid, grid, D)."""
    if position.shape[1:3] == (grid, grid):
        return position
    planes = position.permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=(grid, grid), mode="bicubic", align_corners=False)
    return planes.permute(0, 2, 3, 1)
