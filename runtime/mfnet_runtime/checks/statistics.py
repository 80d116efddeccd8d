"""Statistics of a raster in one pass: range, percentiles, and the share of nodata by cause."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.open import pieces_of, reading
from mfnet_runtime.scene.dsm import HEIGHT_LIMITS, HeightBand
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.normalize import BoolArray
from mfnet_runtime.scene.options import ReadOptions

Values = npt.NDArray[Any]

MOST_KEPT = 1 << 20  # pixels kept for percentiles
NO_HEIGHT = "not between {:g} and {:g}".format(*HEIGHT_LIMITS)
ALPHA, MASK = "alpha band", "mask band"
LOSSY = ("JPEG", "WEBP", "JPEG2000")  # compression that changes values


@dataclass(frozen=True)
class Sampling:
    """How much of a raster is read: all of it up to `pixels`, else windows spread over it."""

    pixels: int
    side: int  # pixels; a window has about side x side

    def windows(self, dataset: Any) -> list[Window]:
        """Return the windows to read."""
        height, width = dataset.height, dataset.width
        if height * width <= self.pixels:
            return list(pieces_of(dataset))
        # rows stored as a whole are decoded as a whole, so windows are then wide and low
        block_rows, block_columns = dataset.block_shapes[0]
        columns = min(max(self.side, block_columns), width)
        rows = min(max(self.side**2 // columns, 1), height)
        most = self.pixels // (rows * columns)
        across = min(math.isqrt(most), max(width // columns, 1))
        down = min(most // across, max(height // rows, 1))
        lefts = _starts(width, columns, across, block_columns)
        tops = _starts(height, rows, down, block_rows)
        return [Window(left, top, columns, rows) for top in tops for left in lefts]


QUICK = Sampling(9 * 256**2, 256)  # before a run
THOROUGH = Sampling(1 << 26, 512)  # for --check


def _starts(size: int, length: int, count: int, block: int) -> list[int]:
    """Spread windows evenly along an axis; all but the last start where a stored block does."""
    starts = np.linspace(0, size - length, count, dtype=int)
    starts[:-1] -= starts[:-1] % min(block, length)
    return [int(start) for start in starts]


@dataclass(frozen=True)
class Statistics:
    """Statistics of the valid pixels of one or more bands."""

    share: float  # of the raster's pixels that were read
    valid: float  # share of these that are valid
    masked: dict[str, float]  # share of these that are not valid, by cause
    low: tuple[float, ...]  # smallest valid value of each band; empty if no pixel is valid
    high: tuple[float, ...]
    sample: Values = field(repr=False)  # valid pixels, evenly drawn, (band, n)

    @property
    def where(self) -> str:
        """The words " in the sample", or nothing if all pixels were read."""
        return "" if self.share == 1 else " in the sample"

    @property
    def common(self) -> tuple[float, float]:
        """Percentiles 1 and 99, the extremes over all bands; zeros if no pixel is valid."""
        if not self.sample.size:
            return 0.0, 0.0
        low, high = np.percentile(self.sample, (1, 99), axis=1)
        return float(low.min()), float(high.max())

    @property
    def causes(self) -> str:
        """`masked` as text."""
        return ", ".join(f"{name} {share:.1%}" for name, share in self.masked.items())


def is_lossy(dataset: Any) -> bool:
    """Tell if a raster's compression may have changed its values."""
    return bool(dataset.compression) and dataset.compression.value in LOSSY


def image_statistics(image: ImageBands, options: ReadOptions, sampling: Sampling) -> Statistics:
    """Read an image as stored.

    Raises:
        SceneError: damaged data.
    """
    declared = dict.fromkeys(image.dataset.nodatavals[band - 1] for band in image.bands)
    values = ", ".join(f"{value:g}" for value in declared if value is not None)
    asked = None if options.nodata_image is None else ("--nodata-image", options.nodata_image)
    rest = f"within {image.tolerance:g} of nodata" if image.tolerance else f"nodata value {values}"
    return _statistics(image, image.bands, image.stored, sampling, asked, rest)


def dsm_statistics(dsm: HeightBand, sampling: Sampling) -> Statistics:
    """Read a DSM on its own grid.

    Raises:
        SceneError: damaged data.
    """

    def read(window: Window) -> tuple[Values, BoolArray]:
        heights, valid = dsm.read(window)
        return heights[None], valid

    asked = None if dsm.nodata is None else ("--nodata-dsm", dsm.nodata)
    return _statistics(dsm, [dsm.band], read, sampling, asked, NO_HEIGHT)


def _statistics(
    source: ImageBands | HeightBand,
    bands: Sequence[int],
    read: Callable[[Window], tuple[Values, BoolArray]],
    sampling: Sampling,
    asked: tuple[str, float] | None,
    rest: str,
) -> Statistics:
    """Read windows of a raster.

    Args:
        source: Path and dataset.
        bands: Counted from 1.
        read: Returns values (band, row, column) of a window and which pixels are valid.
        sampling: How much to read.
        asked: Option and nodata value given by the user.
        rest: The cause of what no other cause explains.
    """
    dataset = source.dataset
    windows = sampling.windows(dataset)
    pixels = sum(window.width * window.height for window in windows)
    step = pixels // MOST_KEPT | 1  # odd: not the same columns of every row
    low, high = np.full(len(bands), np.inf), np.full(len(bands), -np.inf)
    kept, count, masked = [], 0, dict[str, int]()
    for window in windows:
        values, valid = read(window)
        seen = values[:, valid]
        if seen.size:
            low, high = np.minimum(low, seen.min(axis=1)), np.maximum(high, seen.max(axis=1))
        count += seen.shape[1]
        kept.append(seen[:, ::step].copy())
        if seen.shape[1] < valid.size:
            left = ~valid
            for name, mask in _causes(source.path, dataset, bands, window, values, asked):
                masked[name] = masked.get(name, 0) + int(np.count_nonzero(mask & left))
                left &= ~mask
            masked[rest] = masked.get(rest, 0) + int(np.count_nonzero(left))
    return Statistics(
        pixels / (dataset.width * dataset.height),
        count / pixels,
        {name: number / pixels for name, number in masked.items() if number},
        tuple(low.tolist()) if count else (),
        tuple(high.tolist()) if count else (),
        np.concatenate(kept, axis=1),
    )


def _causes(
    path: RasterPath,
    dataset: Any,
    bands: Sequence[int],
    window: Window,
    values: Values,
    asked: tuple[str, float] | None,
) -> Iterator[tuple[str, BoolArray]]:
    """Yield what may make a pixel invalid; the first that applies counts."""
    yield "NaN or infinite", np.asarray(~np.isfinite(values).all(axis=0))
    with reading(path):
        if asked is not None:
            stored = dataset.read(bands, window=window)
            yield f"{asked[0]} {asked[1]:g}", np.asarray((stored == asked[1]).any(axis=0))
        flags = dataset.mask_flag_enums[bands[0] - 1]
        name = ALPHA if MaskFlags.alpha in flags else MASK
        if MaskFlags.nodata in flags:
            name = f"nodata value {dataset.nodatavals[bands[0] - 1]:g}"
        yield name, (dataset.read_masks(bands, window=window) == 0).any(axis=0)
