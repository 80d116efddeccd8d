"""The sliding-window grid of a scene, or of a block of it.

The published protocol (reference MFNET.md, section 7) steps by `stride` and moves a window that
would cross the border back inside, so that it visits the last position several times when the
stride is small. Here every position is inferred once and its number of visits becomes a weight:
the same sum of logits for less work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from mfnet_runtime.errors import UsageError


@dataclass(frozen=True)
class Offset:
    """A window position along one axis."""

    start: int  # pixels from the scene's first row or column
    visits: int  # times the published protocol infers it


@dataclass(frozen=True)
class WindowGrid:
    """The windows of a scene, row by row, or those that reach a block of its columns and rows.

    A scene smaller than the window has the one offset 0 on that axis, and the caller pads. Offsets
    are always the scene's, so that a pixel lies under the same windows whatever the blocks.

    Raises:
        UsageError: the stride is not in 1..window, so that pixels would be left out.
    """

    height: int  # scene rows, pixels
    width: int  # scene columns, pixels
    window: int  # pixels a side
    stride: int  # pixels between windows
    block: range | None = None  # columns to produce; None: all
    band: range | None = None  # rows to produce; None: all

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise UsageError(
                f"stride is {self.stride} px; expected 1 to {self.window} (the model's window), "
                "or pixels would be left out"
            )
        if self.height < 1 or self.width < 1:
            raise UsageError(f"scene is {self.width} x {self.height} px; expected at least 1 x 1")

    @cached_property
    def rows(self) -> tuple[Offset, ...]:
        """Offsets of the window rows that reach `made_rows`, from the top."""
        return self._reaching(axis_offsets(self.height, self.window, self.stride), self.made_rows)

    @cached_property
    def columns(self) -> tuple[Offset, ...]:
        """Offsets of the window columns that reach `made`, from the left."""
        return self._reaching(axis_offsets(self.width, self.window, self.stride), self.made)

    @property
    def made(self) -> range:
        """Scene columns to produce."""
        return range(self.width) if self.block is None else self.block

    @property
    def made_rows(self) -> range:
        """Scene rows to produce."""
        return range(self.height) if self.band is None else self.band

    @cached_property
    def under(self) -> range:
        """Scene columns under the windows: those to produce and the margin that windows reach."""
        first, last = self.columns[0].start, self.columns[-1].start
        return range(first, min(last + self.window, self.width))

    @property
    def inner(self) -> slice:
        """The columns to produce among those under the windows."""
        left = self.under.start
        return slice(self.made.start - left, self.made.stop - left)

    def blocks(self, width: int) -> list[WindowGrid]:
        """Cut the scene into blocks of `width` columns; windows on a border are in both."""
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
    """Return the distinct window positions along an axis of `length` pixels, ascending."""
    last = max(length - window, 0)
    visits = Counter(min(start, last) for start in range(0, length, stride))
    return tuple(Offset(start, count) for start, count in sorted(visits.items()))
