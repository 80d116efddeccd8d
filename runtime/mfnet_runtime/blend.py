"""Add the logits of overlapping windows and hand finished rows down. Knows no files, no backend.

Only the rows under the current window row are held: memory is classes x window x width x 4 bytes,
whatever the scene's height.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mfnet_runtime.windows import BlendName, Offset, WindowGrid, offset_weight, window_weights

FloatArray = npt.NDArray[np.float32]
TINY = np.float32(1e-37)


class LogitMosaic:
    """Weighted mean of window logits, finished from the top of the scene downwards.

    Windows must come row by row in the order of the grid. The order of additions is fixed by the
    grid alone, so the result does not depend on the batch size.
    """

    def __init__(self, grid: WindowGrid, classes: int, blend: BlendName) -> None:
        self.grid = grid
        self.blend = blend
        self.top = 0  # scene row of the accumulator's first row
        width = max(grid.width, grid.window)  # a smaller scene is padded up to one window
        self._sum = np.zeros((classes, grid.window, width), np.float32)
        self._weight = np.zeros((grid.window, width), np.float32)
        self._kernel = window_weights(blend, grid.window)

    def add(self, row: Offset, column: Offset, logits: FloatArray) -> None:
        """Add one window.

        Args:
            row: Its row; must be the one last passed to `finish_above`, or the first.
            column: Its column.
            logits: (classes, window, window).
        """
        assert row.start == self.top, "windows must come row by row"
        kernel = self._kernel * np.float32(offset_weight(self.blend, row, column))
        place = slice(column.start, column.start + self.grid.window)
        self._sum[:, :, place] += logits * kernel
        self._weight[:, place] += kernel

    def finish_above(self, start: int) -> FloatArray:
        """Mean logits (classes, rows, width) of the scene rows from `top` up to `start`.

        No later window reaches these rows. `start` becomes the new top. Pixels that no window
        covered (all were skipped) come out as 0.
        """
        count = start - self.top
        height = min(count, self.grid.window)
        weight = np.maximum(self._weight[:height, : self.grid.width], TINY)
        done = np.divide(self._sum[:, :height, : self.grid.width], weight, dtype=np.float32)
        self._sum = _shifted_up(self._sum, height)
        self._weight = _shifted_up(self._weight, height)
        self.top = start
        return done


def _shifted_up(rows: FloatArray, count: int) -> FloatArray:
    shifted = np.zeros_like(rows)
    shifted[..., : rows.shape[-2] - count, :] = rows[..., count:, :]
    return shifted
