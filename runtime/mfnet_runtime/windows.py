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

BlendName = Literal["uniform", "hann"]
BLENDS = ("uniform", "hann")
Profile = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Offset:
    """A position along one axis."""

    start: int  # pixels from the scene's first row or column
    visits: int  # how often the published protocol comes here


@dataclass(frozen=True)
class WindowGrid:
    """All windows of a scene, row by row; or those of a block, some of its columns.

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
        """Offsets of the window rows, from the top."""
        return axis_offsets(self.height, self.window, self.stride)

    @cached_property
    def columns(self) -> tuple[Offset, ...]:
        """Offsets of the window columns that reach the block, from the left."""
        return tuple(
            offset
            for offset in axis_offsets(self.width, self.window, self.stride)
            if offset.start < self.made.stop and offset.start + self.window > self.made.start
        )

    @property
    def made(self) -> range:
        """Scene columns to make: the block's, or all."""
        return range(self.width) if self.block is None else self.block

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

    `uniform` weighs all alike, as published. `hann` falls to nearly nothing at the rim, where a
    window knows least of its surroundings; sampled at pixel centres it never reaches zero, so a
    pixel at the scene's corner is still covered.
    """
    if blend == "uniform":
        return np.ones(window)
    return np.asarray(np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2)


class AxisWeights:
    """Shares of the windows along one axis: those of all offsets sum to 1 at every pixel.

    A window weighs row share times column share, so its logits need no division afterwards.

    Args:
        blend: `uniform` also counts an offset's visits: part of the published protocol.
        offsets: All of the axis, or all that reach a block: then 1 is the sum within the block.
        window: Pixels a side.
    """

    def __init__(self, blend: BlendName, offsets: tuple[Offset, ...], window: int) -> None:
        self._window = window
        self._profile = window_profile(blend, window)
        self._counts_visits = blend == "uniform"
        self._total = np.zeros(offsets[-1].start + window)
        for offset in offsets:
            self._total[offset.start : offset.start + window] += self._weights(offset)

    def share(self, offset: Offset) -> npt.NDArray[np.float32]:
        """Share (window,) of the window at this offset."""
        total = self._total[offset.start : offset.start + self._window]
        return (self._weights(offset) / total).astype(np.float32)

    def _weights(self, offset: Offset) -> Profile:
        return self._profile * offset.visits if self._counts_visits else self._profile
