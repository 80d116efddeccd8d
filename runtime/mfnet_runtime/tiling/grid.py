"""Where the windows of a scene lie, and how their logits weigh. Pure geometry: no pixels, no files.

The published protocol (reference MFNET.md, section 7) steps by `stride` and moves a window that
would cross the border back inside; so the last position is visited several times when the stride
is small. Here every position is inferred once and carries the number of its visits as a weight:
the same sum of logits for less work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from mfnet_runtime.errors import UsageError

BlendName = Literal["uniform", "hann", "centre"]
BLENDS = ("uniform", "hann", "centre")
DEFAULT_BLEND: BlendName = "hann"  # benchmarks/TRIED.md
Profile = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Offset:
    """A position along one axis."""

    start: int  # pixels from the scene's first row or column
    visits: int  # how often the published protocol comes here


@dataclass(frozen=True)
class WindowGrid:
    """All windows of a scene, row by row; or those of a block, some of its columns or rows.

    A scene smaller than the window has one offset on that axis, 0: the caller pads. Offsets are
    the scene's in a block too, so that a pixel lies under the same windows whatever the blocks.

    Raises:
        UsageError: the stride is not in 1..window, so that pixels would be left out.
    """

    height: int  # scene rows, pixels
    width: int  # scene columns, pixels
    window: int  # pixels a side
    stride: int  # pixels between windows
    block: range | None = None  # columns to make; None: all
    band: range | None = None  # rows to make; None: all

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise UsageError(
                f"stride is {self.stride} px; expected 1 to {self.window} (the model's window), "
                "or pixels would be left out"
            )
        if self.height < 1 or self.width < 1:
            raise UsageError(f"scene is {self.height} x {self.width} px; expected at least 1 x 1")

    @cached_property
    def rows(self) -> tuple[Offset, ...]:
        """Offsets of the window rows that reach the rows to make, from the top."""
        return self._reaching(axis_offsets(self.height, self.window, self.stride), self.made_rows)

    @cached_property
    def columns(self) -> tuple[Offset, ...]:
        """Offsets of the window columns that reach the block, from the left."""
        return self._reaching(axis_offsets(self.width, self.window, self.stride), self.made)

    @property
    def made(self) -> range:
        """Scene columns to make: the block's, or all."""
        return range(self.width) if self.block is None else self.block

    @property
    def made_rows(self) -> range:
        """Scene rows to make: the band's, or all."""
        return range(self.height) if self.band is None else self.band

    @cached_property
    def under(self) -> range:
        """Scene columns under the windows: those to make, and as far around as windows reach."""
        first, last = self.columns[0].start, self.columns[-1].start
        return range(first, min(last + self.window, self.width))

    @property
    def inner(self) -> slice:
        """The columns to make among those under the windows."""
        left = self.under.start
        return slice(self.made.start - left, self.made.stop - left)

    def blocks(self, width: int) -> list[WindowGrid]:
        """The scene cut into blocks so wide, from the left. Windows on borders are in both."""
        starts = range(0, self.width, width)
        return [
            replace(self, block=range(start, min(start + width, self.width))) for start in starts
        ]

    def _reaching(self, offsets: tuple[Offset, ...], made: range) -> tuple[Offset, ...]:
        return tuple(
            offset
            for offset in offsets
            if offset.start < made.stop and offset.start + self.window > made.start
        )

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[Offset, Offset]]:
        return ((row, column) for row in self.rows for column in self.columns)


def axis_offsets(length: int, window: int, stride: int) -> tuple[Offset, ...]:
    """Distinct window positions along one axis of `length` pixels, ascending."""
    last = max(length - window, 0)
    visits = Counter(min(start, last) for start in range(0, length, stride))
    return tuple(Offset(start, count) for start, count in sorted(visits.items()))


def window_profile(blend: BlendName, window: int) -> Profile:
    """Weight of each pixel along one axis of a window, (window,) float64, all positive.

    `uniform` weighs all alike, as published; so does `centre` what it takes of a window. `hann`
    falls to nearly nothing at the rim, where a window knows least of its surroundings; sampled at
    pixel centres it never reaches zero, so a pixel at the scene's corner is still covered.
    """
    if blend == "hann":
        return np.asarray(np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2)
    return np.ones(window)


def nearest_starts(offsets: tuple[Offset, ...], window: int) -> npt.NDArray[np.int64]:
    """Start of the window whose centre is nearest to each pixel of an axis, of two the earlier's.

    Where windows leave no gap the nearest covers the pixel; so a block, which knows only the
    windows that reach it, finds the same ones.

    Args:
        offsets: Ascending, some that follow each other.
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
    """Shares of the windows along one axis: those of all offsets sum to 1 at every pixel.

    A window weighs row share times column share, so its logits need no division afterwards.

    Args:
        blend: `uniform` also counts an offset's visits: part of the published protocol. `centre`
            gives a pixel wholly to the window whose centre is nearest: the overlap is cropped.
        offsets: All of the axis, or all that reach a block: then 1 is the sum within the block.
        window: Pixels a side.

    Attributes:
        total: What the weights of all offsets sum to, before they become shares, (pixels up to
            the last window's end,).
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
        """Share (window,) of the window at this offset."""
        total = self.total[offset.start : offset.start + self._window]
        return (self._weights(offset) / total).astype(np.float32)

    def _weights(self, offset: Offset) -> Profile:
        if self._nearest is not None:
            nearest = self._nearest[offset.start : offset.start + self._window]
            return np.asarray(nearest == offset.start, np.float64)
        return self._profile * offset.visits if self._counts_visits else self._profile
