"""One output raster: written by rows into a temporary GeoTIFF, made cloud-optimised, read back.

rasterio ignores the status of GDAL's close, where most bytes of a small file reach the disk; so a
finished file is read back and compared before it gets its name. Knows nothing of networks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from mfnet_runtime.labels import IGNORE
from mfnet_runtime.raster.cog import BLOCK, Resampling, cog_from_tiff
from mfnet_runtime.raster.open import no_place_is_fine

Rows = npt.NDArray[np.uint8]  # (row, column), or (band, row, column)
Seen = Callable[[int, Rows], None]  # told the first row of (band, row, column) read back

CREATION: dict[str, Any] = {
    "driver": "GTiff",
    "dtype": "uint8",
    "nodata": IGNORE,
    "interleave": "band",  # not compressed: read once and removed
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "bigtiff": "if_safer",
}


@dataclass(frozen=True)
class Layer:
    """What a raster of uint8 bands holds; 255 is nodata."""

    bands: tuple[str, ...]  # what each holds
    overviews: Resampling
    palette: Mapping[int, tuple[int, int, int, int]] | None = None  # RGBA, of a single band


@dataclass
class _Columns:
    """Some neighbouring columns of a raster, written from the top to the bottom."""

    width: int  # pixels
    checksums: list[int]  # CRC-32 of the rows so far, of each band
    row: int = 0  # the next one

    def add(self, rows: Rows) -> None:
        self.row += rows.shape[1]
        for index, band in enumerate(rows):
            data = np.ascontiguousarray(band).data
            self.checksums[index] = zlib.crc32(data, self.checksums[index])


class LayerFile:
    """Make it, `write` rows, `finish` it; close it whatever happens.

    Args:
        folder: For temporary files, which are whose folder it is to remove.
        name: Of the file, without suffix.
        layer: What it holds.
        shape: Rows and columns, pixels.
        place: `crs` and `transform`, or `gcps`; without None.
        tags: Provenance; no local paths.

    Raises:
        OSError, RasterioError: the folder cannot be written. So of all methods.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        layer: Layer,
        shape: tuple[int, int],
        place: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        self._rows, self._done = folder / f"{name}.rows.tif", folder / f"{name}.tif"
        self._layer, self._shape = layer, shape
        size = {"count": len(layer.bands), "height": shape[0], "width": shape[1]}
        with no_place_is_fine():
            self._target: Any = rasterio.open(self._rows, "w", **CREATION, **size, **place)
        if layer.palette:
            self._target.write_colormap(1, layer.palette)
        for band, description in enumerate(layer.bands, start=1):
            self._target.set_band_description(band, description)
        self._place, self._tags = place, dict(tags)
        self._columns: dict[int, _Columns] = {}  # by the first

    def write(self, rows: Rows, column: int = 0) -> None:
        """Append rows to those columns that start at `column`.

        Columns may be written in parts, side by side, each from the top to the bottom and always
        in the same parts.
        """
        bands = rows if rows.ndim == 3 else rows[None]
        count, height, width = bands.shape
        part = self._columns.setdefault(column, _Columns(width, [0] * count))
        self._target.write(bands, window=Window(column, part.row, width, height))
        part.add(bands)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Add provenance that is known only after the pixels."""
        self._tags |= tags

    def finish(self, seen: Seen | None = None) -> Path:
        """Close, make cloud-optimised, read back.

        Args:
            seen: Told everything read back.

        Returns:
            The file.
        """
        self._target.update_tags(**self._tags)
        self.close()
        pixels = self._shape[0] * self._shape[1] * len(self._layer.bands)
        cog_from_tiff(self._rows, self._done, self._layer.overviews, pixels)
        self._rows.unlink()
        with no_place_is_fine(), rasterio.open(self._done, driver="GTiff") as written:
            self._require_stated(written)
            for column, part in self._columns.items():
                self._compare(written, column, part, seen)
        if sum(part.width for part in self._columns.values()) != self._shape[1]:
            raise OSError("columns are missing")
        return self._done

    def close(self) -> None:
        """Let go of the temporary file; no more can be written."""
        with no_place_is_fine():
            self._target.close()

    def _require_stated(self, written: Any) -> None:
        """Compare all but the pixels."""
        layer, grid = self._layer, self._place.get("transform")
        indexed = written.colorinterp[0] is ColorInterp.palette
        palette = written.colormap(1) if indexed else {}
        same = {
            "size": (written.count, *written.shape) == (len(layer.bands), *self._shape),
            "number type": set(written.dtypes) == {"uint8"},
            "nodata": set(written.nodatavals) == {IGNORE},
            "bands": written.descriptions == layer.bands,
            "palette": (layer.palette or {}).items() <= palette.items(),
            "CRS": bool(self._place.get("crs")) == bool(written.crs or written.gcps[1]),
            "transform": grid is None or np.allclose(grid, written.transform, 1e-9, 0),
            "tags": self._tags.items() <= written.tags().items(),
        }
        for what, equal in same.items():
            if not equal:
                raise OSError(f"its {what} read back differently")

    def _compare(self, written: Any, column: int, part: _Columns, seen: Seen | None) -> None:
        again = _Columns(part.width, [0] * len(part.checksums))
        for start in range(0, self._shape[0], BLOCK):
            height = min(BLOCK, self._shape[0] - start)
            rows = written.read(window=Window(column, start, part.width, height))
            again.add(rows)
            if seen:
                seen(start, rows)
        if again != part:
            raise OSError("what was read back differs from what was written")
