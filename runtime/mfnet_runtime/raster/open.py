"""Open a raster file, and name it in every error.

The first bytes decide the driver, and it must be allowed, so that a file cannot make GDAL follow a
path or a URL (a VRT named .tif, for example). Sizes are checked before a pixel is read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import rasterio
from rasterio.env import get_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.network.file import NAME, RemoteFile, raising_faults
from mfnet_runtime.network.url import RasterPath, Url
from mfnet_runtime.raster.limits import (
    DEFAULT_LIMITS,
    GEOTIFF,
    LOCAL_ONLY,
    MAX_BANDS,
    MAX_BLOCK,
    RasterLimits,
    masks_beside,
    start_of,
)

PIECE = 1 << 21  # pixels that are read at a time from a whole raster


def open_raster(path: RasterPath, limits: RasterLimits = DEFAULT_LIMITS) -> Any:
    """Open a rasterio dataset for reading.

    Raises:
        SceneError: The file is unreadable, damaged, of a format that is not allowed, or too large.
    """
    try:
        if isinstance(path, Url):
            return _open_remote(path, limits)
        drivers = limits.drivers_for(path, start_of(path))
        with local_gdal():
            for mask in masks_beside(path):
                _open_within(mask, [GEOTIFF], limits).close()
            return _open_within(path, drivers, limits)
    except (RasterioError, OSError, UnicodeError) as fault:
        raise SceneError(
            f"{path}: cannot be opened ({_reason(fault)}); "
            "check it with gdalinfo and write it again as GeoTIFF"
        ) from fault


@contextmanager
def no_place_is_fine() -> Iterator[None]:
    """Silence rasterio's warning of rasters without georeferencing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def reading(path: RasterPath) -> Iterator[None]:
    """Turn a read failure into a SceneError that names the file; keep GDAL from the network."""
    try:
        with local_gdal(), raising_faults():
            yield
    except (RasterioError, OSError) as fault:
        raise SceneError(
            f"{path}: damaged or truncated ({_reason(fault)}); "
            "copy it again or write it anew with gdal_translate"
        ) from fault


def local_gdal(**options: str) -> Any:
    """Return a context in which GDAL opens nothing over the network.

    It is for our own opens and reads (a VRT opens its sources when it is read), not for the whole
    process: a program that uses mfnet may read from the network elsewhere. What GDAL and PROJ read
    once a process cannot be set here, nor need it be: a driver is always named, and PROJ downloads
    nothing unless its user asks for it.
    """
    ours = {name: value for name, value in LOCAL_ONLY.items() if get_gdal_config(name) is None}
    no_credentials = DummySession()  # else boto3 looks for some
    return rasterio.Env(session=no_credentials, **ours, **options)


def pieces_of(dataset: Any) -> Iterator[Window]:
    """Divide a raster into windows of whole stored blocks, from the top."""
    block_rows, block_columns = dataset.block_shapes[0]
    columns = max(PIECE // block_rows // block_columns, 1) * block_columns
    columns = min(columns, dataset.width)
    rows = max(PIECE // columns // block_rows, 1) * block_rows
    for top in range(0, dataset.height, rows):
        for left in range(0, dataset.width, columns):
            size = (min(columns, dataset.width - left), min(rows, dataset.height - top))
            yield Window(left, top, *size)


def _open_remote(url: Url, limits: RasterLimits) -> Any:
    """Open a GeoTIFF on the network, through our reader instead of GDAL's.

    GDAL reads with one thread: the faults of others would be lost.
    """
    remote = RemoteFile(url, limits.access)
    drivers = limits.drivers_for(url, remote.head)
    if drivers != [GEOTIFF]:
        raise SceneError(f"{url}: only GeoTIFFs are read over the network; write it as one")
    with local_gdal(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), raising_faults():
        return _open_within(url, drivers, limits, opener=remote.open, num_threads=1)


def _open_within(path: RasterPath, drivers: list[str], limits: RasterLimits, **options: Any) -> Any:
    """Open a dataset by the first driver that accepts it, and check it against the limits.

    Raises:
        SceneError: It is too large, or names another file as its overviews.
    """
    # absolute: else the beginning of a name might be taken for a scheme
    whole = NAME if isinstance(path, Url) else path.absolute()
    dataset = None
    with no_place_is_fine():
        for driver in drivers[:-1]:
            with suppress(RasterioError):
                dataset = rasterio.open(whole, driver=driver, **options)
                break
        dataset = dataset or rasterio.open(whole, driver=drivers[-1], **options)
    try:
        _require_limits(path, dataset, limits)
    except BaseException:
        dataset.close()
        raise
    return dataset


def _require_limits(path: RasterPath, dataset: Any, limits: RasterLimits) -> None:
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
    overviews = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")  # also of an .aux.xml beside it
    if overviews is not None:
        raise SceneError(
            f"{path}: names {overviews[:200]!r} as its overviews; expected them in {path.name}.ovr;"
            " write it again with gdal_translate"
        )


def _reason(fault: BaseException) -> str:
    """Return GDAL's own words if there are any, in one line."""
    cause = fault.__cause__ or fault
    return " ".join(str(cause).split())[:200]
