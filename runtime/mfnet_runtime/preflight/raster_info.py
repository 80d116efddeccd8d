"""What a raster file states about itself: size, place, numbers, storage. No pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.raster.crs import datum_name, short_name
from mfnet_runtime.raster.grid import grid_of
from mfnet_runtime.raster.limits import RasterLimits
from mfnet_runtime.raster.open import open_raster


@dataclass(frozen=True)
class RasterFacts:
    """Of one file."""

    file: str  # without its folder
    height: int  # pixels
    width: int
    crs: str
    datum: str | None
    pixel_size: tuple[float, float]  # width and height, in `unit`
    unit: str  # of map coordinates
    metres: float | None  # of that unit; None: degrees, or unknown
    origin: tuple[float, float]  # map coordinates of the first corner
    placed: str  # "transform", "ground control points" or "nothing": what gives it its place
    turned: bool  # rows do not run east, or columns not south
    bands: tuple[str, ...]  # what the file calls them
    dtype: str
    nodata: tuple[float | None, ...]  # of each band
    tiled: bool
    block: tuple[int, int]  # rows and columns stored together
    block_bytes: int  # of all bands of one, unpacked
    compression: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        facts = asdict(self)
        # JSON has no NaN
        facts["nodata"] = [
            value if value is None or np.isfinite(value) else str(value) for value in self.nodata
        ]
        return facts


def facts_from_file(path: Path, limits: RasterLimits) -> RasterFacts:
    """Of a file that may be opened; it is closed again, and with it what GDAL has against it.

    (rasterio raises in `colorinterp` whatever GDAL said of odd tags before, of this file or another
    one.)

    Raises:
        SceneError: it cannot be opened.
    """
    with open_raster(path, limits) as dataset:
        colours = dataset.colorinterp
        return _facts(path, dataset, tuple(kind.name for kind in colours))


def _facts(path: Path, dataset: Any, bands: tuple[str, ...]) -> RasterFacts:
    grid, here = grid_of(dataset), dataset.transform
    points, points_crs = dataset.gcps
    placed = "transform"
    if here.is_identity:
        placed = "ground control points" if points else "nothing"
    crs: Any = grid.crs or (points_crs if points else None)
    rows, columns = dataset.block_shapes[0]
    return RasterFacts(
        file=path.name,
        height=grid.height,
        width=grid.width,
        crs=short_name(crs),
        datum=datum_name(crs),
        pixel_size=grid.pixel_size,
        unit=str(crs.units_factor[0]) if crs else "units",
        metres=float(crs.units_factor[1]) if crs and crs.is_projected else None,
        origin=(here.c, here.f),
        placed=placed,
        turned=placed == "transform" and not (here.a > 0 and here.e < 0 and here.b == here.d == 0),
        bands=bands,
        dtype=str(dataset.dtypes[0]),
        nodata=tuple(dataset.nodatavals),
        # GDAL's own flag takes one strip of the whole width for tiles
        tiled=columns < dataset.width or rows == columns,
        block=(rows, columns),
        block_bytes=rows * columns * int(np.dtype(dataset.dtypes[0]).itemsize) * dataset.count,
        compression=dataset.compression.value if dataset.compression else None,
    )
