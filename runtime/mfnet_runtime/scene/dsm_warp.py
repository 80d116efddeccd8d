"""Heights of a DSM on the image's grid, warped while they are read.

Memory depends on `TILE` and `PIECE`, not on the scene. Heights are resampled, not converted:
their datum and unit stay the DSM's.
"""

from __future__ import annotations

import math

import numpy as np
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.crs import ProjectionError, short_name
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.normalize import BoolArray, FloatArray
from mfnet_runtime.scene.reprojection import Grid, map_between
from mfnet_runtime.scene.resampling import KERNELS, Coordinates, block_means, resampled

TILE = 512  # image pixels a side worked on at a time
PIECE = 1 << 22  # DSM pixels read for them; smaller tiles where it would be more
FINEST = 256  # DSM pixels across an image pixel, or the reverse; beyond, a CRS or unit is wrong
SAMPLES = 256  # places a side, over the whole image, at which the overlap is seen

Span = tuple[int, int]  # first and, not included, last


class AlignedHeights:
    """Heights on the grid of an image.

    Args:
        band: Of the DSM.
        dsm_grid: The DSM's.
        grid: The image's.
        resampling: One of `resample.KERNELS`.

    Raises:
        SceneError: the image's CRS has no place in the DSM's, the DSM does not touch the image,
            or the sizes of their pixels have nothing to do with each other.
    """

    def __init__(self, band: HeightBand, dsm_grid: Grid, grid: Grid, resampling: str) -> None:
        self.grid, self.dsm_grid = grid, dsm_grid
        self.resampling = resampling
        self._band = band
        self._kernel = KERNELS[resampling]
        try:
            self.map = map_between(grid, dsm_grid)
        except ProjectionError as fault:
            raise SceneError(
                f"{band.path}: the image's CRS, {short_name(grid.crs)}, has no place in the DSM's, "
                f"{short_name(dsm_grid.crs)} ({fault}); check both with gdalinfo"
            ) from fault
        self.overlap = self._overlap()  # share of the image that lies on the DSM
        down, across = self.map.steps(grid.height, grid.width)
        # DSM pixels across an image pixel
        self.finer = math.sqrt(abs(down[0] * across[1] - down[1] * across[0]))
        if not 1 / FINEST <= self.finer <= FINEST:
            raise SceneError(
                f"{band.path}: an image pixel is {self.finer:.3g} DSM pixels wide, expected "
                f"{1 / FINEST:.3g} to {FINEST}; check CRS and pixel size of both with gdalinfo"
            )
        self._side = max(1, int(self.finer / self._kernel.spread))  # DSM pixels of a block
        self._half = (  # of the box around an image pixel, in blocks
            (abs(down[0]) + abs(across[0])) / (2 * self._side),
            (abs(down[1]) + abs(across[1])) / (2 * self._side),
        )
        self._margin = math.ceil(self._kernel.radius * max(1.0, 2 * max(self._half))) + 1  # blocks

    def read(self, window: Window) -> tuple[FloatArray, BoolArray]:
        """Heights (row, column) of a window of the image, and which of them are some.

        Raises:
            SceneError: damaged data.
        """
        origin = first_row, first_column = window.row_off, window.col_off
        heights = np.zeros((window.height, window.width), np.float32)
        valid = np.zeros(heights.shape, np.bool_)
        for top in range(0, window.height, TILE):
            for left in range(0, window.width, TILE):
                bottom, right = min(top + TILE, window.height), min(left + TILE, window.width)
                self._fill(
                    heights,
                    valid,
                    origin,
                    (first_row + top, first_row + bottom),
                    (first_column + left, first_column + right),
                )
        return heights, valid

    def _fill(
        self,
        heights: FloatArray,
        valid: BoolArray,
        origin: tuple[int, int],
        rows: Span,
        columns: Span,
    ) -> None:
        """A tile of the image; `origin` is the image row and column of the first of `heights`."""
        y, x = self.map(_centres(rows)[:, None], _centres(columns)[None])
        y, x = y / self._side, x / self._side
        down, across = self._blocks(y), self._blocks(x)
        if not self._touches(down, self.dsm_grid.height):
            return
        if not self._touches(across, self.dsm_grid.width):
            return
        pixels = (down[1] - down[0]) * (across[1] - across[0]) * self._side**2
        if pixels > PIECE and (part := _halves(rows, columns)):
            for half_rows, half_columns in part:
                self._fill(heights, valid, origin, half_rows, half_columns)
            return
        values, known = self._read(down, across)
        place = (
            slice(rows[0] - origin[0], rows[1] - origin[0]),
            slice(columns[0] - origin[1], columns[1] - origin[1]),
        )
        heights[place], valid[place] = resampled(
            values, known, y, x, self._kernel, self._half, (down[0], across[0])
        )

    def _read(self, down: Span, across: Span) -> tuple[FloatArray, BoolArray]:
        """Blocks of the DSM; without data beyond its edge."""
        top, bottom, left, right = (edge * self._side for edge in (*down, *across))
        values = np.zeros((bottom - top, right - left), np.float32)
        known = np.zeros(values.shape, np.bool_)
        first_row, stop_row = max(top, 0), min(bottom, self.dsm_grid.height)
        first_column, stop_column = max(left, 0), min(right, self.dsm_grid.width)
        place = (
            slice(first_row - top, stop_row - top),
            slice(first_column - left, stop_column - left),
        )
        window = Window(first_column, first_row, stop_column - first_column, stop_row - first_row)
        values[place], known[place] = self._band.read(window)
        return block_means(values, known, self._side) if self._side > 1 else (values, known)

    def _blocks(self, at: Coordinates) -> Span:
        """All blocks that taps at these coordinates may lie in."""
        first, last = math.floor(at.min()), math.floor(at.max())
        return first - self._margin, last + self._margin + 1

    def _touches(self, blocks: Span, size: int) -> bool:
        return blocks[0] * self._side < size and blocks[1] > 0

    def _overlap(self) -> float:
        height, width = self.dsm_grid.height, self.dsm_grid.width
        rows, columns = (
            np.linspace(0, size, SAMPLES + 1) for size in (self.grid.height, self.grid.width)
        )
        y, x = np.broadcast_arrays(*self.map(rows[:, None], columns[None]))
        if y.max() <= 0 or y.min() >= height or x.max() <= 0 or x.min() >= width:
            raise SceneError(
                f"{self._band.path}: does not touch the image: it is {height} x {width} px, the "
                f"image lies on its rows {y.min():.0f} to {y.max():.0f} and columns {x.min():.0f} "
                f"to {x.max():.0f}; give the DSM of this place"
            )
        return float(np.mean((y >= 0) & (y < height) & (x >= 0) & (x < width)))


def _halves(rows: Span, columns: Span) -> list[tuple[Span, Span]]:
    """The two halves of a tile across its longer side; none of a single pixel."""
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    if height * width == 1:
        return []
    if height >= width:
        middle = rows[0] + height // 2
        return [((rows[0], middle), columns), ((middle, rows[1]), columns)]
    middle = columns[0] + width // 2
    return [(rows, (columns[0], middle)), (rows, (middle, columns[1]))]


def _centres(pixels: Span) -> Coordinates:
    return np.arange(*pixels, dtype=np.float64) + 0.5
