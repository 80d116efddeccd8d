"""The only file that opens rasters: a scene's image, DSM and validity, read by rows.

Knows nothing of networks. The first bytes decide the driver, and only those named here are used,
so that a file cannot make GDAL follow a path or a URL (a VRT named .tif, say).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.grid import require_plain_numbers, require_same_grid, require_single_band
from mfnet_runtime.scaling import BoolArray, FloatArray
from mfnet_runtime.scenes import Scene, require_files

SIGNATURES = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",  # BigTIFF
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}
HEIGHT_LIMITS = (-1000.0, 1e6)  # outside lies no height on Earth but an undeclared nodata value
STATISTICS_ROWS = 512  # rows read at a time
MIN_CACHE = 32 << 20  # bytes of GDAL's block cache, for masks and what is written


@dataclass(frozen=True)
class SceneRows:
    """Some full rows of a scene."""

    image: npt.NDArray[Any]  # (3, row, column), as stored
    dsm: FloatArray  # (row, column), metres
    image_valid: BoolArray  # (row, column)
    dsm_valid: BoolArray  # (row, column)


def open_raster(path: Path) -> Any:
    """A rasterio dataset opened for reading.

    Raises:
        SceneError: unreadable, damaged, or of another format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a scene may have no place
            return rasterio.open(path, driver=_driver(path))
    except (RasterioError, OSError, UnicodeError) as fault:
        raise SceneError(
            f"{path}: cannot be opened ({_reason(fault)}); "
            "check it with gdalinfo and write it again as GeoTIFF"
        ) from fault


