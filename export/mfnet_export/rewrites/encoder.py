"""The encoder in the form that the rewrites change: DSM embedding, token order and attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from mfnet.model.encoder import TwoStreamEncoder, attention, resize_position, two_stream_block
from mfnet.tuning.base import BlockTuning, Streams
from mfnet_export.rewrites.attention import PaddingFreeAttention
from mfnet_export.rewrites.surgery import shallow_copy
from mfnet_export.rewrites.tokens import TokenOrder


class FastEncoder(nn.Module):
    """A TwoStreamEncoder for windows of one size, equal to it until a rewrite changes it.

    Tokens are (N, G, G, D), or (N, T, D) in the order of `TokenOrder` once padding is removed.
    """

    token_order: Tensor | None
    grid_order: Tensor | None

    def __init__(self, encoder: TwoStreamEncoder) -> None:
        super().__init__()
        self.config = encoder.config
        self.sam, self.tuning = encoder.sam, encoder.tuning
        self.dsm_embed: nn.Module | None = None  # None: SAM's, on the DSM repeated to three bands
        self.attention: nn.ModuleList | None = None  # None: the original, over padded windows
        self.register_buffer("token_order", None)
        self.register_buffer("grid_order", None)
        self.training = False

    def forward(self, image: Tensor, dsm: Tensor) -> Streams:
        """See `TwoStreamEncoder.forward`."""
        embed = self.sam.patch_embed
        position = resize_position(self.sam.pos_embed, self.config.grid)
        patches = self.dsm_embed(dsm) if self.dsm_embed else embed(dsm.expand(-1, 3, -1, -1))
        x, y = self._sort(embed(image) + position), self._sort(patches + position)
        attends: Iterable[Any] = self.attention or [attention] * len(self.tuning)
        for block, tuning, attend in zip(self.sam.blocks, self.tuning, attends, strict=True):
            x, y = two_stream_block(block, cast(BlockTuning, tuning), x, y, attend)
        return self.sam.neck(self._grid(x)), self.sam.neck(self._grid(y))

    def _sort(self, tokens: Tensor) -> Tensor:
        """Sort tokens (N, G, G, D) by attention window, if padding is removed."""
        if self.token_order is None:
            return tokens
        return tokens.reshape(-1, self.config.grid**2, tokens.shape[-1])[:, self.token_order]

    def _grid(self, tokens: Tensor) -> Tensor:
        """Put tokens back on the grid, (N, D, G, G)."""
        if self.grid_order is not None:
            grid = self.config.grid
            tokens = tokens[:, self.grid_order].reshape(-1, grid, grid, tokens.shape[-1])
        return tokens.permute(0, 3, 1, 2)


def fast_from_encoder(encoder: nn.Module) -> FastEncoder:
    """Return the fast form of an encoder, or a shallow copy if it is one already."""
    if isinstance(encoder, FastEncoder):
        return shallow_copy(encoder)
    return FastEncoder(cast(TwoStreamEncoder, encoder))


def remove_padding(encoder: FastEncoder) -> FastEncoder:
    """Return the encoder with tokens sorted by attention window and no padding."""
    made, config = shallow_copy(encoder), encoder.config
    order = TokenOrder(config.grid, config.attention_window)
    made.attention = nn.ModuleList(PaddingFreeAttention(block, order) for block in made.sam.blocks)
    made.token_order, made.grid_order = order.forward, order.inverse
    return made
