"""A scene's windows, scaled and cut into batches from the top. Knows no threads and no engines.

Batches run over the ends of window rows and leave out windows without a valid pixel, so all but
the last are full. Held are the rows under one row of windows: memory does not grow with height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mfnet_runtime.batch_size import BatchSize
from mfnet_runtime.contract import Contract
from mfnet_runtime.raster import SceneRows
from mfnet_runtime.scaling import (
    BoolArray,
    DsmRange,
    FloatArray,
    Heights,
    padded,
    scaled_dsm,
    scaled_image,
)
from mfnet_runtime.windows import Offset, WindowGrid

MAX_STRIPS = 16  # in a batch: bounds what a scene with few valid windows holds


class RowSource(Protocol):
    """A scene that gives its rows: `raster.SceneReader`, or one held in memory."""

    @property
    def height(self) -> int:
        """Rows of the scene."""
        ...

    @property
    def width(self) -> int:
        """Columns of the scene."""
        ...

    def read(self, start: int, stop: int) -> SceneRows:
        """Rows from `start` up to `stop`."""
        ...

    def heights(self) -> Heights:
        """The whole DSM, in pieces, for its statistics."""
        ...


@dataclass(frozen=True)
class Strip:
    """Scene rows that no later window reaches."""

    stop: int  # scene row after the last
    valid: BoolArray  # (row, column): image and DSM both valid


@dataclass(frozen=True)
class Place:
    """Where a window lies."""

    row: Offset
    column: Offset


@dataclass
class Batch:
    """Room for some windows and their logits, filled anew again and again."""

    image: FloatArray  # (N, 3, window, window) in [0, 1]
    dsm: FloatArray  # (N, 1, window, window) in [0, 1]
    logits: FloatArray  # (N, classes, window, window)
    steps: list[Place | Strip] = field(default_factory=list)  # windows and rows done, in order
    size: int = 0  # windows it is to have
    windows: int = 0  # windows it has
    skipped: int = 0  # windows without one valid pixel left out on the way

    @staticmethod
    def allocated(largest: int, contract: Contract) -> Batch:
        """Room for up to `largest` windows."""
        shape = (contract.window, contract.window)
        return Batch(
            np.empty((largest, 3, *shape), np.float32),
            np.empty((largest, 1, *shape), np.float32),
            np.empty((largest, len(contract.classes), *shape), np.float32),
        )

    def cleared(self, size: int) -> Batch:
        """The same room for `size` new windows."""
        self.steps = []
        self.size, self.windows, self.skipped = size, 0, 0
        return self


class _WindowRow:
    """Scaled rows under one row of windows. Those shared with the one above are not read again."""

    def __init__(self, reader: RowSource, contract: Contract, span: DsmRange, grid: WindowGrid):
        self.reader, self.contract, self.span, self.grid = reader, contract, span, grid
        rows = min(grid.window, grid.height)
        self.image = np.empty((3, rows, grid.width), np.float32)
        self.dsm = np.empty((1, rows, grid.width), np.float32)
        self.valid = np.empty((rows, grid.width), np.bool_)
        self.start = -rows  # scene row of the first

    def move_to(self, start: int) -> None:
        """Make `start` the first row."""
        rows = self.valid.shape[0]
        drop = min(start - self.start, rows)
        for plane in (*self.image, *self.dsm, self.valid):
            plane[: rows - drop] = plane[drop:]
        self.start = start
        fresh = self.reader.read(start + rows - drop, start + rows)
        below = slice(rows - drop, None)
        self.image[:, below] = scaled_image(fresh.image, fresh.image_valid, self.contract.image)
        self.dsm[0, below] = scaled_dsm(fresh.dsm, fresh.dsm_valid, self.span)
        np.logical_and(fresh.image_valid, fresh.dsm_valid, out=self.valid[below])

    def cut(self, column: Offset, batch: Batch) -> None:
        """Put the window at `column` into a batch."""
        side = self.grid.window
        across = slice(column.start, column.start + side)
        for target, source in ((batch.image, self.image), (batch.dsm, self.dsm)):
            target[batch.windows] = padded(source[:, :, across], side)  # no copy if large enough
        batch.windows += 1


def scene_batches(
    reader: RowSource,
    contract: Contract,
    span: DsmRange,
    grid: WindowGrid,
    sizes: BatchSize,
    take: Callable[[], Batch],
) -> Iterator[Batch]:
    """All windows of a scene with a valid pixel, and all its rows.

    Args:
        reader: The open scene.
        contract: Of the model.
        span: The heights that become 0 and 1.
        grid: Where the windows lie.
        sizes: Asked for the size of each batch.
        take: Gives a batch to fill, at least as large as `sizes` may ask.

    Yields:
        Batches, each to be worked on in the order of its steps; few are not full.

    Raises:
        SceneError: a raster is damaged.
    """
    rows = _WindowRow(reader, contract, span, grid)
    stops = [row.start for row in grid.rows[1:]] + [grid.height]
    batch = take().cleared(sizes.following())
    strips = 0
    for row, stop in zip(grid.rows, stops, strict=True):
        rows.move_to(row.start)
        seen: BoolArray = np.asarray(rows.valid.any(axis=0))
        for column in grid.columns:
            if not seen[column.start : column.start + grid.window].any():
                batch.skipped += 1
                continue
            rows.cut(column, batch)
            batch.steps.append(Place(row, column))
            if batch.windows == batch.size:
                yield batch
                batch, strips = take().cleared(sizes.following()), 0
        batch.steps.append(Strip(stop, rows.valid[: stop - row.start].copy()))
        strips += 1
        if strips == MAX_STRIPS:
            yield batch
            batch, strips = take().cleared(sizes.following()), 0
    yield batch
