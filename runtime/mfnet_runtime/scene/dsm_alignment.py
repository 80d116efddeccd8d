"""How a DSM lies on the grid of its image: overlap, pixel sizes, datums, units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfnet_runtime.errors import SceneError
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.crs import (
    ProjectionError,
    datum_name,
    differing_datums,
    height_system,
    reproject_points,
    same_horizontally,
    short_name,
)
from mfnet_runtime.raster.grid import Coordinates, Grid
from mfnet_runtime.scene.dsm import HeightBand

SAMPLES = 256  # points a side, spread over the image, at which the overlap is measured
MAX_RATIO = 256  # DSM pixels across an image pixel or the reverse; beyond, a CRS or unit is wrong


@dataclass(frozen=True)
class Alignment:
    """An image, its DSM, and where one lies on the other."""

    image: Grid
    dsm: Grid
    resampling: str | None  # None: the DSM is on the image's grid already
    overlap: float  # share of the image that lies on the DSM
    steps: tuple[float, float]  # DSM rows and columns across an image pixel
    corner: tuple[float, float]  # (row, column) of the image's first corner, in DSM pixels
    height_unit: str | None  # as stated by the DSM; heights are never converted
    height_datum: str | None

    @property
    def finer(self) -> float:
        """DSM pixels across an image pixel."""
        return math.sqrt(self.steps[0] * self.steps[1])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types only."""
        return {
            "resampling": self.resampling,
            "image": _grid_json(self.image),
            "dsm": _grid_json(self.dsm),
            "overlap": round(self.overlap, 4),
            "dsm_pixels_per_image_pixel": round(self.finer, 6),
            "image_corner_on_dsm": [round(at, 6) for at in self.corner],
            "height_unit": self.height_unit,
            "height_datum": self.height_datum,
        }

    def sentence(self) -> str:
        """Describe the alignment in one line."""
        heights = (
            f"heights in {self.height_unit or 'an unstated unit'} above "
            f"{self.height_datum or 'an unstated datum'}"
        )
        if self.resampling is None:
            return f"DSM is on the image's grid, {self.image}; {heights}"
        datums = differing_datums(self.image.crs, self.dsm.crs)
        differing = f"; datum {datums[0]} from {datums[1]}" if datums else ""
        return (
            f"DSM of {self.dsm} aligned to {self.image}, {self.resampling}; it covers "
            f"{self.overlap:.1%} of the image{differing}; {heights}"
        )


def require_no_points(path: RasterPath, dataset: Any) -> None:
    """Refuse a raster that only points or polynomials place on the map.

    Raises:
        SceneError: It has to be warped first.
    """
    if not dataset.transform.is_identity or not (dataset.gcps[0] or dataset.rpcs):
        return
    points = bool(dataset.gcps[0])
    how, option = ("ground control points", "") if points else ("RPCs", "-rpc ")
    raise SceneError(
        f"{path}: is placed by {how}, not by a geotransform, and cannot be aligned; warp it first: "
        f"gdalwarp {option}-r cubic {path.name} {path.stem}_warped.tif; or leave --align out if "
        "image and DSM match pixel by pixel"
    )


def require_transform(path: RasterPath, dataset: Any) -> None:
    """Refuse a raster without a usable geotransform.

    Raises:
        SceneError: It cannot be aligned.
    """
    if dataset.transform.is_identity or dataset.transform.is_degenerate:
        raise SceneError(
            f"{path}: has no usable geotransform, so image and DSM cannot be aligned; give "
            "it one with gdalwarp, or gdal_edit -a_ullr"
        )


def align(band: HeightBand, image: Grid, dsm: Grid, resampling: str | None) -> Alignment:
    """Find out how a DSM lies on the grid of an image.

    Args:
        band: Heights of the DSM.
        image: Grid of the image.
        dsm: Grid of the DSM.
        resampling: How it is to be warped; None if both share a grid.

    Raises:
        SceneError: The DSM does not touch the image, no transformation leads from one CRS to the
            other, or the pixel sizes are too far apart.
    """
    stated = height_system(dsm.crs)
    unit, datum = band.unit or stated.unit, stated.datum
    if resampling is None:
        return Alignment(image, dsm, None, 1.0, (1.0, 1.0), (0.0, 0.0), unit, datum)
    try:
        rows, columns = dsm_coordinates(image, dsm)
    except ProjectionError as fault:
        raise SceneError(
            f"{band.path}: no transformation from the image's CRS, {short_name(image.crs)}, to "
            f"the DSM's, {short_name(dsm.crs)} ({fault}); check both with gdalinfo"
        ) from fault
    apart = rows.max() <= 0 or rows.min() >= dsm.height
    if apart or columns.max() <= 0 or columns.min() >= dsm.width:
        raise SceneError(
            f"{band.path}: does not touch the image: it is {dsm.width} x {dsm.height} px, the "
            f"image lies on its columns {columns.min():.0f} to {columns.max():.0f} and rows "
            f"{rows.min():.0f} to {rows.max():.0f}; give the DSM of this place"
        )
    down, across = ((at[1:, 1:] + at[:-1, :-1]) / 2 for at in (rows, columns))  # between them
    on_dsm = (down >= 0) & (down < dsm.height) & (across >= 0) & (across < dsm.width)
    middle = SAMPLES // 2  # steps are measured along the lines through the middle of the image
    steps = [
        math.hypot(
            float(at[-1, middle] - at[0, middle]) / image.height,
            float(at[middle, -1] - at[middle, 0]) / image.width,
        )
        for at in (rows, columns)
    ]
    corner = float(rows[0, 0]), float(columns[0, 0])
    found = Alignment(
        image, dsm, resampling, float(on_dsm.mean()), (steps[0], steps[1]), corner, unit, datum
    )
    if not 1 / MAX_RATIO <= found.finer <= MAX_RATIO:
        raise SceneError(
            f"{band.path}: an image pixel is {found.finer:.3g} DSM pixels wide, expected "
            f"{1 / MAX_RATIO:.3g} to {MAX_RATIO}; check CRS and pixel size of both with gdalinfo"
        )
    return found


def dsm_coordinates(image: Grid, dsm: Grid) -> tuple[Coordinates, Coordinates]:
    """Find where points spread over an image, corners included, lie on its DSM.

    Returns:
        Rows and columns of the DSM, each (SAMPLES + 1, SAMPLES + 1).

    Raises:
        ProjectionError: A point lies outside the domain of the DSM's CRS.
    """
    rows, columns = np.meshgrid(
        np.linspace(0, image.height, SAMPLES + 1),
        np.linspace(0, image.width, SAMPLES + 1),
        indexing="ij",
    )
    x, y = image.map_coordinates(rows, columns)
    if not same_horizontally(image.crs, dsm.crs):
        x, y = reproject_points(image.crs, dsm.crs, x, y)
    return dsm.pixel_coordinates(x, y)


def _grid_json(grid: Grid) -> dict[str, Any]:
    return {
        "height": grid.height,
        "width": grid.width,
        "crs": short_name(grid.crs),
        "datum": datum_name(grid.crs),
        "pixel_size": list(grid.pixel_size),
        "unit": grid.unit,
        "transform": list(grid.transform)[:6],
    }
