"""Read the image and the DSM of a scene, with validity, on the image's grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.windows import Window

from mfnet_runtime.network.url import RasterPath, Url
from mfnet_runtime.raster.grid import grid_of, mismatch, require_same_grid
from mfnet_runtime.raster.open import open_raster as open_raster
from mfnet_runtime.raster.open import pieces_of
from mfnet_runtime.scene.aoi import AreaMask
from mfnet_runtime.scene.discovery import Scene, require_files
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.dsm_alignment import (
    Alignment,
    align,
    require_no_points,
    require_transform,
)
from mfnet_runtime.scene.dsm_warp import TILE, WarpedDsm
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.normalize import BoolArray, FloatArray
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.resampling import Scaling, scaling_of

DEFAULT_OPTIONS = ReadOptions()
MIN_CACHE = 32 << 20  # bytes of GDAL's block cache, for masks and output


@dataclass(frozen=True)
class SceneData:
    """A piece of a scene."""

    image: npt.NDArray[Any]  # (3, row, column), as stored, or float32 if a range was given
    dsm: FloatArray  # (row, column), metres
    image_valid: BoolArray  # (row, column)
    dsm_valid: BoolArray  # (row, column)
    inside: BoolArray | None = None  # (row, column), the areas of interest; None: everything
    transform: Any = None  # affine, (column, row) of the piece to map coordinates
    crs: CRS | None = None

    @property
    def wanted(self) -> BoolArray:
        """Pixels to classify: valid, and inside the areas of interest."""
        both = self.image_valid & self.dsm_valid
        return both if self.inside is None else both & self.inside


@dataclass(frozen=True)
class ReadReport:
    """How a scene is read."""

    alignment: Alignment | None
    image_range: tuple[float, float] | None  # pixel values that become 0 and the full scale
    areas: tuple[str, ...]  # names
    scaling: Scaling | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "alignment": self.alignment.to_json() if self.alignment else None,
            "image_range": list(self.image_range) if self.image_range else None,
            "areas": list(self.areas),
            "resampled": self.scaling.to_json() if self.scaling else None,
        }


class SceneReader:
    """An open scene.

    Args:
        scene: Files of the scene.
        full_scale: Largest pixel value that the model expects; larger ones are refused on reading.
        options: How to read.
        work: Folder that keeps a DSM warped to the image's grid, and may hold one from before;
            None keeps it in a temporary folder until the reader is closed.

    Attributes:
        image: Bands of the open image, on its own grid.
        dsm: Heights of the open DSM, on its own grid.
        scaling: Grid of the image, and that on which it is read.
        grid: The latter.
        alignment: How the DSM is brought onto that grid; None if that was not asked for.

    Raises:
        SceneError: A file is missing or unreadable, or bands, grids or areas do not fit.
    """

    def __init__(
        self,
        scene: Scene,
        full_scale: float = 255.0,
        options: ReadOptions = DEFAULT_OPTIONS,
        work: Path | None = None,
    ) -> None:
        require_files(scene)
        self.scene, self.options = scene, options
        with ExitStack() as opened:
            image = opened.enter_context(open_raster(scene.image, options.limits))
            dsm = opened.enter_context(open_raster(scene.dsm, options.limits))
            self.scaling = scaling_of(scene.image, image, options)
            self.grid = self.scaling.read
            self.dsm = HeightBand(scene.dsm, dsm, scene.dsm_band, options.nodata_dsm)
            self.alignment = self._align(image, dsm)
            self._heights: HeightBand | WarpedDsm = self.dsm
            if self.alignment is not None and self.alignment.resampling is not None:
                self._heights = WarpedDsm(self.dsm, self.alignment, work)
                opened.callback(self._heights.close)
            in_image = scene.dsm_band if scene.dsm == scene.image else None
            self.image = ImageBands(scene.image, image, full_scale, options, in_image)
            self._areas = [
                AreaMask(area, scene.image, self.scaling.image) for area in options.areas
            ]
            self._opened = opened.pop_all()  # closed here if anything above failed

    @property
    def height(self) -> int:
        """Rows of the scene."""
        return self.grid.height

    @property
    def width(self) -> int:
        """Columns of the scene."""
        return self.grid.width

    @property
    def files(self) -> list[tuple[str, RasterPath]]:
        """All files that are read, sidecars included, each with "image" or "dsm"."""
        found: dict[RasterPath, str] = {}
        for role, raster in (("dsm", self.dsm), ("image", self.image)):
            remote = isinstance(raster.path, Url)
            paths = [raster.path] if remote else map(Path, raster.dataset.files)
            found |= dict.fromkeys(paths, role)
        return [(role, path) for path, role in sorted(found.items(), key=lambda file: str(file[0]))]

    @property
    def itemsize(self) -> int:
        """Bytes of a pixel value of the image as read."""
        if self.scaling.changes:
            return np.dtype(np.float32).itemsize
        return int(np.dtype(self.image.dataset.dtypes[0]).itemsize)

    @property
    def disk(self) -> int:
        """Bytes of temporary files that reading takes: those of a DSM to be warped."""
        return self._heights.disk if isinstance(self._heights, WarpedDsm) else 0

    @property
    def profile(self) -> dict[str, Any]:
        """CRS and transform of the image, or its ground control points; None if it has none."""
        grid = self.scaling.image
        points, crs = self.image.dataset.gcps
        if points and grid.transform.is_identity:
            return {"crs": crs, "gcps": points}
        if not grid.crs and grid.transform.is_identity:
            return {"crs": None, "transform": None}
        return {"crs": grid.crs, "transform": grid.transform}

    def report(self) -> ReadReport:
        """Return how the scene is read."""
        areas = tuple(area.name for area in self.options.areas)
        return ReadReport(self.alignment, self.image.span, areas, self.scaling)

    def require_grid_of(self, path: RasterPath) -> None:
        """Refuse another raster of this scene, such as its label, that is on another grid.

        Raises:
            SceneError: It is, or it cannot be opened.
        """
        with open_raster(path, self.options.limits) as other:
            image, compare_place = self.image.dataset, self.options.use_place
            require_same_grid(self.scene.image, image, path, other, compare_place)

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        """Read rows of the scene.

        Args:
            start: First row.
            stop: Row after the last.
            columns: Columns to read, without gaps; None reads all.

        Raises:
            SceneError: The data is damaged, or pixel values exceed the model's full scale.
            ResourceError: The DSM has to be warped first, and cannot be written.
        """
        columns = range(self.width) if columns is None else columns
        window = Window(columns.start, start, len(columns), stop - start)
        return self._read(window, *self._heights.read(window))

    def sample(self, window: Window) -> SceneData:
        """Read a window like `read`, without warping more of the DSM than the window needs.

        Warped heights may differ a little from those of `read`.
        """
        if isinstance(self._heights, WarpedDsm):
            return self._read(window, *self._heights.sample(window))
        return self._read(window, *self._heights.read(window))

    def inside(self, window: Window) -> BoolArray | None:
        """Return a mask (row, column) of the areas of interest; None if there are none."""
        if not self._areas:
            return None
        return self.scaling.any(self._inside_image, window)

    def wanted_in_image(self, window: Window) -> BoolArray:
        """Return which of the image's own pixels have data and are inside, (row, column)."""
        _, valid = self.image.stored(window)
        return valid & self._inside_image(window) if self._areas else valid

    def heights(self) -> Iterator[tuple[FloatArray, BoolArray]]:
        """Read the whole DSM in pieces, each with its validity.

        Areas of interest are ignored: they do not change the class of a pixel inside.
        """
        for window in pieces_of(self.scaling):
            yield self._heights.read(window)

    def small_cache(self, columns: int | None = None) -> Any:
        """Return a context in which GDAL caches two rows of blocks instead of 5% of all memory.

        Args:
            columns: How many columns are read at a time; None: all.
        """
        return rasterio.Env(GDAL_CACHEMAX=self.cache(columns or self.width))

    def cache(self, columns: int) -> int:
        """Return the bytes of `small_cache`."""
        row = _bytes_of_block_row(self.image.dataset, self.scaling.columns.most_under(columns))
        if isinstance(self._heights, WarpedDsm):
            row += TILE * min(columns + 2 * TILE, self.width) * np.dtype(np.float32).itemsize
        else:
            row += _bytes_of_block_row(self.dsm.dataset, columns)
        return MIN_CACHE + 2 * row

    def _inside_image(self, window: Window) -> BoolArray:
        return np.asarray(np.logical_and.reduce([area.read(window) for area in self._areas]))

    def _read(self, window: Window, dsm: FloatArray, dsm_valid: BoolArray) -> SceneData:
        image, image_valid = self.scaling.resample(self.image.read, window)
        grid, inside = self.grid.window(window), self.inside(window)
        return SceneData(image, dsm, image_valid, dsm_valid, inside, grid.transform, grid.crs)

    def _align(self, image: Any, dsm: Any) -> Alignment | None:
        """Check that both grids are equal or can be made so."""
        scene, options, scaling = self.scene, self.options, self.scaling
        rasters = ((scene.image, image), (scene.dsm, dsm))
        if not options.align:
            remedy = "warp it while reading (--align), or to a file with gdalwarp"
            require_same_grid(scene.image, image, scene.dsm, dsm, options.use_place, remedy)
            if not scaling.changes:
                return None
        else:
            for path, dataset in rasters if scene.dsm != scene.image else ():
                require_no_points(path, dataset)
            if mismatch(scene.image, image, dsm, options.use_place) is not None:
                for path, dataset in rasters:
                    require_transform(path, dataset)
                return align(self.dsm, self.grid, grid_of(dsm), options.dsm_resampling)
        resampling = options.resampling or scaling.resampling
        return align(self.dsm, self.grid, scaling.image, resampling if scaling.changes else None)

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()


def _bytes_of_block_row(dataset: Any, columns: int) -> int:
    """Return the size of the stored blocks under some columns."""
    rows, width = dataset.block_shapes[0]
    item = np.dtype(dataset.dtypes[0]).itemsize * dataset.count
    return int(rows * min(columns + 2 * width, dataset.width) * item)