def _driver(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    for signature, driver in SIGNATURES.items():
        if start.startswith(signature):
            return driver
    raise OSError(f"starts with {start!r}, neither TIFF, PNG nor JPEG")


class SceneReader:
    """An open scene whose image and DSM were found to lie on one grid.

    Args:
        scene: The files.
        bands: 1-based image bands to read, three of them; None takes all bands but alpha.
        full_scale: Largest pixel value the model expects; a larger one is refused on reading.
        use_alpha: Whether an alpha band masks; off where a file flags an infrared band as alpha.
        use_place: Whether the files' CRS and transforms must agree, not their sizes alone.

    Raises:
        SceneError: a file is missing or unreadable, bands or grids do not fit.
    """

    def __init__(
        self,
        scene: Scene,
        bands: Sequence[int] | None = None,
        full_scale: float = 255.0,
        use_alpha: bool = True,
        use_place: bool = True,
    ) -> None:
        require_files(scene)
        self.scene = scene
        self.full_scale = full_scale
        self._use_place = use_place
        with ExitStack() as opened:
            self._image = opened.enter_context(open_raster(scene.image))
            self._dsm = opened.enter_context(open_raster(scene.dsm))
            self.bands = _checked_bands(scene.image, self._image, bands)
            self._masked = use_alpha or ColorInterp.alpha not in self._image.colorinterp
            require_single_band(scene.dsm, self._dsm, "DSM")
            require_same_grid(scene.image, self._image, scene.dsm, self._dsm, use_place)
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
    def profile(self) -> dict[str, Any]:
        """CRS and affine transform of the image, or its ground control points; None otherwise."""
        points, crs = self._image.gcps
        if points and self._image.transform.is_identity:
            return {"crs": crs, "gcps": points}
        if not self._image.crs and self._image.transform.is_identity:
            return {"crs": None, "transform": None}
        return {"crs": self._image.crs, "transform": self._image.transform}

    def require_grid_of(self, path: Path) -> None:
        """Refuse another raster of this scene, its label say, that lies on another grid.

        Raises:
            SceneError: it does, or cannot be opened.
        """
        with open_raster(path) as other:
            require_same_grid(self.scene.image, self._image, path, other, self._use_place)

    def read(self, start: int, stop: int) -> SceneRows:
        """Rows from `start` up to `stop` of image, DSM and both validities.

        Raises:
            SceneError: damaged data, or pixel values above the model's full scale.
        """
        rows = Window(0, start, self.width, stop - start)
        with _naming(self.scene.image):
            image = self._image.read(self.bands, window=rows)
            valid = np.isfinite(image).all(axis=0) & ~self._holes(image)
            if self._masked:
                valid &= self._image.dataset_mask(window=rows) > 0
        smallest, largest = image.min(where=valid, initial=0), image.max(where=valid, initial=0)
        slack = 0.001 * self.full_scale  # float rasters may overshoot by rounding
        if smallest < -slack or largest > self.full_scale + slack:
            worst = largest if largest > self.full_scale + slack else smallest
            raise SceneError(
                f"{self.scene.image}: pixel values reach {worst:g}, the model expects 0 to "
                f"{self.full_scale:g}; rescale the image, declare its nodata value, or use a "
                "model trained on such values"
            )
        dsm, dsm_valid = self._read_dsm(rows)
        return SceneRows(image, dsm, valid, dsm_valid)

    def heights(self) -> Iterator[tuple[FloatArray, BoolArray]]:
        """The whole DSM from the top, in pieces of full rows, each with its validity."""
        for start in range(0, self.height, STATISTICS_ROWS):
            count = min(STATISTICS_ROWS, self.height - start)
            yield self._read_dsm(Window(0, start, self.width, count))

    def small_cache(self) -> Any:
        """A context in which GDAL caches two rows of blocks of the scene, not 5% of all memory."""
        blocks = sum(
            dataset.block_shapes[0][0] * np.dtype(dataset.dtypes[0]).itemsize * dataset.count
            for dataset in (self._image, self._dsm)
        )
        return rasterio.Env(GDAL_CACHEMAX=MIN_CACHE + 2 * blocks * self.width)

    def _holes(self, image: npt.NDArray[Any]) -> BoolArray:
        """Pixels (row, column) with the nodata value: in all bands if it is a possible colour
        (one black band is none), in any band if it is not."""
        holes = np.zeros(image.shape, np.bool_)
        for index, band in enumerate(self.bands):
            nodata = self._image.nodatavals[band - 1]
            if nodata is not None:
                holes[index] = image[index] == nodata
        colours = [self._image.nodatavals[band - 1] or 0 for band in self.bands]
        possible = all(0 <= value <= self.full_scale for value in colours)
        return np.asarray(holes.all(axis=0) if possible else holes.any(axis=0))

    def _read_dsm(self, rows: Any) -> tuple[FloatArray, BoolArray]:
        with _naming(self.scene.dsm):
            dsm = self._dsm.read(1, window=rows).astype(np.float32)
            declared = self._dsm.read_masks(1, window=rows) > 0
        scale, offset = self._dsm.scales[0], self._dsm.offsets[0]
        if (scale, offset) != (1.0, 0.0):  # heights packed into integers
            dsm = dsm * np.float32(scale) + np.float32(offset)
        low, high = HEIGHT_LIMITS
        with np.errstate(invalid="ignore"):
            return dsm, declared & np.isfinite(dsm) & (dsm > low) & (dsm < high)

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()


def _checked_bands(path: Path, dataset: Any, bands: Sequence[int] | None) -> list[int]:
    if bands is None:
        kinds = enumerate(dataset.colorinterp, start=1)
        found = [index for index, kind in kinds if kind is not ColorInterp.alpha]
        if len(found) != 3:
            raise SceneError(
                f"{path}: has {len(found)} bands (alpha aside), the model takes 3; "
                "choose them with --bands, for example --bands 1,2,3"
            )
        return _plain_bands(path, dataset, found)
    if len(bands) != 3 or not all(1 <= band <= dataset.count for band in bands):
        raise SceneError(
            f"{path}: bands {','.join(map(str, bands))} asked for, the file has "
            f"{dataset.count}; choose three of them, counted from 1, with --bands"
        )
    return _plain_bands(path, dataset, list(bands))


def _plain_bands(path: Path, dataset: Any, bands: list[int]) -> list[int]:
    for band in bands:
        require_plain_numbers(path, dataset, band)
    return bands


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn a read failure into a SceneError that names the file."""
    try:
        yield
    except (RasterioError, OSError) as fault:
        raise SceneError(
            f"{path}: damaged or truncated ({_reason(fault)}); "
            "copy it again or write it anew with gdal_translate"
        ) from fault


def _reason(fault: BaseException) -> str:
    """GDAL's own words where it has any, in one line."""
    cause = fault.__cause__ or fault
    return " ".join(str(cause).split())[:200]
