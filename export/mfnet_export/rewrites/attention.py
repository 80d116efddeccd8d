"""Attention over the real tokens of each window only.

Padding tokens are zero before `qkv`, so their keys and values are constants: the bias. Their
outputs are not used, so only real tokens are queries. The full windows form one batch; the tokens
of all partial windows attend together, with a constant mask that keeps the windows apart. The
padding of the partial windows follows as constant keys. Without relative position these keys are
equal within a window and become one key with log(count) added to its score; with relative
position each stays at its place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfnet.sam import Block, get_rel_pos
from mfnet_export.rewrites.tokens import TokenOrder

# Added to the scores of tokens in different windows: the exponential is 0 in any precision, and
# FP16 has room for a score of the same magnitude on top.
MASKED = -(2.0**14)


class PaddingFreeAttention(nn.Module):
    """Multi-head attention over real tokens only, in the order of `TokenOrder`.

    Args:
        block: SAM's block. Its relative-position tables are used if `use_rel_pos` is set.
        order: Order of the encoder's tokens.
    """

    def __init__(self, block: Block, order: TokenOrder) -> None:
        super().__init__()
        attn, windowed = block.attn, block.window_size > 0
        self.heads = attn.num_heads
        side = order.side if windowed else order.grid
        places = order.places % side
        keys = places[:, 0] * side + places[:, 1]  # place of each token in its window
        full = order.full * side**2 if windowed else order.grid**2
        self.sizes = (full, order.grid**2 - full)
        self.groups = nn.ModuleList()
        if full:
            self.groups.append(TokenGroup(attn, side, keys[: side**2]))
        if order.grid**2 > full:
            own, padding = order.partial_window, order.partial_padding[order.partial_window]
            mask = torch.where(own[:, None] == own, 0.0, MASKED).to(attn.qkv.weight)
            group = TokenGroup(attn, side, keys[full:], mask, padding)
            self.groups.append(group)

    def forward(self, block: Block, qkv: Tensor) -> Tensor:
        """Attend in a batch of real tokens, (B, T, 3D) -> (B, T, D), before the projection."""
        tokens = sum(self.sizes)
        parts = qkv.reshape(-1, tokens, 3, self.heads, qkv.shape[-1] // (3 * self.heads))
        if len(self.groups) == 1:
            out: Tensor = self.groups[0](*parts.unbind(2))
            return out.reshape(-1, tokens, qkv.shape[-1] // 3)
        full, rest = parts.split_with_sizes(self.sizes, dim=1)
        attended = [self.groups[0](*full.unbind(2)), self.groups[1](*rest.unbind(2))]
        return torch.cat(
            [
                out.reshape(-1, size, qkv.shape[-1] // 3)
                for out, size in zip(attended, self.sizes, strict=True)
            ],
            dim=1,
        )


class TokenGroup(nn.Module):
    """Tokens that attend to each other, in batches of one size.

    Args:
        attn: SAM's attention.
        side: Tokens per side of a window.
        keys: Place of each token in its window, counted row by row, (n,).
        mask: Added to the scores of token pairs, (n, n).
        padding: True for each padded position of a token's window, (n, side²).
    """

    table: Tensor | None  # (n, d, 2 side)
    position: Tensor | None  # (2 side, n + padding), of zeros and ones
    mask: Tensor | None  # (n, n + padding)
    padding_key: Tensor | None  # (heads, n + padding, d), None where padding is zero
    padding_value: Tensor | None

    def __init__(
        self,
        attn: Any,
        side: int,
        keys: Tensor,
        mask: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.tokens, self.scale, self.padding = len(keys), float(attn.scale), 0
        table: Tensor | None = None
        position: Tensor | None = None
        if attn.use_rel_pos:
            table, onehot = _tables(attn, side, keys)
            position = onehot[:, keys]
        if mask is not None and padding is not None:
            if position is None:
                counted = padding.sum(1, keepdim=True).to(mask).log()
            else:
                counted = torch.where(padding, 0.0, MASKED).to(mask)
                position = torch.cat([position, onehot], dim=1)
            self.padding = counted.shape[1]
            mask = torch.cat([mask, counted], dim=1)
        self.register_buffer("table", table)
        self.register_buffer("position", position)
        self.register_buffer("mask", mask)
        _, key, value = attn.qkv.bias.detach().reshape(3, attn.num_heads, 1, -1)
        self.register_buffer("padding_key", self._padding_rows(key))
        self.register_buffer("padding_value", self._padding_rows(value))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend, three (B, m, heads, d) with m a multiple of n -> (B', n, heads, d)."""
        q, k, v = (x.reshape(-1, self.tokens, *x.shape[2:]).permute(0, 2, 1, 3) for x in (q, k, v))
        k, v = self._padded(k, self.padding_key), self._padded(v, self.padding_value)
        scores = (q if self.scale == 1 else q * self.scale) @ k.transpose(-2, -1)
        if self.table is not None and self.position is not None:
            scores = scores + self._relative(q, self.table) @ self.position
        if self.mask is not None:
            scores = scores + self.mask
        out: Tensor = (scores.softmax(dim=-1) @ v).permute(0, 2, 1, 3)
        return out

    def _relative(self, q: Tensor, table: Tensor) -> Tensor:
        """Multiply queries with the table rows of their token, (B', heads, n, d) -> (..., 2 side).

        One product per token, because each token has its own distances.
        """
        heads, dim = q.shape[1], q.shape[3]
        products = q.permute(2, 0, 1, 3).reshape(self.tokens, -1, dim) @ table
        return products.reshape(self.tokens, -1, heads, products.shape[-1]).permute(1, 2, 0, 3)

    def _padding_rows(self, bias: Tensor) -> Tensor | None:
        """Return zeros for the tokens and the bias for the padding, (heads, n + padding, d)."""
        if not self.padding or not bias.any():
            return None
        return torch.cat(
            [
                bias.new_zeros(()).expand(len(bias), self.tokens, bias.shape[-1]),
                bias.expand(-1, self.padding, -1),
            ],
            dim=1,
        )

    def _padded(self, x: Tensor, rows: Tensor | None) -> Tensor:
        if self.padding:
            x = F.pad(x, (0, 0, 0, self.padding))
        return x if rows is None else x + rows


def _tables(attn: Any, side: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of both tables for each token, (n, d, 2 side), and a selection matrix.

    The matrix, (2 side, side²), has a one for the row and a one for the column of each position.
    """
    down, across = (
        get_rel_pos(side, side, table.detach()) for table in (attn.rel_pos_h, attn.rel_pos_w)
    )
    table = torch.cat([down[keys // side], across[keys % side]], dim=1).transpose(1, 2)
    places = torch.arange(side**2)
    steps = torch.arange(side)[:, None]
    onehot = torch.cat([steps == places // side, steps == places % side])
    return table.contiguous(), onehot.to(table)
