"""Token order of an encoder without window padding.

Attention windows divide the token grid; those at the right and bottom edges reach beyond it. The
tokens of the full windows come first, one window after the other, followed by those of the partial
windows, window by window. Everything but attention works token by token, so one reordering before
the first block and one after the last are enough.
"""

from __future__ import annotations

import torch
from torch import Tensor


class TokenOrder:
    """The tokens of a square grid, sorted by attention window.

    Args:
        grid: Tokens per side of the grid.
        side: Tokens per side of an attention window.
    """

    forward: Tensor  # index in the grid of each token in this order, (T,)
    inverse: Tensor  # index in this order of each token of the grid, (T,)
    places: Tensor  # (row, column) of each token in this order, (T, 2)
    full: int  # number of full windows
    partial_window: Tensor  # index of the partial window of each token in one, (tokens,)
    partial_padding: Tensor  # True for the padded positions of each partial window, (n, side²)

    def __init__(self, grid: int, side: int) -> None:
        self.grid, self.side = grid, side
        rows, columns = torch.arange(grid**2) // grid, torch.arange(grid**2) % grid
        window = rows // side * -(-grid // side) + columns // side
        sizes = torch.bincount(window)
        partial = sizes[window] < side**2
        self.forward = torch.argsort(partial * len(sizes) + window, stable=True)
        self.inverse = torch.argsort(self.forward)
        self.places = torch.stack([rows, columns], dim=1)[self.forward]
        self.full = int((sizes == side**2).sum())
        inside = self.places[self.full * side**2 :] % side
        counts = sizes[sizes < side**2]
        self.partial_window = torch.repeat_interleave(torch.arange(len(counts)), counts)
        self.partial_padding = torch.ones(len(counts), side**2, dtype=torch.bool)
        self.partial_padding[self.partial_window, inside[:, 0] * side + inside[:, 1]] = False
