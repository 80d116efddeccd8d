"""Page-locked buffers of raw rows on their way to the GPU.

The reading thread fills them without making a CUDA call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.cuda.kernels import DSM_VALID, IMAGE_VALID
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batches import MAX_STRIPS, Batch, Place, RowSource, Strip, WindowRows
from mfnet_runtime.tiling.grid import Offset, WindowGrid

STAGED = 16 << 20  # bytes of rows a batch should hold where one row of windows has less
AS_STORED = (np.dtype(np.uint8), np.dtype(np.uint16))  # other types are uploaded as float32


@dataclass(frozen=True)
class Layout:
    """Numbers of rows in the buffers, for a scene of any height or a block of its columns.

    A batch has room for the rows under one row of windows and for `max_strips - 1` strides more.
    Bytes a column, with u = 3, 6 or 12 bytes for a pixel of the image:
    page-locked 4 batches x rows x (u + 6); on the GPU slots x (u + 5) + rows x 4 x (classes + 1).
    A scene 10,000 columns wide, of uint8, at stride 128, with 6 classes: 92 MB locked, 102 MB on
    the GPU, whatever its height.
    """

    grid: WindowGrid
    stored: np.dtype[Any]  # of the image: uint8, uint16 or float32
    confidence: bool = False  # downloaded too, one more byte a pixel

    @property
    def width(self) -> int:
        """Columns under the windows."""
        return len(self.grid.under)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in a batch: image, DSM, mask, classes and confidence."""
        return self.width * (3 * self.stored.itemsize + 4 + 1 + 1 + self.confidence)

    @property
    def max_strips(self) -> int:
        """Strips a batch; few for a wide scene, which fills batches within one row of windows."""
        rows = STAGED // self.row_bytes
        more = (rows - self._under_window) // self.grid.stride
        return min(max(1 + more, 1), MAX_STRIPS)

    @property
    def rows(self) -> int:
        """Rows a batch may stage, have under its windows, or finish."""
        return min(self._under_window + (self.max_strips - 1) * self.grid.stride, self.grid.height)

    @property
    def slots(self) -> int:
        """Rows of the ring: those of two batches, one uploaded while the other is in use."""
        return min(self.rows + self.max_strips * self.grid.stride, self.grid.height)

    @property
    def _under_window(self) -> int:
        return min(self.grid.window, self.grid.height)


def stored_type(image: np.dtype[Any]) -> np.dtype[Any]:
    """The data type in which an image is uploaded."""
    return image if image in AS_STORED else np.dtype(np.float32)


@dataclass(kw_only=True)
class DeviceBatch(Batch):
    """The host's side of a batch: rows and placements to upload, classes downloaded."""

    index: int  # among the batches used in turn
    image: npt.NDArray[Any]  # (3, rows, width)
    dsm: npt.NDArray[np.float32]  # (rows, width)
    mask: npt.NDArray[np.uint8]  # (rows, width) of IMAGE_VALID and DSM_VALID
    placements: npt.NDArray[np.int32]  # (windows, 4), fields of kernels.PLACEMENT
    classes: npt.NDArray[np.uint8]  # (rows, width)
    confidence: npt.NDArray[np.uint8] | None  # (rows, width) if asked for
    not_finite: npt.NDArray[np.int32]  # (1,)
    first: int = 0  # scene row of the first one staged
    staged: int = 0  # rows
    finished: int = 0  # rows of classes

    def clear(self, size: int) -> None:
        """Empty it for `size` new windows."""
        super().clear(size)
        self.staged = 0

    @property
    def stop(self) -> int | None:
        """Scene row after the last one it finishes; None if it finishes none."""
        stops = [step.stop for step in self.steps if isinstance(step, Strip)]
        return stops[-1] if stops else None


class StagedRows(WindowRows[DeviceBatch]):
    """Copies new rows into the batch that needs them first, with the placements of its windows.

    Args:
        reader: The open scene.
        grid: The windows.
        row_shares: Index of each row offset in the table of shares.
        column_shares: Index of each column offset.
    """

    def __init__(
        self,
        reader: RowSource,
        grid: WindowGrid,
        row_shares: dict[Offset, int],
        column_shares: dict[Offset, int],
    ) -> None:
        super().__init__(reader, grid)
        self._row_shares, self._column_shares = row_shares, column_shares

    def take(self, fresh: SceneData, kept: int, batch: DeviceBatch) -> None:
        """Stage new rows."""
        assert stored_type(fresh.image.dtype) == batch.image.dtype, "a scene has one number type"
        if not batch.staged:
            batch.first = self.start + kept
        at = slice(batch.staged, batch.staged + len(fresh.dsm))
        batch.image[:, at] = fresh.image
        batch.dsm[at] = fresh.dsm
        batch.mask[at] = fresh.image_valid * np.uint8(IMAGE_VALID)
        batch.mask[at] |= fresh.dsm_valid * np.uint8(DSM_VALID)
        batch.staged = at.stop

    def cut(self, place: Place, batch: DeviceBatch) -> None:
        """Record the placement of a window."""
        row, column = place.row, place.column
        batch.placements[batch.windows] = (
            row.start,
            column.start - self.grid.under.start,
            self._row_shares[row],
            self._column_shares[column],
        )
