"""Blend the logits of overlapping windows, releasing rows that no later window reaches.

Only the rows under the current row of windows are held: classes x window x width x 4 bytes,
whatever the scene's height.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mfnet_runtime.scene.normalize import FloatArray
from mfnet_runtime.tiling.classes import Logits
from mfnet_runtime.tiling.grid import Offset, WindowGrid
from mfnet_runtime.tiling.options import PUBLISHED, BlendName, SumName

Profile = npt.NDArray[np.float64]


def window_profile(blend: BlendName, window: int) -> Profile:
    """Weight of each pixel along one axis of a window, (window,) float64, all positive.

    `hann` falls to nearly nothing at the rim, where a window sees least of its surroundings.
    Sampled at pixel centres it never reaches zero, so that a pixel in the scene's corner is still
    covered. `uniform` and `centre` are constant.
    """
    if blend == "hann":
        return np.asarray(np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2)
    return np.ones(window)


def nearest_starts(offsets: tuple[Offset, ...], window: int) -> npt.NDArray[np.int64]:
    """Start of the window whose centre is nearest to each pixel of an axis; the earlier of two.

    Where windows leave no gap, the nearest one covers the pixel. A block that only has the windows
    that reach it therefore finds the same ones.

    Args:
        offsets: Ascending and consecutive.
        window: Pixels a side.

    Returns:
        (pixels up to the last window's end,).
    """
    starts = np.array([offset.start for offset in offsets])
    # pixel p is nearer to the later of two windows where 2 p + 1 > start + start + window
    firsts = (starts[:-1] + starts[1:] + window + 1) // 2
    pixels = np.arange(starts[-1] + window)
    return starts[np.searchsorted(firsts, pixels, side="right")]


class AxisWeights:
    """Weights of windows along one axis, normalized to a sum of 1 at every pixel.

    A window's weight is its row share times its column share, so that blended logits need no
    division.

    Args:
        blend: `uniform` also counts an offset's visits, as the published protocol does. `centre`
            gives each pixel to the window with the nearest centre: the overlap is cropped.
        offsets: All offsets of the axis, or all that reach a block.
        window: Pixels a side.

    Attributes:
        total: Sum of the weights before normalization, (pixels up to the last window's end,).
    """

    def __init__(self, blend: BlendName, offsets: tuple[Offset, ...], window: int) -> None:
        self._window = window
        self._profile = window_profile(blend, window)
        self._counts_visits = blend == "uniform"
        self._nearest = nearest_starts(offsets, window) if blend == "centre" else None
        self.total = np.zeros(offsets[-1].start + window)
        for offset in offsets:
            self.total[offset.start : offset.start + window] += self._weights(offset)

    def share(self, offset: Offset) -> npt.NDArray[np.float32]:
        """Normalized weights (window,) of the window at an offset."""
        total = self.total[offset.start : offset.start + self._window]
        return (self._weights(offset) / total).astype(np.float32)

    def _weights(self, offset: Offset) -> Profile:
        if self._nearest is not None:
            nearest = self._nearest[offset.start : offset.start + self._window]
            return np.asarray(nearest == offset.start, np.float64)
        return self._profile * offset.visits if self._counts_visits else self._profile


class LogitMosaic:
    """Weighted mean of window logits, finished from the top of a block downwards.

    Windows must come row by row in the order of the grid. The grid alone fixes the weights and the
    order of additions, so the result does not depend on the batch size. Where a window is left out,
    the mean under it is wrong, and 0 where no other window reaches.

    Args:
        grid: The windows.
        classes: Planes of the logits.
        blend: How they are weighted.
    """

    def __init__(self, grid: WindowGrid, classes: int, blend: BlendName) -> None:
        self.grid = grid
        self.top = grid.rows[0].start  # scene row of the next finished row
        width = max(len(grid.under), grid.window)  # a smaller scene is padded to one window
        self._sum: Logits = np.zeros((classes, grid.window, width), np.float32)
        self._finished = 0  # rows at the top of `_sum` that were handed out
        self._rows = AxisWeights(blend, grid.rows, grid.window)
        self._columns = AxisWeights(blend, grid.columns, grid.window)
        self._kernel = np.empty((grid.window, grid.window), np.float32)
        self._weighted = np.empty_like(self._kernel)

    def add(self, row: Offset, column: Offset, logits: FloatArray) -> None:
        """Add one window.

        Args:
            row: Its row; the one last passed to `finish_above`, or the first.
            column: Its column.
            logits: (classes, window, window).
        """
        sums = self._under(row, column)
        down, across = self._rows.share(row), self._columns.share(column)
        if (down == 1.0).all() and (across == 1.0).all():  # no other window reaches these pixels
            np.copyto(sums, logits)
            return
        np.multiply.outer(down, across, out=self._kernel)
        for total, plane in zip(sums, logits, strict=True):
            np.multiply(plane, self._kernel, out=self._weighted)
            total += self._weighted

    def finish_above(self, start: int) -> Logits:
        """Return the mean logits of the scene rows from `top` to `start`, the new top.

        No later window reaches these rows.

        Returns:
            (classes, rows, columns to produce), valid until the mosaic is used again.
        """
        self._drop_finished()
        self._finished = start - self.top
        self.top = start
        return self._sum[:, : self._finished, self.grid.inner]

    def _under(self, row: Offset, column: Offset) -> Logits:
        """The sums (classes, window, window) that a window is added to."""
        assert row.start == self.top, "windows must come row by row"
        self._drop_finished()
        left = column.start - self.grid.under.start
        return self._sum[:, :, left : left + self.grid.window]

    def _drop_finished(self) -> None:
        """Move the unfinished rows to the top, in place, and clear the rows below them."""
        if self._finished:
            kept = self.grid.window - self._finished
            for plane in self._sum:
                plane[:kept] = plane[self._finished :]
                plane[kept:] = 0.0
            self._finished = 0


class PublishedMosaic(LogitMosaic):
    """Mean logits as the paper's test code takes them (reference MFNET.md, section 7).

    It adds the float32 logits of every visit to sums in float64. At a stride of an eighth of the
    window these sums are exact while the logits of a pixel lie within a factor of a million, so
    neither the order nor adding all visits of a position at once changes a bit. The float32 shares
    of `uniform` round instead, so that of two nearly equal classes the other may win.
    """

    def __init__(self, grid: WindowGrid, classes: int) -> None:
        super().__init__(grid, classes, "uniform")
        self._sum = np.zeros(self._sum.shape)

    def add(self, row: Offset, column: Offset, logits: FloatArray) -> None:
        """Add one window as often as the published loop visits it; see `LogitMosaic.add`."""
        visits = row.visits * column.visits
        for total, plane in zip(self._under(row, column), logits, strict=True):
            total += np.multiply(plane, visits, dtype=np.float64)

    def finish_above(self, start: int) -> Logits:
        """Return mean logits, float64; see `LogitMosaic.finish_above`."""
        made = self.grid.made
        down, across = self._rows.total[self.top : start], self._columns.total
        visits = np.outer(down, across[made.start : made.stop])
        return super().finish_above(start) / visits


def mosaic(grid: WindowGrid, classes: int, blend: SumName) -> LogitMosaic:
    """The mosaic that combines overlapping logits as asked."""
    if blend == PUBLISHED:
        return PublishedMosaic(grid, classes)
    return LogitMosaic(grid, classes, blend)
