"""The sum of logits as published (reference MFNET.md, section 7). Knows no files, no backend.

The paper's test code adds the float32 logits of every visit to sums in float64. At a stride of an
eighth of the window these are exact while the logits of a pixel lie within a factor of a million of
each other, so that neither the order nor adding a position's visits at once changes a bit. The
float32 shares of `uniform` round: where two classes are as good as equal the other one may win.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from mfnet_runtime.tiling.blend import FloatArray, LogitMosaic, Logits
from mfnet_runtime.tiling.grid import BlendName, Offset, WindowGrid

PUBLISHED: Final = "published"
SumName = BlendName | Literal["published"]  # how overlapping logits become one


class PublishedMosaic(LogitMosaic):
    """Mean of the logits of all visits, from sums in float64; otherwise a `LogitMosaic`."""

    def __init__(self, grid: WindowGrid, classes: int) -> None:
        super().__init__(grid, classes, "uniform")
        self._sum = np.zeros(self._sum.shape)

    def add(self, row: Offset, column: Offset, logits: FloatArray) -> None:
        """Add one window, as often as the published loop visits it; see `LogitMosaic.add`."""
        visits = row.visits * column.visits
        for total, plane in zip(self._under(row, column), logits, strict=True):
            total += np.multiply(plane, visits, dtype=np.float64)

    def finish_above(self, start: int) -> Logits:
        """Mean logits, float64; see `LogitMosaic.finish_above`."""
        made = self.grid.made
        down, across = self._rows.total[self.top : start], self._columns.total
        visits = np.outer(down, across[made.start : made.stop])
        return super().finish_above(start) / visits
