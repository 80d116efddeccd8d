"""Add the logits of overlapping windows and hand finished rows down. Knows no files, no backend.

Only the rows under the current window row are held: memory is classes x window x width x 4 bytes,
whatever the scene's height; the width is that of a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.tiling.grid import AxisWeights, BlendName, Offset, WindowGrid

BoolArray = npt.NDArray[np.bool_]
ClassRows = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Logits = npt.NDArray[np.floating[Any]]  # float32, or float64 of `published`

NOT_FINITE = "the model gave logits that are not finite; check it with mfnet-inspect"


class LogitMosaic:
    """Weighted mean of window logits, finished from the top of the scene downwards.

    Windows must come row by row in the order of the grid. The weights and the order of additions
    are fixed by the grid alone, so the result does not depend on the batch size. A window may be
    left out; the mean is then wrong under it, 0 where no other window reaches.
    """

    def __init__(self, grid: WindowGrid, classes: int, blend: BlendName) -> None:
        self.grid = grid
        self.top = grid.rows[0].start  # scene row of the next finished row
        width = max(len(grid.under), grid.window)  # a smaller scene is padded up to one window
        self._sum: Logits = np.zeros((classes, grid.window, width), np.float32)
        self._finished = 0  # rows at the top of `_sum` that were handed down
        self._rows = AxisWeights(blend, grid.rows, grid.window)
        self._columns = AxisWeights(blend, grid.columns, grid.window)
        self._kernel = np.empty((grid.window, grid.window), np.float32)
        self._weighted = np.empty_like(self._kernel)

    def add(self, row: Offset, column: Offset, logits: FloatArray) -> None:
        """Add one window.

        Args:
            row: Its row; must be the one last passed to `finish_above`, or the first.
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
        """Mean logits (classes, rows, columns to make) of the scene rows from `top` to `start`.

        No later window reaches these rows. `start` becomes the new top. The array is valid until
        the mosaic is used again.
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
        """Move the unfinished rows to the top, in place, and clear what follows them."""
        if self._finished:
            kept = self.grid.window - self._finished
            for plane in self._sum:
                plane[:kept] = plane[self._finished :]
                plane[kept:] = 0.0
            self._finished = 0


def classes_from_logits(logits: Logits, valid: BoolArray) -> ClassRows:
    """Class of the largest logit, the first of equal ones; nodata where not valid.

    Args:
        logits: (classes, row, column).
        valid: (row, column).

    Returns:
        (row, column) uint8.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():  # comparing would call a NaN class 0
        raise ModelError(NOT_FINITE)
    # argmax over the first axis takes 4 times as long: it walks against the memory's order
    largest = logits[0].copy()
    classes = np.zeros(valid.shape, np.uint8)
    for index, plane in enumerate(logits[1:], start=1):
        higher = (plane > largest).view(np.uint8)
        np.maximum(classes, higher * np.uint8(index), out=classes)
        np.maximum(largest, plane, out=largest)
    np.copyto(classes, np.uint8(IGNORE), where=~valid)
    return classes


def confidence_from_logits(logits: Logits, valid: BoolArray) -> ClassRows:
    """Softmax probability of the class of `classes_from_logits`; nodata where not valid.

    Args:
        logits: (classes, row, column), finite.
        valid: (row, column).

    Returns:
        (row, column) uint8, percent.
    """
    percent: ClassRows = np.rint(np.float32(100.0) / _total(logits)[1]).astype(np.uint8)
    np.copyto(percent, np.uint8(IGNORE), where=~valid)
    return percent


def probabilities_from_logits(logits: Logits, valid: BoolArray) -> ClassRows:
    """Softmax probability of every class; nodata where not valid.

    Args:
        logits: (classes, row, column), finite.
        valid: (row, column).

    Returns:
        (classes, row, column) uint8, percent, each rounded: they need not add up to 100.
    """
    largest, total = _total(logits)
    percent = np.empty(logits.shape, np.uint8)
    for plane, target in zip(logits, percent, strict=True):
        share = np.exp(plane - largest) * np.float32(100.0) / total
        np.rint(share, out=target, casting="unsafe")
        np.copyto(target, np.uint8(IGNORE), where=~valid)
    return percent


def _total(logits: Logits) -> tuple[Logits, Logits]:
    """The largest logit, and the sum of the exponentials of all less that one."""
    largest = logits.max(axis=0)
    total = np.zeros_like(largest)
    for plane in logits:
        total += np.exp(plane - largest)  # 1 for the largest
    return largest, total
