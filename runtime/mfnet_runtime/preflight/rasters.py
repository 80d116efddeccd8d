"""Facts from a raster's header: size, georeferencing, number type, storage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mfnet_runtime.checks.findings import Said
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.crs import datum_name, short_name
from mfnet_runtime.raster.grid import grid_of
from mfnet_runtime.raster.limits import RasterLimits
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.raster.pixel_area import ground_size

LARGE_BLOCK = 64 << 20  # bytes that are decoded at a time


@dataclass(frozen=True)
class RasterInfo:
    """The header of a raster file."""

    file: str  # name without folder
    height: int  # pixels
    width: int
    crs: str
    datum: str | None
    pixel_size: tuple[float, float]  # width and height, in `unit`
    unit: str  # of map coordinates
    ground: tuple[float, float] | None  # the same in metres on the ground; None: unknown
    origin: tuple[float, float]  # map coordinates of the first corner
    placed: str  # by "transform", "ground control points" or "nothing"
    turned: bool  # rotated or mirrored: rows do not run east, or columns not south
    bands: tuple[str, ...]  # their colour interpretation
    dtype: str
    nodata: tuple[float | None, ...]  # of each band
    tiled: bool
    block: tuple[int, int]  # rows and columns that are stored together
    block_bytes: int  # of all bands of a block, unpacked
    compression: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, NaN as text."""
        nodata = [
            value if value is None or np.isfinite(value) else str(value) for value in self.nodata
        ]
        return {**asdict(self), "nodata": nodata}


def raster_info(path: RasterPath, limits: RasterLimits) -> RasterInfo:
    """Read a header and close the file.

    GDAL's complaints about the file go with it: rasterio raises them later, in `colorinterp`.

    Raises:
        SceneError: the file cannot be opened.
    """
    with open_raster(path, limits) as dataset:
        bands = tuple(kind.name for kind in dataset.colorinterp)
        grid, transform = grid_of(dataset), dataset.transform
        points, points_crs = dataset.gcps
        placed = "transform"
        if transform.is_identity:
            placed = "ground control points" if points else "nothing"
        crs: Any = grid.crs or (points_crs if points else None)
        rows, columns = dataset.block_shapes[0]
        straight = transform.a > 0 > transform.e and transform.b == transform.d == 0
        return RasterInfo(
            file=path.name,
            height=grid.height,
            width=grid.width,
            crs=short_name(crs),
            datum=datum_name(crs),
            pixel_size=grid.pixel_size,
            unit=str(crs.units_factor[0]) if crs else "units",
            ground=ground_size(grid),
            origin=(transform.c, transform.f),
            placed=placed,
            turned=placed == "transform" and not straight,
            bands=bands,
            dtype=str(dataset.dtypes[0]),
            nodata=tuple(dataset.nodatavals),
            # GDAL calls a strip over the whole width a tile, too
            tiled=columns < dataset.width or rows == columns,
            block=(rows, columns),
            block_bytes=rows * columns * int(np.dtype(dataset.dtypes[0]).itemsize) * dataset.count,
            compression=dataset.compression.value if dataset.compression else None,
        )


def georeferencing(image: RasterInfo) -> Said:
    """Note what is unusual about the place of an image."""
    if image.placed == "nothing":
        yield "note", "the image is not georeferenced, and neither are the outputs"
    elif image.crs == "unknown":
        yield "note", "the image has no CRS, so class areas in m2 are unknown"
    if image.placed == "ground control points":
        yield (
            "note",
            "the image has ground control points and no transform; outputs get the same points, "
            "but polygons and --align need gdalwarp first",
        )
    if image.turned:
        yield "note", "the image is rotated or mirrored on the map; outputs are, too"
    if image.unit == "degree":
        yield (
            "note",
            "pixels are measured in degrees and not square on the ground, as models expect; "
            "reproject with gdalwarp -t_srs",
        )


def storage(raster: RasterInfo) -> Said:
    """Warn of large blocks."""
    if raster.block_bytes > LARGE_BLOCK:
        rows, columns = raster.block
        yield (
            "warning",
            f"{raster.file}: is stored in blocks of {columns} x {rows} px, "
            f"{raster.block_bytes >> 20} MiB each, and slow to read; write it in tiles with "
            "gdal_translate -co TILED=YES",
        )


def strips(raster: RasterInfo, blocks: int) -> Said:
    """Note rows that are stored whole and decoded again for each block of columns."""
    if blocks > 1 and not raster.tiled:
        yield (
            "note",
            f"{raster.file}: is stored in whole rows, which are read again for each of {blocks} "
            "blocks of columns; tiles (gdal_translate -co TILED=YES) or more --max-memory are "
            "faster",
        )
