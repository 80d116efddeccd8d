"""Token order of an encoder without window padding.

Attention windows divide the token grid; those at the right and bottom edges reach beyond it. The
tokens of the full windows come first, one window after the other, followed by those of the partial
windows, window by window. Everything but attention works token by token, so one reordering before
the first block and one after the last are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenOrder:
    """The tokens of a square grid, sorted by attention window."""

    grid: int  # tokens per side
    side: int  # tokens per side of an attention window

    @cached_property
    def windows(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """(row, column) of the real tokens of each window, full windows first."""
        starts = range(0, self.grid, self.side)
        cut = [
            tuple(
                (row, column)
                for row in range(top, min(top + self.side, self.grid))
                for column in range(left, min(left + self.side, self.grid))
            )
            for top in starts
            for left in starts
        ]
        return tuple(sorted(cut, key=lambda tokens: len(tokens) < self.side**2))

    @property
    def full(self) -> int:
        """Number of full windows."""
        return sum(len(tokens) == self.side**2 for tokens in self.windows)

    @cached_property
    def places(self) -> Tensor:
        """(row, column) of every token in this order, (T, 2)."""
        return torch.tensor([place for tokens in self.windows for place in tokens])

    @property
    def forward(self) -> Tensor:
        """Index in the grid of each token in this order, (T,)."""
        return self.places[:, 0] * self.grid + self.places[:, 1]

    @property
    def inverse(self) -> Tensor:
        """Index in this order of each token of the grid, (T,)."""
        return torch.argsort(self.forward)

    @cached_property
    def partial_window(self) -> Tensor:
        """Index of the partial window of each token in a partial window, (tokens,)."""
        sizes = torch.tensor([len(tokens) for tokens in self.windows[self.full :]])
        return torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    @cached_property
    def partial_padding(self) -> Tensor:
        """True for the padded positions of each partial window, (windows, side²)."""
        real = [
            {(row % self.side) * self.side + column % self.side for row, column in tokens}
            for tokens in self.windows[self.full :]
        ]
        area = range(self.side**2)
        return torch.tensor([[place not in tokens for place in area] for tokens in real])
