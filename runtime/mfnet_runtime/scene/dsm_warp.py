"""A DSM on another grid: warped once by GDAL to the image's grid, then read like any other.

GDAL gets a copy of the heights in which everything that is no height is NaN, so it cannot mix the
two. Heights are resampled, never converted: unit and datum stay those of the DSM.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # GDAL's errors; not all are wrapped
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from mfnet_runtime.errors import ResourceError
from mfnet_runtime.files import replace_files
from mfnet_runtime.raster.crs import same_horizontally
from mfnet_runtime.raster.grid import Grid
from mfnet_runtime.raster.open import pieces_of
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.dsm_alignment import Alignment, dsm_coordinates
from mfnet_runtime.scene.normalize import BoolArray, FloatArray

NAME = "dsm.tif"  # file name of a warped DSM
TILE = 256  # pixels a side
TOLERANCE = 0.01  # DSM pixels by which GDAL may approximate a coordinate
WARP_MEMORY = 64  # MiB for a piece of the scene
CACHE = 64 << 20  # bytes of GDAL's block cache
REACH = 2  # pixels, of the larger of both grids, that the widest kernel (cubic) takes on each side
ANY_CRS = CRS.from_epsg(3857)  # stands for an unknown CRS that both rasters are taken to have


class WarpedDsm:
    """The heights of a DSM on the grid of an image.

    Args:
        band: Heights on their own grid; must stay open.
        alignment: How the DSM lies on the image's grid.
        folder: Keeps the warped DSM as `NAME`; a file of that name is used as it is. None keeps
            it in a temporary folder until `close`.
    """

    def __init__(self, band: HeightBand, alignment: Alignment, folder: Path | None = None) -> None:
        self._band, self._alignment, self._folder = band, alignment, folder
        self._opened = ExitStack()

    def read(self, window: Window) -> tuple[FloatArray, BoolArray]:
        """Read heights of a window of the image and their validity, each (row, column).

        The first call warps the whole DSM.

        Raises:
            SceneError: The DSM is damaged.
            ResourceError: The warped DSM cannot be written.
        """
        return self._warped.read(window)

    def sample(self, window: Window) -> tuple[FloatArray, BoolArray]:
        """Read like `read`, but warp no more than this window.

        Coordinates are approximated otherwise, so heights may differ a little from those of `read`.
        """
        with TemporaryDirectory() as folder, _writing(Path(folder)):
            path = Path(folder) / NAME
            self._warp(self._alignment.image.window(window), path)
            with rasterio.open(path) as dataset:
                return HeightBand(path, dataset).read(Window(0, 0, window.width, window.height))

    @property
    def disk(self) -> int:
        """Bytes of the warped DSM, and of the copy that GDAL reads meanwhile."""
        image, window = self._alignment.image, _window_under(self._alignment.image, self._alignment)
        pixels = sum(
            -(-height // TILE) * -(-width // TILE) * TILE**2
            for height, width in ((image.height, image.width), (window.height, window.width))
        )
        return pixels * np.dtype(np.float32).itemsize

    def close(self) -> None:
        """Close the warped DSM, and remove it unless it is kept in a folder."""
        self._opened.close()

    @cached_property
    def _warped(self) -> HeightBand:
        folder = self._folder or Path(self._opened.enter_context(TemporaryDirectory()))
        path = folder / NAME
        if not path.exists():
            with _writing(folder), TemporaryDirectory(prefix=".dsm.", dir=folder) as made:
                self._warp(self._alignment.image, Path(made) / NAME)
                replace_files([(Path(made) / NAME, path)])
        dataset = rasterio.open(path, driver="GTiff")
        self._opened.callback(
            dataset.close
        )  # no `with`: its end must be in the thread of its start
        return HeightBand(path, dataset)

    def _warp(self, image: Grid, path: Path) -> None:
        """Warp what lies under a grid, all of the image's or a window of it."""
        alignment, clean = self._alignment, path.with_name("clean.tif")
        window = _window_under(image, alignment)
        dsm = alignment.dsm.window(window)
        image_crs = image.crs or dsm.crs or ANY_CRS
        same = same_horizontally(image.crs, dsm.crs)

        def heights_or_nan(piece: Window) -> FloatArray:
            column, row = window.col_off + piece.col_off, window.row_off + piece.row_off
            heights, valid = self._band.read(Window(column, row, piece.width, piece.height))
            return np.where(valid, heights, np.float32(np.nan))

        with rasterio.Env(GDAL_CACHEMAX=CACHE):
            _write(clean, dsm, image_crs if same else dsm.crs, heights_or_nan)
            with (
                rasterio.open(clean) as source,
                WarpedVRT(
                    source,
                    crs=image_crs,
                    transform=image.transform,
                    height=image.height,
                    width=image.width,
                    nodata=np.nan,
                    resampling=Resampling[alignment.resampling or "nearest"],
                    tolerance=TOLERANCE,
                    warp_mem_limit=WARP_MEMORY,
                    # GDAL derives these from the overlap of each piece: wrong at the DSM's edges
                    XSCALE=1 / alignment.steps[1],
                    YSCALE=1 / alignment.steps[0],
                ) as warped,
            ):
                _write(path, image, image_crs, lambda piece: warped.read(1, window=piece))
        clean.unlink()


def _window_under(image: Grid, alignment: Alignment) -> Window:
    """Return the window of the DSM that a grid needs, of at least one pixel."""
    spans = []
    sizes = (alignment.dsm.height, alignment.dsm.width)
    positions = dsm_coordinates(image, alignment.dsm)
    for at, step, size in zip(positions, alignment.steps, sizes, strict=True):
        margin = REACH * max(1.0, step) + 1
        start = min(max(math.floor(at.min() - margin), 0), size - 1)
        stop = max(min(math.ceil(at.max() + margin), size), start + 1)
        spans.append((start, stop - start))
    (top, height), (left, width) = spans
    return Window(left, top, width, height)


def _write(path: Path, grid: Grid, crs: CRS, read: Callable[[Window], FloatArray]) -> None:
    """Write heights piece by piece and read them back: rasterio does not report a failed close."""
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "transform": grid.transform,
        "crs": crs,
        "nodata": np.nan,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "bigtiff": "if_safer",
    }
    written = found = 0
    with rasterio.open(path, "w", **profile) as target:
        for piece in pieces_of(target):
            heights = read(piece)
            target.write(heights, 1, window=piece)
            written = zlib.crc32(np.ascontiguousarray(heights).data, written)
    with rasterio.open(path) as again:
        for piece in pieces_of(again):
            found = zlib.crc32(again.read(1, window=piece).data, found)
    if written != found:
        raise OSError("heights read back differ from those written")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn failures of the disk into a ResourceError."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as fault:
        raise ResourceError(
            f"{folder}: the DSM warped to the image's grid cannot be written "
            f"({' '.join(str(fault).split())[:200]}); check free space and permission"
        ) from fault
