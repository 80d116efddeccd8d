"""Opens a raster file, and names it in whatever goes wrong with it.

The first bytes decide the driver, and only those named here are used, so that a file cannot make
GDAL follow a path or a URL (a VRT named .tif, say).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError

SIGNATURES = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",  # BigTIFF
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}

PIECE = 1 << 21  # pixels read at a time where a raster is looked through


def open_raster(path: Path) -> Any:
    """A rasterio dataset opened for reading.

    Raises:
        SceneError: unreadable, damaged, or of another format.
    """
    try:
        with no_place_is_fine():
            return rasterio.open(path, driver=_driver(path))
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


def _driver(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    for signature, driver in SIGNATURES.items():
        if start.startswith(signature):
            return driver
    raise OSError(f"starts with {start!r}, neither TIFF, PNG nor JPEG")


def _reason(fault: BaseException) -> str:
    """GDAL's own words where it has any, in one line."""
    cause = fault.__cause__ or fault
    return " ".join(str(cause).split())[:200]
