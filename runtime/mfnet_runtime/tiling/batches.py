"""A scene's windows in batches from the top. Knows no scaling, no threads and no engines.

Batches run over the ends of window rows and leave out windows without a valid pixel, so all but
the last are full. Held are the rows under one row of windows: memory does not grow with height,
and with width only up to that of a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from mfnet_runtime.scene.normalize import BoolArray, Heights
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.grid import Offset, WindowGrid

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

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        """Rows from `start` up to `stop`, of all columns or of some that follow each other."""
        ...

    def heights(self) -> Heights:
        """The whole DSM, in pieces, for its statistics."""
        ...


@dataclass(frozen=True)
class Strip:
    """Scene rows that no later window reaches, of the columns to make."""

    stop: int  # scene row after the last
    valid: BoolArray  # (row, column): image and DSM both valid, and inside the areas asked for


@dataclass(frozen=True)
class Place:
    """Where a window lies."""

    row: Offset
    column: Offset


@dataclass
class Batch:
    """Some windows and what to do with them, filled anew again and again."""

    steps: list[Place | Strip] = field(default_factory=list)  # windows and rows done, in order
    size: int = 0  # windows it is to have
    windows: int = 0  # windows it has
    skipped: int = 0  # windows without one valid pixel left out on the way

    def clear(self, size: int) -> None:
        """Be empty, for `size` new windows."""
        self.steps = []
        self.size, self.windows, self.skipped = size, 0, 0


B = TypeVar("B", bound=Batch)


class WindowRows(ABC, Generic[B]):
    """Pixels under one row of windows. Rows shared with the one above are not read again.

    Args:
        reader: The open scene.
        grid: Where the windows lie.
    """

    def __init__(self, reader: RowSource, grid: WindowGrid) -> None:
        self.grid = grid
        rows = min(grid.window, grid.height)
        self.valid: BoolArray = np.empty((rows, len(grid.under)), np.bool_)  # to classify
        self._reader = reader
        self.start = -rows  # scene row of the first

    def move_to(self, start: int, batch: B) -> None:
        """Make `start` the first row.

        Raises:
            SceneError: a raster is damaged.
        """
        rows = len(self.valid)
        kept = max(rows - (start - self.start), 0)
        fresh = self._reader.read(start + kept, start + rows, self.grid.under)
        self.valid[:kept] = self.valid[rows - kept :]
        self.valid[kept:] = fresh.wanted
        self._leave_out(start)
        self.start = start
        self.take(fresh, kept, batch)

    def _leave_out(self, start: int) -> None:
        """Rows that are not to be made need no window of their own."""
        made = self.grid.made_rows
        self.valid[: max(made.start - start, 0)] = False
        self.valid[max(made.stop - start, 0) :] = False

    @abstractmethod
    def take(self, fresh: SceneData, kept: int, batch: B) -> None:
        """Hold new rows, below the last `kept` of those held."""

    @abstractmethod
    def cut(self, place: Place, batch: B) -> None:
        """Make the window there the next of a batch."""


def scene_batches(
    rows: WindowRows[B],
    sizes: BatchSize,
    take: Callable[[], B],
    max_strips: int = MAX_STRIPS,
) -> Iterator[B]:
    """All windows of a scene with a valid pixel, and all its rows.

    Args:
        rows: Of the scene.
        sizes: Asked for the size of each batch.
        take: Gives a batch to fill, at least as large as `sizes` may ask.
        max_strips: In a batch.

    Yields:
        Batches, each to be worked on in the order of its steps; few are not full.

    Raises:
        SceneError: a raster is damaged.
    """

    def following() -> B:
        batch = take()
        batch.clear(sizes.following())
        return batch

    grid = rows.grid
    stops = [row.start for row in grid.rows[1:]] + [grid.made_rows.stop]
    batch, strips = following(), 0
    for row, stop in zip(grid.rows, stops, strict=True):
        rows.move_to(row.start, batch)
        seen: BoolArray = np.asarray(rows.valid.any(axis=0))
        for column in grid.columns:
            left = column.start - grid.under.start
            if not seen[left : left + grid.window].any():
                batch.skipped += 1
                continue
            place = Place(row, column)
            rows.cut(place, batch)
            batch.windows += 1
            batch.steps.append(place)
            if batch.windows == batch.size:
                yield batch
                batch, strips = following(), 0
        batch.steps.append(Strip(stop, rows.valid[: stop - row.start, grid.inner].copy()))
        strips += 1
        if strips == max_strips:
            yield batch
            batch, strips = following(), 0
    yield batch
