"""What a raster file may be before anything of it is read: its driver and its size.

A header of a kilobyte can ask for terabytes. Knows nothing of what pixels mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.errors import SceneError, UsageError

GEOTIFF = "GTiff"
# Formats whose pixels lie in the file itself, so that reading one follows no path and no URL.
PLAIN_DRIVERS = (GEOTIFF, "PNG", "JPEG")
VRT = "VRT"

MAX_PIXELS = 40_000_000_000  # 200,000 a side: 20 km at 10 cm
MAX_BANDS = 4096
MAX_BLOCK = 256 << 20  # bytes of a stored block: GDAL decodes it whole, and keeps several


@dataclass(frozen=True)
class RasterLimits:
    """Which files may be opened."""

    drivers: tuple[str, ...] = PLAIN_DRIVERS  # GDAL's short names; VRT with its sources beside it
    max_pixels: int = MAX_PIXELS  # rows times columns

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels}: expected at least 1")


DEFAULT_LIMITS = RasterLimits()


def require_within(path: Path, dataset: Any, limits: RasterLimits) -> None:
    """Refuse a raster that is too large as a whole, or whose stored blocks are.

    Args:
        path: For the message.
        dataset: Open; nothing of it is read.
        limits: What is allowed.

    Raises:
        SceneError: with what was found and what is allowed.
    """
    pixels = dataset.width * dataset.height
    if pixels > limits.max_pixels:
        raise SceneError(
            f"{path}: is {dataset.width} x {dataset.height} px, together more than "
            f"{limits.max_pixels}; if it really is so large, allow it with --max-pixels {pixels}, "
            "or cut it with gdal_translate -srcwin"
        )
    if dataset.count > MAX_BANDS:
        raise SceneError(
            f"{path}: has {dataset.count} bands; at most {MAX_BANDS} are read; take those wanted "
            "with gdal_translate -b"
        )
    together = dataset.count if str(dataset.profile.get("interleave")) == "pixel" else 1
    block = together * max(
        math.prod(shape) * np.dtype(kind).itemsize
        for shape, kind in zip(dataset.block_shapes, dataset.dtypes, strict=True)
    )
    if block > MAX_BLOCK:
        rows, columns = dataset.block_shapes[0]
        raise SceneError(
            f"{path}: is stored in blocks of {columns} x {rows} px, {block >> 20} MiB each; at "
            f"most {MAX_BLOCK >> 20} MiB are read at a time; write it in tiles with "
            "gdal_translate -co TILED=YES"
        )
