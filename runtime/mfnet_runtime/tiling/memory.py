"""How wide the blocks of a scene may be for the memory there is.

Counted is what pixels need with numpy around the network; on a GPU's way the host holds less. Not
counted are Python, the model and its engine, which no scene changes.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass

from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.reader import MIN_CACHE, SceneReader
from mfnet_runtime.tiling.batches import MAX_STRIPS
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import DEFAULT_BLEND, PUBLISHED, SumName
from mfnet_runtime.tiling.prefetch import IN_FLIGHT

DEFAULT = 144 << 20  # bytes for columns: windows on borders of blocks are 5% at most
STEP = 512  # columns: output tiles and most inputs' are not cut
MANY = 1 << 21  # pixels that leave tens of megabytes behind
PASSING = 16  # bytes a pixel, and one for each class, while rows become classes

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class PixelMemory:
    """Bytes that the pixels of a scene need, by the columns worked on at a time."""

    fixed: int
    column: int  # for each of them
    reader: SceneReader

    def of(self, columns: int) -> int:
        """Bytes for so many columns, GDAL's cache included."""
        return self.fixed + self.column * columns + self.reader.cache(columns)


def pixel_memory(
    reader: SceneReader,
    grid: WindowGrid,
    contract: Contract,
    batch: int,
    blend: SumName = DEFAULT_BLEND,
) -> PixelMemory:
    """What a scene needs for windows of that grid, so many a call, blended like that."""
    classes, rows = len(contract.classes), min(grid.window, grid.height)
    # rows as they are read, their masks, scaled, copies while that is done; and sums of logits
    sums = 2 * 8 if blend == PUBLISHED else 4  # in float64, and their means
    window = rows * (3 * reader.itemsize + 48) + grid.window * sums * classes
    # which pixels are valid, of rows that wait; rows that become classes
    strips = grid.stride * (IN_FLIGHT * MAX_STRIPS + classes + PASSING)
    batches = IN_FLIGHT * batch * grid.window**2 * 4 * (4 + classes)
    return PixelMemory(batches, window + strips, reader)


def block_width(grid: WindowGrid, needs: PixelMemory, limit: int | None = None) -> int:
    """The widest block that fits: all columns, or a multiple of `STEP`.

    Args:
        grid: The windows of the scene.
        needs: Of its pixels.
        limit: Bytes; None takes some 200 MiB, for an odd file what it needs.

    Raises:
        UsageError: the narrowest does not fit.
    """
    most = needs.fixed + MIN_CACHE + DEFAULT if limit is None else limit
    if needs.of(grid.width) <= most:
        return grid.width
    around = 2 * (grid.window - 1)  # columns that windows reach beyond a block
    for columns in range(grid.width // STEP * STEP, 0, -STEP):
        if needs.of(min(columns + around, grid.width)) <= most:
            return columns
    least = needs.of(min(STEP + around, grid.width))
    if limit is not None:
        raise UsageError(
            f"--max-memory {limit >> 20}M: the pixels of {needs.reader.scene.image} need "
            f"{-(-least >> 20)}M at least; give more, or use a smaller --batch"
        )
    return min(STEP, grid.width)


def return_freed(pixels: int = MANY) -> None:
    """Give freed memory back to the system: glibc keeps much for each thread that there was.

    Args:
        pixels: Worked on since the last time; of few there is little to give back.
    """
    if pixels >= MANY and sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def bytes_from_text(text: str) -> int:
    """`"800M"` or `"2G"` to bytes.

    Raises:
        UsageError: something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG])i?B?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"--max-memory {text!r}: expected a size such as 800M or 2G")
    return int(float(found[1]) * _UNITS[found[2].upper()])
