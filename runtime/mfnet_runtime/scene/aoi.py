"""Areas of interest: polygons, and which pixels of a scene have their centre inside.

Knows no file formats. A mask is made in tiles at fixed places, so that it does not depend on what
is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.raster.crs import ProjectionError, reproject_points, short_name
from mfnet_runtime.raster.grid import Grid
from mfnet_runtime.scene.normalize import BoolArray

Ring = npt.NDArray[np.float64]  # (n, 2): x and y, the last point equal to the first
Polygon = tuple[Ring, ...]  # the outline, and holes

TILE = (256, 4096)  # rows and columns of a mask made at a time
TILES = 8  # kept: those that a block of a scene meets in some rows
PARTS = 64  # an edge longer than this share of its ring is bent where it is projected


@dataclass(frozen=True)
class Area:
    """Polygons in one CRS."""

    name: str  # for messages
    polygons: tuple[Polygon, ...]
    crs: CRS | None  # None: that of the image, whatever it is

    def __post_init__(self) -> None:
        rings = [ring for polygon in self.polygons for ring in polygon]
        if not rings:
            raise UsageError(f"{self.name}: no polygons in it")
        if not all(len(ring) >= 4 and np.isfinite(ring).all() for ring in rings):
            raise UsageError(
                f"{self.name}: a ring has fewer than 4 points, or one that is not finite"
            )


def area_from_box(min_x: float, min_y: float, max_x: float, max_y: float) -> Area:
    """A box in the coordinates of the image.

    Raises:
        UsageError: it is empty.
    """
    name = f"--bbox {min_x:.10g} {min_y:.10g} {max_x:.10g} {max_y:.10g}"
    if not (min_x < max_x and min_y < max_y):
        raise UsageError(f"{name}: is empty; expected MINX MINY MAXX MAXY")
    corners = [(min_x, min_y), (max_x, min_y), (max_x, max_y), (min_x, max_y), (min_x, min_y)]
    return Area(name, ((np.array(corners, np.float64),),), None)


class AreaMask:
    """Which pixels of a scene lie in an area.

    Args:
        area: The area.
        path: Of the image, for messages.
        grid: Of the image.

    Raises:
        SceneError: the area does not touch the image, or has no place in its CRS.
    """

    def __init__(self, area: Area, path: Path, grid: Grid) -> None:
        self.grid = grid
        if area.crs is not None and not grid.crs:
            raise SceneError(f"{path}: states no CRS, so {area.name} has no place on it")
        try:
            self._polygons = [_on_pixels(polygon, area.crs, grid) for polygon in area.polygons]
        except ProjectionError as fault:
            raise SceneError(
                f"{path}: {area.name} has no place in its CRS, {short_name(grid.crs)} ({fault})"
            ) from fault
        # an outline encloses its holes
        self._tops = [float(outline[:, 1].min()) for outline, *_ in self._polygons]
        self._bottoms = [float(outline[:, 1].max()) for outline, *_ in self._polygons]
        left = min(float(outline[:, 0].min()) for outline, *_ in self._polygons)
        right = max(float(outline[:, 0].max()) for outline, *_ in self._polygons)
        top, bottom = min(self._tops), max(self._bottoms)
        if top >= grid.height or bottom <= 0 or left >= grid.width or right <= 0:
            raise SceneError(
                f"{path}: {area.name} does not touch it: the image is {grid.width} x {grid.height} "
                f"px, the area would be rows {top:.0f} to {bottom:.0f} and columns {left:.0f} to "
                f"{right:.0f} of it"
            )
        self._tile_at = lru_cache(TILES)(self._tile)

    def read(self, window: Window) -> BoolArray:
        """Pixels (row, column) of a window whose centre lies inside."""
        start, stop = window.row_off, window.row_off + window.height
        left, right = window.col_off, window.col_off + window.width
        inside = np.empty((stop - start, right - left), np.bool_)
        for top in range(start // TILE[0] * TILE[0], stop, TILE[0]):
            for side in range(left // TILE[1] * TILE[1], right, TILE[1]):
                first, last = max(start, top), min(stop, top + TILE[0])
                west, east = max(left, side), min(right, side + TILE[1])
                inside[first - start : last - start, west - left : east - left] = self._tile_at(
                    top, side
                )[first - top : last - top, west - side : east - side]
        return inside

    def _tile(self, top: int, left: int) -> BoolArray:
        shapes = [
            {
                "type": "Polygon",
                "coordinates": [(ring - (left, top)).tolist() for ring in polygon],
            }
            for polygon, first, last in zip(self._polygons, self._tops, self._bottoms, strict=True)
            if first < top + TILE[0] and last > top
        ]
        if not shapes:
            return np.zeros(TILE, np.bool_)
        return np.asarray(rasterize(shapes, TILE, dtype=np.uint8) > 0)


def _on_pixels(polygon: Polygon, crs: CRS | None, grid: Grid) -> Polygon:
    """Rings in (column, row) of the image."""
    rings = []
    there = ~grid.transform
    for ring in polygon:
        x, y = ring.T
        if crs is not None and crs != grid.crs:
            x, y = reproject_points(crs, grid.crs, *_bent(ring).T)
        rings.append(
            np.stack([there.a * x + there.b * y + there.c, there.d * x + there.e * y + there.f], 1)
        )
    return tuple(rings)


def _bent(ring: Ring) -> Ring:
    """The ring with points put into its long edges: straight lines do not stay straight."""
    longest = float(np.ptp(ring, axis=0).max()) / PARTS
    if longest == 0:
        return ring
    pieces = []
    for start, stop in pairwise(ring):
        count = int(np.ceil(np.abs(stop - start).max() / longest)) or 1
        pieces.append(start + (stop - start) * (np.arange(count) / count)[:, None])
    return np.concatenate([*pieces, ring[-1:]])
