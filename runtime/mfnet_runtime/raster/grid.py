"""Grids of rasters: size, place and CRS; and checks that open rasters share one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from mfnet_runtime.errors import SceneError
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.crs import same_horizontally, short_name

Coordinates = npt.NDArray[np.float64]

GRID_TOLERANCE = 0.05  # pixels by which the corners of two grids may differ


@dataclass(frozen=True)
class Grid:
    """The size, geotransform and CRS of a raster."""

    height: int  # pixels
    width: int  # pixels
    transform: Any  # affine, (column, row) to map coordinates
    crs: CRS | None

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Width and height of a pixel, in the CRS's unit."""
        here = self.transform
        return math.hypot(here.a, here.d), math.hypot(here.b, here.e)

    @property
    def unit(self) -> str:
        """Unit of the map coordinates."""
        return str(self.crs.units_factor[0]) if self.crs else "units"

    def window(self, window: Window) -> Grid:
        """Return the grid of a window of this one."""
        transform = window_transform(window, self.transform)
        return Grid(window.height, window.width, transform, self.crs)

    def map_coordinates(
        self, rows: Coordinates, columns: Coordinates
    ) -> tuple[Coordinates, Coordinates]:
        """Convert pixel coordinates, 0.5 at the centre of the first pixel, to (x, y)."""
        return apply_transform(self.transform, columns, rows)

    def pixel_coordinates(self, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Convert map coordinates to (rows, columns)."""
        columns, rows = apply_transform(~self.transform, x, y)
        return rows, columns

    def __str__(self) -> str:
        """Describe the grid in a few words, for messages."""
        across, down = self.pixel_size
        size = f"{across:.6g}" if across == down else f"{across:.6g} x {down:.6g}"
        return f"{self.width} x {self.height} px of {size} {self.unit} ({short_name(self.crs)})"


def grid_of(dataset: Any) -> Grid:
    """Return the grid of an open raster."""
    return Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)


def apply_transform(
    transform: Any, x: Coordinates, y: Coordinates
) -> tuple[Coordinates, Coordinates]:
    """Apply an affine transform to points of any shape."""
    return (
        transform.a * x + transform.b * y + transform.c,
        transform.d * x + transform.e * y + transform.f,
    )


def require_plain_numbers(path: RasterPath, dataset: Any, band: int) -> None:
    """Raise SceneError if a band holds palette indices or complex numbers."""
    if dataset.colorinterp[band - 1] is ColorInterp.palette:
        raise SceneError(
            f"{path}: band {band} holds palette indices, not values; "
            "expand it with gdal_translate -expand rgb"
        )
    if np.issubdtype(np.dtype(dataset.dtypes[band - 1]), np.complexfloating):
        raise SceneError(f"{path}: band {band} holds complex numbers; convert it to real ones")


def require_same_grid(
    path: RasterPath,
    dataset: Any,
    other_path: RasterPath,
    other: Any,
    place: bool = True,
    remedy: str = "warp one onto the other's grid with gdalwarp",
) -> None:
    """Refuse two open rasters that differ in size, place or CRS.

    Args:
        path: Path of the first raster, for the message.
        dataset: The first raster.
        other_path: Path of the second raster.
        other: The second raster.
        place: Compare geotransforms and CRSs too, where both rasters have them.
        remedy: What to do about it, for the message.

    Raises:
        SceneError: They differ, or the first geotransform has no inverse.
    """
    difference = mismatch(path, dataset, other, place)
    if difference is not None:
        raise SceneError(f"{other_path}: {difference}; {remedy}")


def mismatch(path: RasterPath, dataset: Any, other: Any, place: bool = True) -> str | None:
    """Describe how a second raster differs from a first; None if they share a grid.

    Arguments and errors are those of `require_same_grid`.
    """
    if (dataset.width, dataset.height) != (other.width, other.height):
        return (
            f"is {other.width} x {other.height} px, "
            f"{path.name} is {dataset.width} x {dataset.height} px"
        )
    if not place:
        return None
    if not dataset.transform.is_identity and not other.transform.is_identity:
        if dataset.transform.is_degenerate:
            raise SceneError(f"{path}: its geotransform is singular; set it with gdal_edit -a_ullr")
        columns, rows = np.array([(0, 0), (0, 1), (1, 0), (1, 1)]).T
        columns, rows = columns * dataset.width, rows * dataset.height
        found = grid_of(dataset).pixel_coordinates(*apply_transform(other.transform, columns, rows))
        shift = max(np.abs(found[0] - rows).max(), np.abs(found[1] - columns).max())
        if shift > GRID_TOLERANCE:
            return f"lies up to {shift:.2f} px off the grid of {path.name}"
    if not same_horizontally(dataset.crs, other.crs):
        return (
            f"CRS is {other.crs.to_string()[:60]}, "
            f"that of {path.name} is {dataset.crs.to_string()[:60]}"
        )
    return None
