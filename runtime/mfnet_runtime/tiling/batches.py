"""Windows of a block in batches, from the top, on the CPU and on a GPU alike.

Batches run across the ends of window rows and leave out windows without a valid pixel, so all but
the last are full. Only the rows under one row of windows are held: memory does not grow with the
scene's height, and with its width only up to that of a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Generic, Protocol, TypeVar

import numpy as np

from mfnet_runtime.scene.normalize import BoolArray, Heights
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.grid import Offset, WindowGrid

MAX_STRIPS = 16  # in a batch: bounds what a scene with few valid windows holds


class RowSource(Protocol):
    """A scene read by rows: `scene.reader.SceneReader`, or one held in memory."""

    @property
    def height(self) -> int:
        """Rows of the scene."""
        ...

    @property
    def width(self) -> int:
        """Columns of the scene."""
        ...

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        """Read rows `start` to `stop`, of all columns or of a range of them."""
        ...

    def heights(self) -> Heights:
        """Iterate over the whole DSM, for its statistics."""
        ...


@dataclass(frozen=True)
class ArrayScene:
    """A scene held in memory, as stored."""

    data: SceneData

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.data.dsm.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.data.dsm.shape[1])

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        """Return rows `start` to `stop`, of all columns or of a range of them, without a copy."""
        across = slice(columns.start, columns.stop) if columns else slice(None)
        where = slice(start, stop), across
        data = self.data
        return replace(
            data,
            image=data.image[:, where[0], where[1]],
            dsm=data.dsm[where],
            image_valid=data.image_valid[where],
            dsm_valid=data.dsm_valid[where],
            inside=None if data.inside is None else data.inside[where],
        )

    def heights(self) -> Heights:
        """Return the whole DSM and its validity, as one piece."""
        return [(self.data.dsm, self.data.dsm_valid)]


@dataclass(frozen=True)
class Strip:
    """Scene rows that no later window reaches, and the columns to produce."""

    stop: int  # scene row after the last
    valid: BoolArray  # (row, column): image and DSM valid, inside the area of interest


@dataclass(frozen=True)
class Place:
    """Position of a window."""

    row: Offset
    column: Offset


@dataclass
class Batch:
    """Windows, and the steps to take after they were inferred; its memory is used in turn."""

    steps: list[Place | Strip] = field(default_factory=list)  # blend a window, or finish rows
    size: int = 0  # windows it should get
    windows: int = 0  # windows it has
    skipped: int = 0  # windows without a valid pixel left out on the way
    seconds: float = 0.0  # in the backend

    def clear(self, size: int) -> None:
        """Empty it for `size` new windows."""
        self.steps = []
        self.size, self.windows, self.skipped, self.seconds = size, 0, 0, 0.0

    @property
    def strips(self) -> int:
        """Strips among the steps."""
        return sum(isinstance(step, Strip) for step in self.steps)


B = TypeVar("B", bound=Batch)


class WindowRows(ABC, Generic[B]):
    """Pixels under one row of windows; rows shared with the row above are not read again.

    Args:
        reader: The open scene.
        grid: The windows.
    """

    def __init__(self, reader: RowSource, grid: WindowGrid) -> None:
        self.grid = grid
        rows = min(grid.window, grid.height)
        self.valid: BoolArray = np.empty((rows, len(grid.under)), np.bool_)  # to be classified
        self._reader = reader
        self.start = -rows  # scene row of the first

    def move_to(self, start: int, batch: B) -> None:
        """Make `start` the first row held.

        Raises:
            SceneError: a raster is damaged.
        """
        rows = len(self.valid)
        kept = max(rows - (start - self.start), 0)
        fresh = self._reader.read(start + kept, start + rows, self.grid.under)
        self.valid[:kept] = self.valid[rows - kept :]
        self.valid[kept:] = fresh.wanted
        made = self.grid.made_rows  # rows outside need no window of their own
        self.valid[: max(made.start - start, 0)] = False
        self.valid[max(made.stop - start, 0) :] = False
        self.start = start
        self.take(fresh, kept, batch)

    @abstractmethod
    def take(self, fresh: SceneData, kept: int, batch: B) -> None:
        """Store new rows below the last `kept` ones."""

    @abstractmethod
    def cut(self, place: Place, batch: B) -> None:
        """Make the window at `place` the next one of a batch."""


def window_batches(
    rows: WindowRows[B], sizes: BatchSize, buffers: Sequence[B], max_strips: int = MAX_STRIPS
) -> Iterator[B]:
    """Iterate over all windows with a valid pixel, and over all rows, of a block.

    Args:
        rows: The rows under a row of windows.
        sizes: Asked for the size of each batch.
        buffers: Memory for batches, used in turn; each at least as large as `sizes` may ask.
        max_strips: Strips that a batch may hold.

    Yields:
        Batches, each to be processed in the order of its steps.

    Raises:
        SceneError: a raster is damaged.
    """
    grid, memory = rows.grid, cycle(buffers)

    def empty() -> B:
        batch = next(memory)
        batch.clear(sizes.following())
        return batch

    batch = empty()
    for row, stop in zip(grid.rows, _finished_rows(grid), strict=True):
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
                batch = empty()
        batch.steps.append(Strip(stop, rows.valid[: stop - row.start, grid.inner].copy()))
        if batch.strips == max_strips:
            yield batch
            batch = empty()
    yield batch


def _finished_rows(grid: WindowGrid) -> Iterable[int]:
    """The scene row above which each row of windows finishes the scene."""
    return [*(row.start for row in grid.rows[1:]), grid.made_rows.stop]
