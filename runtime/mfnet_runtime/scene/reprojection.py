"""Where the pixels of one grid lie on another: affine, or through a change of CRS.

Opens and reads nothing. Coordinates are (y, x) in pixels, 0.5 at the centre of the first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS

from mfnet_runtime.raster.crs import horizontal, projected
from mfnet_runtime.scene.resampling import Coordinates

EXACT = 0.01  # pixels by which coordinates may be off between the nodes of a lattice
NODES, MOST_NODES = 64, 1024  # cells of a lattice a side: the first tried, and the last
DECIMALS = 6  # of a pixel: equal places are equal numbers, however they were computed

Step = tuple[float, float]  # (y, x) in pixels


@dataclass(frozen=True)
class Grid:
    """A raster's size and place."""

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
        """Of map coordinates."""
        return str(self.crs.units_factor[0]) if self.crs else "units"


class PixelMap(ABC):
    """From the pixels of one grid to those of another."""

    error = 0.0  # pixels of the other grid by which places may be off

    @abstractmethod
    def __call__(self, y: Coordinates, x: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Coordinates on the other grid, of the broadcast shape of `y` and `x` or as they are."""

    def steps(self, height: int, width: int) -> tuple[Step, Step]:
        """How far (y, x) one goes on the other grid for a row and for a column, on average."""
        ends_y = np.array([0.0, height, height / 2, height / 2])[:, None]
        ends_x = np.array([width / 2, width / 2, 0.0, width])[:, None]
        y, x = (np.broadcast_to(axis, (4, 1))[:, 0] for axis in self(ends_y, ends_x))
        down, across = (y[1] - y[0], x[1] - x[0]), (y[3] - y[2], x[3] - x[2])
        return (
            (float(down[0]) / height, float(down[1]) / height),
            (float(across[0]) / width, float(across[1]) / width),
        )


@dataclass(frozen=True)
class AffineMap(PixelMap):
    """Between grids of one CRS: `matrix` takes (x, y, 1) of the one to (x, y) of the other."""

    matrix: npt.NDArray[np.float64]  # (2, 3)

    def __call__(self, y: Coordinates, x: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Coordinates on the other grid, of the broadcast shape of `y` and `x`.

        Rows (n, 1) and columns (1, m) stay so where the grids are not turned to each other.
        """
        (xx, xy, x0), (yx, yy, y0) = self.matrix
        across = x * xx + x0 if xy == 0 else x * xx + y * xy + x0
        down = y * yy + y0 if yx == 0 else x * yx + y * yy + y0
        return _rounded(down), _rounded(across)


@dataclass(frozen=True)
class LatticeMap(PixelMap):
    """Between grids of two CRS: exact on a lattice over the whole grid, bilinear in between.

    All nodes are computed at once, before anything is read, so that no piece of a scene is
    projected otherwise than another.
    """

    step_y: float  # pixels between nodes
    step_x: float
    y: Coordinates  # (node row, node column) on the other grid
    x: Coordinates
    error: float = 0.0  # pixels, the largest in the middle of a cell

    def __call__(self, y: Coordinates, x: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Coordinates on the other grid, of the broadcast shape of `y` and `x`."""
        row, column = y / self.step_y, x / self.step_x
        top = np.minimum(row.astype(np.int64), self.y.shape[0] - 2)
        left = np.minimum(column.astype(np.int64), self.y.shape[1] - 2)
        down, across = row - top, column - left

        def between(nodes: Coordinates) -> Coordinates:
            above = nodes[top, left] * (1 - across) + nodes[top, left + 1] * across
            below = nodes[top + 1, left] * (1 - across) + nodes[top + 1, left + 1] * across
            return _rounded(above * (1 - down) + below * down)

        return between(self.y), between(self.x)


def map_between(grid: Grid, other: Grid) -> PixelMap:
    """Where the pixels of `grid` lie on `other`.

    Where one CRS is unknown the two are taken for equal; the datum of heights is left out.

    Raises:
        ProjectionError: part of `grid` has no place in the CRS of `other`.
    """
    if not grid.crs or not other.crs or horizontal(grid.crs) == horizontal(other.crs):
        here, there = (np.array(one.transform).reshape(3, 3) for one in (grid, other))
        return AffineMap(np.linalg.solve(there, here)[:2])
    cells = NODES
    while True:
        lattice = _lattice(grid, other, cells)
        if lattice.error <= EXACT or cells >= MOST_NODES:
            return lattice
        cells *= 2


def _lattice(grid: Grid, other: Grid, cells: int) -> LatticeMap:
    step_y, step_x = grid.height / cells, grid.width / cells
    # nodes and, between them, the middles of cells, on which the error is seen
    rows, columns = (
        np.arange(2 * cells + 1, dtype=np.float64) * (step / 2) for step in (step_y, step_x)
    )
    y, x = _projected(grid, other, *np.meshgrid(rows, columns, indexing="ij"))
    lattice = LatticeMap(step_y, step_x, y[::2, ::2], x[::2, ::2])
    middle_y, middle_x = lattice(rows[1::2, None], columns[None, 1::2])
    error = np.hypot(middle_y - y[1::2, 1::2], middle_x - x[1::2, 1::2])
    return replace(lattice, error=float(error.max()))


def _projected(
    grid: Grid, other: Grid, y: Coordinates, x: Coordinates
) -> tuple[Coordinates, Coordinates]:
    here = grid.transform
    across, down = x.ravel(), y.ravel()
    place = projected(
        grid.crs,
        other.crs,
        here.a * across + here.b * down + here.c,
        here.d * across + here.e * down + here.f,
    )
    map_x, map_y = (axis.reshape(x.shape) for axis in place)
    there = ~other.transform
    return (
        there.d * map_x + there.e * map_y + there.f,
        there.a * map_x + there.b * map_y + there.c,
    )


def _rounded(coordinates: Coordinates) -> Coordinates:
    return np.round(coordinates, DECIMALS)
