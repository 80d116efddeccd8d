"""Write a class map: to a temporary file beside its place, verified, then renamed into it.

rasterio ignores the status of GDAL's close, where most bytes of a small file reach the disk; so a
finished file is read back and compared before it gets its name. Knows nothing of networks.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from mfnet_runtime.errors import ResourceError
from mfnet_runtime.labels import IGNORE, ClassTable

CLASSES_TAG = "MFNET_CLASSES"  # the class table as JSON, names and colours
BLOCK = 256  # pixels a side
CREATION: dict[str, Any] = {
    "driver": "GTiff",
    "dtype": "uint8",
    "count": 1,
    "nodata": IGNORE,
    "compress": "deflate",
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "bigtiff": "if_safer",
}


@dataclass
class _Written:
    """What was written of one block of columns."""

    width: int  # columns
    rows: int = 0
    checksum: int = 0


class ClassMapWriter:
    """A GeoTIFF of class indices with palette, class names and the image's georeference.

    Enter it, `write` rows from the top to the bottom, one block of columns after the other or all
    columns at once, leave it: only then the file appears under its name. Left by an exception, it
    leaves nothing.

    Args:
        path: Where the class map goes; an older one is replaced.
        height: Rows, pixels.
        width: Columns, pixels.
        classes: Palette and names.
        profile: `crs` and `transform`, or `gcps`, of the image.
        tags: Provenance; no local paths.

    Raises:
        ResourceError: the folder cannot be written, the disk is full, or what reached the disk
            is not what was written.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        classes: ClassTable,
        profile: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        self.path = path
        self._shape = (height, width)
        self._place = {key: value for key, value in profile.items() if value is not None}
        self._classes = classes
        self._tags = {CLASSES_TAG: json.dumps(classes.to_json()), **tags}
        self._partial = path.with_name(f".partial-{os.getpid()}.tif")  # of a length any disk takes
        self._blocks: dict[int, _Written] = {}  # by their first column

    def __enter__(self) -> ClassMapWriter:
        height, width = self._shape
        try:
            with _quiet():
                self._target: Any = rasterio.open(
                    self._partial, "w", **CREATION, **self._place, height=height, width=width
                )
            self._target.write_colormap(1, self._classes.colormap())
            self._target.set_band_description(1, "class")
            self._target.update_tags(**self._tags)
        except BaseException as fault:  # an interrupt may fall in here, and __exit__ never run
            with suppress(OSError):
                self._partial.unlink()
            if isinstance(fault, (RasterioError, OSError)):
                raise self._failed("cannot be created", fault) from fault
            raise
        return self

    def write(self, rows: npt.NDArray[np.uint8], column: int = 0) -> None:
        """Append rows, (row, column) class indices, to the block that begins at a column."""
        height, width = rows.shape
        block = self._blocks.setdefault(column, _Written(width))
        place = Window(column, block.rows, width, height)
        try:
            self._target.write(rows, 1, window=place)
        except (RasterioError, OSError) as fault:
            raise self._failed("cannot be written", fault) from fault
        block.rows += height
        block.checksum = zlib.crc32(np.ascontiguousarray(rows).data, block.checksum)

    def tag(self, **tags: str) -> None:
        """Add provenance that is known only after the pixels."""
        self._target.update_tags(**tags)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with _quiet():
                self._target.close()
            if error is None:
                self._verify()
                os.replace(self._partial, self.path)
        except (RasterioError, OSError) as fault:
            raise self._failed("cannot be finished", fault) from fault
        finally:
            self._partial.unlink(missing_ok=True)

    def _verify(self) -> None:
        """Read the closed file back: a full disk shows here if nowhere else."""
        height, width = self._shape
        with _quiet(), rasterio.open(self._partial, driver="GTiff") as written:
            same = all(
                block.checksum == _checksum(written, column, block.width, height)
                for column, block in self._blocks.items()
            )
        columns = sum(block.width for block in self._blocks.values() if block.rows == height)
        if columns != width or not same:
            raise OSError("what was read back differs from what was written")

    def _failed(self, what: str, fault: BaseException) -> ResourceError:
        reason = " ".join(str(fault.__cause__ or fault).split())[:200]
        return ResourceError(
            f"{self.path}: {what} ({reason}); check free space and write permission"
        )


def _checksum(written: Any, column: int, width: int, height: int) -> int:
    """Of a block of columns, from its top."""
    checksum = 0
    for start in range(0, height, BLOCK):
        rows = written.read(1, window=Window(column, start, width, min(BLOCK, height - start)))
        checksum = zlib.crc32(np.ascontiguousarray(rows).data, checksum)
    return checksum


@contextmanager
def _quiet() -> Iterator[None]:
    """A scene may have no place on Earth; rasterio need not warn of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
