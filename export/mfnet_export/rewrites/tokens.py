"""The order in which a padding-free encoder keeps its tokens. Knows indices, no weights.

A grid of tokens falls into attention windows; those at the right and at the bottom reach over its
edge. Full windows come first, one after the other, then the tokens of the others, window by
window. Everything but attention works token by token, so one reordering before the first block
and one after the last are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenOrder:
    """Tokens of a grid (row by row) sorted by attention window."""

    grid: int  # tokens a side
    side: int  # tokens a side of an attention window

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

    @property
    def rest(self) -> int:
        """Tokens in the others."""
        return self.grid**2 - self.full * self.side**2

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
    def rest_window(self) -> Tensor:
        """Which of the other windows each of their tokens is in, (rest,)."""
        sizes = torch.tensor([len(tokens) for tokens in self.windows[self.full :]])
        return torch.repeat_interleave(torch.arange(len(sizes)), sizes)

    @cached_property
    def rest_padding(self) -> Tensor:
        """Whether each position of the other windows is padding, (windows, side²) bool."""
        real = [
            {(row % self.side) * self.side + column % self.side for row, column in tokens}
            for tokens in self.windows[self.full :]
        ]
        area = range(self.side**2)
        return torch.tensor([[place not in tokens for place in area] for tokens in real])
