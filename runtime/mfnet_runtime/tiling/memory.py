"""Choose the width of a scene's blocks from a memory limit.

Counts what pixels need on the CPU; with a GPU the host holds less. Python, the model and its engine
are not counted: no scene changes them.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.reader import MIN_CACHE, SceneReader
from mfnet_runtime.scene.resampling import PIECE
from mfnet_runtime.tiling.batches import MAX_STRIPS
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import PUBLISHED, SumName
from mfnet_runtime.tiling.prefetch import IN_FLIGHT

DEFAULT = 144 << 20  # bytes for columns; keeps windows on block borders below 5%
STEP = 512  # columns; cuts no output tile and few input tiles
MANY = 1 << 21  # pixels, of which tens of megabytes stay with the allocator
RESAMPLING = 64  # bytes a pixel of the image, while some become others
CLASSIFYING = 16  # bytes a pixel, and one a class, while logits become classes

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class PixelMemory:
    """Bytes that the pixels of a scene need, by the number of columns processed at a time."""

    fixed: int
    column: int  # for each column
    reader: SceneReader

    def of(self, columns: int) -> int:
        """Return the bytes for a number of columns, GDAL's cache included."""
        return self.fixed + self.column * columns + self.reader.cache(columns)


def pixel_memory(
    reader: SceneReader,
    grid: WindowGrid,
    contract: Contract,
    batch: int,
    blend: SumName,
) -> PixelMemory:
    """Estimate the memory of a scene's pixels for a window grid, a batch size and a blending."""
    classes, rows = len(contract.classes), min(grid.window, grid.height)
    # rows as read, masks, normalized rows and temporary copies; and the sums of logits
    sums = 2 * 8 if blend == PUBLISHED else 4  # float64 sums and means
    window = rows * (3 * reader.itemsize + 48) + grid.window * sums * classes
    # validity of rows that wait, and rows being classified
    strips = grid.stride * (IN_FLIGHT * MAX_STRIPS + classes + CLASSIFYING)
    batches = IN_FLIGHT * batch * grid.window**2 * 4 * (4 + classes)
    resampling = RESAMPLING * PIECE if reader.scaling.changes else 0
    return PixelMemory(batches + resampling, window + strips, reader)


def block_width(grid: WindowGrid, needs: PixelMemory, limit: int | None = None) -> int:
    """Return the widest block that fits: all columns, or a multiple of `STEP`.

    Args:
        grid: The windows of the scene.
        needs: The memory of its pixels.
        limit: Bytes; None allows about 200 MiB, or what the narrowest block needs.

    Raises:
        UsageError: the narrowest block exceeds the limit.
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


def process_memory() -> int:
    """Return the bytes that this process has now; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * mmap.PAGESIZE


def return_freed(pixels: int = MANY) -> None:
    """Return freed memory to the system; glibc keeps much of it for every thread that ran.

    Args:
        pixels: Pixels processed since the last call; few leave little to return.
    """
    if pixels >= MANY and sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)


def bytes_from_text(text: str, option: str = "--max-memory") -> int:
    """Convert `"800M"` or `"2G"` to bytes.

    Raises:
        UsageError: not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG])i?B?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"{option} {text!r}: expected a size such as 800M or 2G")
    return int(float(found[1]) * _UNITS[found[2].upper()])
