"""Looks through the pixels of a raster, all of them or an even sample, and keeps numbers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from mfnet_runtime.raster.open import pieces_of
from mfnet_runtime.scene.normalize import BoolArray
from mfnet_runtime.tiling.grid import Offset, WindowGrid

Values = npt.NDArray[Any]

FULL = 1 << 26  # pixels; a raster of more is looked at in places
PLACES, SIDE = 16, 512  # a side: how many places, and pixels of each
KEPT = 1 << 20  # values kept for percentiles
CELL = 32  # pixels a side, of which it is kept whether any is to be classified


@dataclass(frozen=True)
class Sample:
    """Where a raster is looked at."""

    windows: list[Window]
    share: float  # of the raster's pixels

    @property
    def pixels(self) -> int:
        """How many are looked at."""
        return sum(window.width * window.height for window in self.windows)

    @property
    def whole(self) -> bool:
        """Every pixel was seen."""
        return self.share == 1.0


def sample_of(dataset: Any) -> Sample:
    """All of a raster in stored pieces, or where it is large places evenly spread over it."""
    height, width = dataset.height, dataset.width
    if height * width <= FULL:
        return Sample(list(pieces_of(dataset)), 1.0)
    rows, columns = min(SIDE, height), min(SIDE, width)
    tops = np.linspace(0, height - rows, min(PLACES, height // rows), dtype=int)
    lefts = np.linspace(0, width - columns, min(PLACES, width // columns), dtype=int)
    block_rows, block_columns = dataset.block_shapes[0]
    # where blocks start, unless they are larger
    tops, lefts = tops - tops % min(block_rows, rows), lefts - lefts % min(block_columns, columns)
    windows = [Window(int(left), int(top), columns, rows) for top in tops for left in lefts]
    return Sample(windows, len(windows) * rows * columns / (height * width))


class Spread:
    """Smallest, largest and percentiles of values that come in parts.

    Args:
        expected: About how many there will be.
    """

    def __init__(self, expected: int) -> None:
        self.count, self.low, self.high = 0, math.inf, -math.inf
        self._step = expected // KEPT | 1  # odd: not the same columns of every row
        self._kept: list[Values] = []

    def add(self, values: Values) -> None:
        """Some more (n,); finite."""
        if values.size:
            self.count += values.size
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))
            self._kept.append(values[:: self._step].copy())

    def percentiles(self, *at: float) -> list[float]:
        """At these percents, linear between neighbours; zeros where there is no value."""
        if not self._kept:
            return [0.0] * len(at)
        return [float(value) for value in np.percentile(np.concatenate(self._kept), at)]

    def mean_below(self, percent: float) -> float:
        """Mean of the values up to that percentile, which no outlier moves."""
        if not self._kept:
            return 0.0
        values = np.concatenate(self._kept)
        return float(values[values <= np.percentile(values, percent)].mean(dtype=np.float64))


@dataclass
class End:
    """One end of some values: the last, how often it comes, and the one before it."""

    last: float = math.inf  # the smallest
    count: int = 0
    next: float = math.inf

    def add(self, values: Values) -> None:
        """Some more (n,)."""
        if not values.size:
            return
        least = float(values.min())
        at_end = values == least
        others = values[~at_end]
        here = float(others.min()) if others.size else math.inf
        if least < self.last:
            self.next = min(self.last, here)
            self.last, self.count = least, int(at_end.sum())
        elif least == self.last:
            self.count += int(at_end.sum())
            self.next = min(self.next, here)
        else:
            self.next = min(self.next, least)


@dataclass
class Counts:
    """Pixels by what became of them."""

    pixels: int = 0
    by: dict[str, int] = field(default_factory=dict)

    def add(self, parts: Iterable[tuple[str, BoolArray]], pixels: int) -> None:
        """Some more; each pixel belongs to the first part that it is in."""
        self.pixels += pixels
        rest: BoolArray | None = None
        for name, part in parts:
            own = part if rest is None else part & rest
            rest = ~part if rest is None else rest & ~part
            self.by[name] = self.by.get(name, 0) + int(np.count_nonzero(own))

    def shares(self) -> dict[str, float]:
        """Of all pixels; those that are none left out."""
        whole = max(self.pixels, 1)
        return {name: count / whole for name, count in self.by.items() if count}


def in_words(shares: dict[str, float]) -> str:
    """`Counts.shares` in one line."""
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


class Coverage:
    """Where a scene has pixels to classify, by cells of `CELL` pixels.

    Args:
        height: Pixels.
        width: Pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._any = np.zeros((-(-height // CELL), -(-width // CELL)), np.bool_)
        self.wanted = 0  # pixels

    def add(self, window: Window, wanted: BoolArray) -> None:
        """A part of the scene (row, column)."""
        self.wanted += int(np.count_nonzero(wanted))
        top, left = window.row_off, window.col_off
        rows, columns = (
            np.r_[0, np.arange(first // CELL * CELL + CELL, first + size, CELL) - first]
            for first, size in ((top, wanted.shape[0]), (left, wanted.shape[1]))
        )
        cells = np.logical_or.reduceat(np.logical_or.reduceat(wanted, rows), columns, axis=1)
        first_row, first_column = top // CELL, left // CELL
        self._any[
            first_row : first_row + cells.shape[0], first_column : first_column + cells.shape[1]
        ] |= cells

    def empty(self, grid: WindowGrid) -> int:
        """Windows none of whose cells has such a pixel: at least these are skipped."""
        total = np.pad(self._any.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        top, bottom = _cells(grid.rows, grid.window, self._any.shape[0])
        left, right = _cells(grid.columns, grid.window, self._any.shape[1])
        under = (
            total[np.ix_(bottom, right)]
            - total[np.ix_(top, right)]
            - total[np.ix_(bottom, left)]
            + total[np.ix_(top, left)]
        )
        return int(np.count_nonzero(under == 0))


def _cells(offsets: Iterable[Offset], window: int, most: int) -> tuple[Values, Values]:
    """The first cell under each window along an axis, and the one after the last."""
    starts = np.array([offset.start for offset in offsets])
    return starts // CELL, np.minimum(-(-(starts + window) // CELL), most)
