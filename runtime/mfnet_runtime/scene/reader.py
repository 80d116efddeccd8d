"""A scene's image, DSM and validity on the image's grid, read by rows or parts of them.

Knows nothing of networks. How pixels, heights and areas are read is their own files' matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.grid import grid_of, mismatch, require_same_grid
from mfnet_runtime.raster.open import open_raster as open_raster
from mfnet_runtime.raster.open import pieces_of
from mfnet_runtime.scene.aoi import AreaMask
from mfnet_runtime.scene.discovery import Scene, require_files
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.dsm_alignment import Alignment, align
from mfnet_runtime.scene.dsm_warp import TILE, WarpedDsm
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.normalize import BoolArray, FloatArray
from mfnet_runtime.scene.options import ReadOptions

PLAIN = ReadOptions()
MIN_CACHE = 32 << 20  # bytes of GDAL's block cache, for masks and what is written


@dataclass(frozen=True)
class SceneData:
    """Some rows of a scene, or of some of its columns."""

    image: npt.NDArray[Any]  # (3, row, column), as stored, or float32 where a range was given
    dsm: FloatArray  # (row, column), metres
    image_valid: BoolArray  # (row, column)
    dsm_valid: BoolArray  # (row, column)
    inside: BoolArray | None = None  # (row, column), the areas asked for; None: everything

    @property
    def wanted(self) -> BoolArray:
        """Pixels to classify. Others with data, outside of the areas, are only looked at."""
        both = self.image_valid & self.dsm_valid
        return both if self.inside is None else both & self.inside


@dataclass(frozen=True)
class ReadReport:
    """How a scene is read, as far as options asked for it."""

    alignment: Alignment | None
    image_range: tuple[float, float] | None  # pixel values that become 0 and the full scale
    areas: tuple[str, ...]  # names

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "alignment": self.alignment.to_json() if self.alignment else None,
            "image_range": list(self.image_range) if self.image_range else None,
            "areas": list(self.areas),
        }


class SceneReader:
    """An open scene whose image and DSM were found to lie on one grid, or brought onto it.

    Args:
        scene: The files.
        full_scale: Largest pixel value the model expects; a larger one is refused on reading.
        options: How to read them.
        work: A folder in which a DSM warped to the image's grid is kept, and used again if it is
            there already; None: a temporary one, until the reader is closed.

    Raises:
        SceneError: a file is missing or unreadable, bands, grids or areas do not fit.
    """

    def __init__(
        self,
        scene: Scene,
        full_scale: float = 255.0,
        options: ReadOptions = PLAIN,
        work: Path | None = None,
    ) -> None:
        require_files(scene)
        self.scene = scene
        self.options = options
        own = scene.dsm_band if scene.dsm == scene.image else None
        with ExitStack() as opened:
            self._image = opened.enter_context(open_raster(scene.image, options.limits))
            dsm = opened.enter_context(open_raster(scene.dsm, options.limits))
            self._dsm = HeightBand(scene.dsm, dsm, scene.dsm_band, options.dsm_nodata)
            self._heights: HeightBand | WarpedDsm = self._dsm
            self.alignment = self._aligned(dsm)
            if self.alignment is not None and self.alignment.resampling is not None:
                self._heights = WarpedDsm(self._dsm, self.alignment, work)
                opened.callback(self._heights.close)
            self._pixels = ImageBands(scene.image, self._image, full_scale, options, own)
            grid = grid_of(self._image)
            self._areas = [AreaMask(area, scene.image, grid) for area in options.areas]
            self._opened = opened.pop_all()  # both stay open only if all is well

    @property
    def height(self) -> int:
        """Rows of the scene."""
        return int(self._image.height)

    @property
    def width(self) -> int:
        """Columns of the scene."""
        return int(self._image.width)

    @property
    def files(self) -> list[tuple[str, Path]]:
        """All that are read, those beside the rasters included, each with "image" or "dsm"."""
        found = {
            Path(name): role
            for role, dataset in (("dsm", self._dsm.dataset), ("image", self._image))
            for name in dataset.files
        }
        return [(role, path) for path, role in sorted(found.items())]

    @property
    def image(self) -> ImageBands:
        """The open image."""
        return self._pixels

    @property
    def dsm(self) -> HeightBand:
        """The open DSM, on its own grid."""
        return self._dsm

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the image."""
        return int(np.dtype(self._image.dtypes[0]).itemsize)

    @property
    def bands(self) -> list[int]:
        """Image bands that are read, counted from 1."""
        return self._pixels.bands

    @property
    def profile(self) -> dict[str, Any]:
        """CRS and affine transform of the image, or its ground control points; None otherwise."""
        points, crs = self._image.gcps
        if points and self._image.transform.is_identity:
            return {"crs": crs, "gcps": points}
        if not self._image.crs and self._image.transform.is_identity:
            return {"crs": None, "transform": None}
        return {"crs": self._image.crs, "transform": self._image.transform}

    def report(self) -> ReadReport:
        """Return how the scene is read."""
        areas = tuple(area.name for area in self.options.areas)
        return ReadReport(self.alignment, self._pixels.span, areas)

    def require_grid_of(self, path: Path) -> None:
        """Refuse another raster of this scene, its label say, that lies on another grid.

        Raises:
            SceneError: it does, or cannot be opened.
        """
        with open_raster(path, self.options.limits) as other:
            require_same_grid(self.scene.image, self._image, path, other, self.options.use_place)

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        """Rows from `start` up to `stop` of image, DSM, both validities and the areas.

        Args:
            start: The first row.
            stop: The row after the last.
            columns: Some that follow each other; None reads all.

        Raises:
            SceneError: damaged data, or pixel values above the model's full scale.
        """
        columns = range(self.width) if columns is None else columns
        window = Window(columns.start, start, len(columns), stop - start)
        return self._read(window, *self._heights.read(window))

    def sample(self, window: Window) -> SceneData:
        """Read like `read`, but without warping the whole DSM: heights may differ a little.

        Raises:
            SceneError: damaged data, or pixel values above the model's full scale.
        """
        if isinstance(self._heights, WarpedDsm):
            return self._read(window, *self._heights.sample(window))
        return self._read(window, *self._heights.read(window))

    def _read(self, window: Window, dsm: FloatArray, dsm_valid: BoolArray) -> SceneData:
        image, valid = self._pixels.read(window)
        inside = None
        if self._areas:
            inside = np.logical_and.reduce([area.read(window) for area in self._areas])
        return SceneData(image, dsm, valid, dsm_valid, inside)

    def heights(self) -> Iterator[tuple[FloatArray, BoolArray]]:
        """The whole DSM in pieces, each with its validity.

        Areas do not count: a pixel's class is the same whatever else was asked for.
        """
        for window in pieces_of(self._image):
            yield self._heights.read(window)

    def small_cache(self, columns: int | None = None) -> Any:
        """A context in which GDAL caches two rows of stored blocks, not 5% of all memory.

        Args:
            columns: How many are read at a time; None: all.
        """
        return rasterio.Env(GDAL_CACHEMAX=self.cache(columns or self.width))

    def cache(self, columns: int) -> int:
        """Bytes of `small_cache`."""
        row_of_blocks = 0
        for dataset in (self._image, self._dsm.dataset):
            (rows, across), count = dataset.block_shapes[0], dataset.count
            item = np.dtype(dataset.dtypes[0]).itemsize
            if dataset is self._dsm.dataset and self._heights is not self._dsm:
                rows, across, count, item = TILE, TILE, 1, 4
            width = min(columns + 2 * across, dataset.width)
            row_of_blocks += rows * width * count * item
        return MIN_CACHE + 2 * int(row_of_blocks)

    def _aligned(self, dsm: Any) -> Alignment | None:
        """How the DSM is brought onto the image's grid; None where that was not asked for.

        Raises:
            SceneError: the DSM lies on another grid, and may or can not be aligned.
        """
        path, place, resampling = self.scene.image, self.options.use_place, self.options.align
        if resampling is None:
            remedy = "warp it while reading (mfnet-run --align), or to a file with gdalwarp"
            require_same_grid(path, self._image, self.scene.dsm, dsm, place, remedy)
            return None
        if mismatch(path, self._image, dsm, place) is None:
            resampling = None
        else:
            for file, dataset in ((path, self._image), (self.scene.dsm, dsm)):
                if dataset.transform.is_identity or dataset.transform.is_degenerate:
                    raise SceneError(
                        f"{file}: its geotransform gives it no place, so image and DSM cannot be "
                        "aligned; give it one with gdalwarp, or gdal_edit -a_ullr"
                    )
        return align(self._dsm, grid_of(self._image), grid_of(dsm), resampling)

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()
