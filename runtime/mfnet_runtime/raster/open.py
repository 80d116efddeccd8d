"""Opens a raster file, and names it in whatever goes wrong with it.

The first bytes decide the driver, and it must be allowed, so that a file cannot make GDAL follow a
path or a URL (a VRT named .tif, say). Size is checked before a pixel is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.access import SIGNATURES, driver_of, own_masks, require_own_overviews
from mfnet_runtime.raster.limits import (
    DEFAULT_LIMITS,
    GEOTIFF,
    VRT,
    RasterLimits,
    require_within,
)
from mfnet_runtime.raster.vrt import own_sources

PIECE = 1 << 21  # pixels read at a time where a raster is looked through


def open_raster(path: Path, limits: RasterLimits = DEFAULT_LIMITS) -> Any:
    """A rasterio dataset opened for reading.

    Raises:
        SceneError: unreadable, damaged, of a format that is not allowed, or too large.
    """
    try:
        drivers = _drivers_for(path, limits)
        sources = own_sources(path) if drivers == [VRT] else []
        masks = [mask for file in (path, *sources) for mask in own_masks(file)]
        for part in (*sources, *masks):
            _within(part, [GEOTIFF], limits).close()
        return _within(path, drivers, limits)
    except (RasterioError, OSError, UnicodeError) as fault:
        raise SceneError(
            f"{path}: cannot be opened ({_reason(fault)}); "
            "check it with gdalinfo and write it again as GeoTIFF"
        ) from fault


@contextmanager
def no_place_is_fine() -> Iterator[None]:
    """A scene may have no place on Earth; rasterio need not warn of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a read failure into a SceneError that names the file."""
    try:
        yield
    except (RasterioError, OSError) as fault:
        raise SceneError(
            f"{path}: damaged or truncated ({_reason(fault)}); "
            "copy it again or write it anew with gdal_translate"
        ) from fault


def pieces_of(dataset: Any) -> Iterator[Window]:
    """A raster from the top in pieces, of whole stored blocks, so that none is read twice."""
    block_rows, block_columns = dataset.block_shapes[0]
    columns = max(PIECE // block_rows // block_columns, 1) * block_columns
    columns = min(columns, dataset.width)
    rows = max(PIECE // columns // block_rows, 1) * block_rows
    for top in range(0, dataset.height, rows):
        for left in range(0, dataset.width, columns):
            size = (min(columns, dataset.width - left), min(rows, dataset.height - top))
            yield Window(left, top, *size)


def _drivers_for(path: Path, limits: RasterLimits) -> list[str]:
    """The driver of a file's first bytes, or those allowed that have none known.

    Raises:
        SceneError: its driver is not allowed.
        OSError: it cannot be read, or nobody knows its format.
    """
    driver = driver_of(path)
    if driver in limits.drivers:
        return [driver]
    allowed = ", ".join(limits.drivers)
    if driver is not None:
        raise SceneError(
            f"{path}: is of GDAL's driver {driver}; allowed here: {allowed}; allow it with "
            f"--allow-driver {driver}, or write it as GeoTIFF with gdal_translate"
        )
    others = [name for name in limits.drivers if name not in SIGNATURES.values()]
    if not others:
        raise OSError(f"starts like no file of {allowed}; --allow-driver names others")
    return others


def _within(path: Path, drivers: list[str], limits: RasterLimits) -> Any:
    """An open dataset that is not too large and names no other file.

    Raises:
        SceneError: it is, or does.
    """
    dataset = _opened(path, drivers)
    try:
        require_within(path, dataset, limits)
        require_own_overviews(path, dataset)
    except BaseException:
        dataset.close()
        raise
    return dataset


def _opened(path: Path, drivers: list[str]) -> Any:
    """The dataset of the first driver that takes a file."""
    whole = path.absolute()  # else the beginning of a name might be taken for a scheme
    with no_place_is_fine():
        for driver in drivers[:-1]:
            with suppress(RasterioError):
                return rasterio.open(whole, driver=driver)
        return rasterio.open(whole, driver=drivers[-1])


def _reason(fault: BaseException) -> str:
    """GDAL's own words where it has any, in one line."""
    cause = fault.__cause__ or fault
    return " ".join(str(cause).split())[:200]
