"""Size of pixels in metres; area of pixels, classes and polygons in square metres.

In a projected CRS the area is that in its plane, with the distortion of the projection (large in
Web Mercator). In a geographic CRS it is the area on the ellipsoid, which differs from row to row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS

from mfnet_runtime.raster.crs import (
    ProjectionError,
    ellipsoid,
    geographic_base,
    reproject_points,
    short_name,
)
from mfnet_runtime.raster.geotiff import Rows
from mfnet_runtime.raster.grid import Grid

Squares = npt.NDArray[np.float64]

ARM = 50.0  # pixels on each side of the middle, between which sizes are measured
DISTORTION = 0.01  # of lengths by a projection, ignored: UTM 0.0004, Web Mercator 0.5 in Germany


def ground_size(grid: Grid) -> tuple[float, float] | None:
    """Return width and height on the ground, in metres, of the pixel in the middle of a grid.

    In a projected CRS it is the size in its plane, unless that is off by more than `DISTORTION`.

    Returns:
        None without CRS or geotransform, or outside of the CRS's domain.
    """
    if not grid.crs or grid.transform.is_identity or grid.transform.is_degenerate:
        return None
    real = _size_on_ellipsoid(grid)
    if not grid.crs.is_projected:
        return real
    across, down = (size * grid.crs.linear_units_factor[1] for size in grid.pixel_size)
    if real and max(abs(real[0] / across - 1), abs(real[1] / down - 1)) > DISTORTION:
        return real
    return across, down


def _size_on_ellipsoid(grid: Grid) -> tuple[float, float] | None:
    """Return `ground_size` as the ellipsoid has it, whatever the projection."""
    rows = grid.height / 2 + np.array([0, 0, -ARM, ARM])
    columns = grid.width / 2 + np.array([-ARM, ARM, 0, 0])
    x, y = grid.map_coordinates(rows, columns)
    figure = ellipsoid(grid.crs)
    try:
        base = geographic_base(grid.crs)
        if base != grid.crs:
            x, y = reproject_points(grid.crs, base, x, y)
    except ProjectionError:
        return None
    longitudes, latitudes = x * base.units_factor[1], y * base.units_factor[1]
    if figure is None or abs(latitudes).max() > np.pi / 2:
        return None
    axis, flattening = figure
    squared, middle = flattening * (2 - flattening), latitudes.mean()
    curved = 1 - squared * np.sin(middle) ** 2
    east = np.diff(longitudes)[::2] * np.cos(middle) * axis / np.sqrt(curved)
    north = np.diff(latitudes)[::2] * axis * (1 - squared) / curved**1.5
    across, down = np.hypot(east, north) / (2 * ARM)
    return float(across), float(down)


@dataclass(frozen=True)
class GroundArea:
    """Area of the pixels of a scene."""

    above: Squares  # (rows + 1,) m2 of one column of pixels above each row's edge
    uniform: bool  # all pixels have the same area
    how: str  # for example "plane of EPSG:32632"

    def of_ring(self, columns: Squares, rows: Squares) -> float:
        """Return the m2 in a closed ring, (n,) pixel coordinates."""
        # Green's theorem: along each edge, its width times the area above it
        above = np.interp(rows, np.arange(len(self.above)), self.above)
        return abs(float(np.sum((above[:-1] + above[1:]) / 2 * np.diff(columns))))

    @property
    def side(self) -> float:
        """Side of a square of the mean area of a pixel, metres."""
        return float(np.sqrt(self.above[-1] / (len(self.above) - 1)))


def ground_area(place: Mapping[str, Any], height: int) -> GroundArea | None:
    """Return the area of pixels; None without georeferencing or on a rotated geographic grid.

    Args:
        place: `crs` and `transform`, if the scene has them.
        height: Rows of the scene.
    """
    crs, grid = place.get("crs"), place.get("transform")
    if not crs or grid is None:
        return None
    crs = CRS.from_user_input(crs)
    edges = np.arange(height + 1, dtype=np.float64)
    if crs.is_projected:
        cell = abs(grid.determinant) * crs.linear_units_factor[1] ** 2
        return GroundArea(edges * cell, True, f"plane of {short_name(crs)}")
    figure = ellipsoid(crs)
    if not crs.is_geographic or figure is None or grid.b or grid.d:
        return None
    radians = crs.units_factor[1]
    latitudes = np.clip((grid.f + edges * grid.e) * radians, -np.pi / 2, np.pi / 2)
    strip = area_from_equator(latitudes, *figure)
    above = abs(grid.a) * radians * np.abs(strip - strip[0])
    return GroundArea(above, False, f"ellipsoid of {short_name(crs)}")


def area_from_equator(latitudes: Squares, axis: float, flattening: float) -> Squares:
    """Return the m2 on an ellipsoid between the equator and latitudes, one radian wide.

    Snyder, Map Projections: A Working Manual (1987), equation 3-12, times half the squared axis.

    Args:
        latitudes: Radians, negative in the south.
        axis: Semi-major axis, metres.
        flattening: 0 for a sphere.
    """
    squared = flattening * (2 - flattening)  # eccentricity
    sine = np.sin(latitudes)
    if not squared:
        return np.asarray(axis**2 * sine)
    root = np.sqrt(squared)
    part = sine / (1 - squared * sine**2) + np.arctanh(root * sine) / root
    return np.asarray(axis**2 / 2 * (1 - squared) * part)


class ClassAreas:
    """Pixels of each class, and their area.

    Args:
        ground: Area of the scene's pixels; None if it is unknown.
        classes: Number of classes.
    """

    def __init__(self, ground: GroundArea | None, classes: int) -> None:
        self.how = ground.how if ground else None
        self._cells = np.diff(ground.above) if ground else np.zeros(1)
        if ground and ground.uniform:
            self._cells = self._cells[:1]
        # integers, so that areas do not depend on the pieces in which rows arrive
        self._counts = np.zeros((len(self._cells), classes), np.int64)

    def add(self, start: int, rows: Rows) -> None:
        """Count rows of classes, (1, row, column), from scene row `start` on."""
        count = self._counts.shape[1]
        if len(self._cells) == 1:
            self._counts[0] += [np.count_nonzero(rows == index) for index in range(count)]
            return
        for row, counts in zip(rows[0], self._counts[start:], strict=False):
            counts += np.bincount(row, minlength=count)[:count]

    @property
    def pixels(self) -> list[int]:
        """Pixels of each class."""
        return [int(count) for count in self._counts.sum(axis=0)]

    @property
    def m2(self) -> list[float] | None:
        """Area of each class; None if it is unknown."""
        return [float(area) for area in self._cells @ self._counts] if self.how else None
