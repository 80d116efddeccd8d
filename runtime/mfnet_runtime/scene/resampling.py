"""Read an image at another pixel size, and bring what was made of it back to its own pixels.

Pixels are averaged where they are to be larger, and interpolated where they are to be smaller, over
those with data alone. Positions are computed in whole numbers from the first row and column, so
that a pixel has the same value in whatever window it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.grid import Grid, grid_of
from mfnet_runtime.raster.pixel_area import ground_size
from mfnet_runtime.scene.normalize import BoolArray, FloatArray
from mfnet_runtime.scene.options import DEFAULT_RESAMPLING, MODEL, ReadOptions

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

EQUAL = 0.01  # difference of pixel sizes that does not matter: nothing is resampled
PIECE = 1 << 18  # pixels of the image that are resampled at a time


@dataclass(frozen=True)
class Axis:
    """Rows or columns of an image, and the pixels in their place that are read."""

    stored: int  # pixels of the image
    read: int  # pixels read

    def covered(self, read: range) -> range:
        """Return the image's pixels whose centres lie in pixels that are read."""
        ends = (read.start, read.stop)
        return range(*(-((self.read - 2 * at * self.stored) // (2 * self.read)) for at in ends))

    def under(self, read: range) -> range:
        """Return the image's pixels of which some that are read are made."""
        index, _, _ = self._parts(read)
        return range(int(index.min()), int(index.max()) + 1)

    def nearest(self, stored: range) -> Indices:
        """Return for pixels of the image the index of the one read in which their centre lies."""
        return (2 * _indices(stored) + 1) * self.read // (2 * self.stored)

    def nearest_stored(self, read: range) -> Indices:
        """Return for pixels that are read the index of the image's in which their centre lies."""
        return (2 * _indices(read) + 1) * self.stored // (2 * self.read)

    def _parts(self, read: range) -> tuple[Indices, FloatArray, BoolArray]:
        """Return the image's pixels that make some that are read, each (part, pixel).

        Returns:
            Their indices; their weights; and which of them alone give data to the pixel.
        """
        at = _indices(read)
        if self.read < self.stored:  # all that it overlaps, by the length of the overlap
            count = -(-self.stored // self.read) + bool(self.stored % self.read)
            index = at * self.stored // self.read + np.arange(count)[:, None]
            start, stop = at * self.stored, (at + 1) * self.stored  # in parts of a pixel
            overlap = np.minimum((index + 1) * self.read, stop) - np.maximum(
                index * self.read, start
            )
            weight = np.maximum(overlap, 0) / self.read
            index = np.minimum(index, self.stored - 1)
            return index, weight.astype(np.float32), weight > 0
        place = (2 * at + 1) * self.stored - self.read  # of its centre, from that of the first
        first, rest = np.divmod(place, 2 * self.read)
        share = rest / (2 * self.read)
        index = np.clip(first + np.arange(2)[:, None], 0, self.stored - 1)
        weight = np.stack([1 - share, share]).astype(np.float32)
        return index, weight, index == self.nearest_stored(read)

    def most_under(self, pixels: int) -> int:
        """Return the most pixels of the image of which a number of adjacent ones are made."""
        return pixels * self.stored // self.read + 3

    def combine(self, array: Array, read: range, axis: Literal[-2, -1]) -> Array:
        """Combine the image's pixels to some that are read, along an axis.

        Args:
            array: Its first pixel is that of `under`.
            read: The pixels to make.
            axis: The axis of the array.

        Returns:
            Weighted sums; of a mask, True where a pixel that gives data is True.
        """
        index, weights, giving = self._parts(read)
        factors = giving if array.dtype == np.bool_ else weights
        along = (slice(None), None) if axis == -2 else slice(None)
        parts = zip(index - index.min(), factors, strict=True)
        # for bool, * is "and", and the sum is "or"
        return reduce(np.add, (np.take(array, part, axis) * by[along] for part, by in parts))


@dataclass(frozen=True)
class Scaling:
    """The grid of an image, and that on which it is read: the same, or with other pixels."""

    image: Grid
    read: Grid
    block_shapes: list[tuple[int, int]]  # (rows, columns) that are best read together

    @property
    def changes(self) -> bool:
        """True if the image is resampled."""
        return (self.image.height, self.image.width) != (self.read.height, self.read.width)

    @property
    def height(self) -> int:
        """Rows that are read."""
        return self.read.height

    @property
    def width(self) -> int:
        """Columns that are read."""
        return self.read.width

    @property
    def rows(self) -> Axis:
        """Rows of both grids."""
        return Axis(self.image.height, self.read.height)

    @property
    def columns(self) -> Axis:
        """Columns of both grids."""
        return Axis(self.image.width, self.read.width)

    @property
    def resampling(self) -> str:
        """How a DSM on the image's grid is resampled."""
        coarser = self.height * self.width < self.image.height * self.image.width
        return "average" if coarser else DEFAULT_RESAMPLING

    def covered(self, rows: range, columns: range) -> tuple[range, range]:
        """Return the rows and columns of the image that a block of pixels read covers."""
        return self.rows.covered(rows), self.columns.covered(columns)

    def resample(
        self,
        read: Callable[[Window], tuple[Array, BoolArray]],
        window: Window,
    ) -> tuple[Array, BoolArray]:
        """Resample pixels of a window, (band, row, column) float32, and their validity.

        Args:
            read: Reads a window of the image.
            window: In pixels that are read.
        """
        if not self.changes:
            return read(window)
        columns = range(window.col_off, window.col_off + window.width)
        image, valid = [], []
        for rows in self._strips(window, columns):
            pixels, known = read(self._under(rows, columns))
            weighed = np.where([known] * len(pixels), pixels, 0).astype(np.float32)
            *bands, weight = self._combine(np.concatenate([weighed, [known]]), rows, columns)
            valid.append(self._combine(known, rows, columns))
            image.append(np.stack(bands) / np.where(valid[-1], weight, np.float32(1)))
        return np.concatenate(image, axis=1), np.concatenate(valid)

    def any(self, read: Callable[[Window], BoolArray], window: Window) -> BoolArray:
        """Tell of each pixel of a window if it is True anywhere in the image.

        Arguments are those of `resample`.
        """
        if not self.changes:
            return read(window)
        columns = range(window.col_off, window.col_off + window.width)
        strips = self._strips(window, columns)
        return np.concatenate(
            [self._combine(read(self._under(rows, columns)), rows, columns) for rows in strips]
        )

    def to_json(self) -> dict[str, Any] | None:
        """Return plain JSON types: size of what is read; None if nothing is resampled."""
        if not self.changes:
            return None
        size = ground_size(self.read)
        return {"height": self.height, "width": self.width, "pixel_size": size and list(size)}

    def sentence(self) -> str:
        """Describe the resampling in one line."""
        return f"the image, {self.image}, is read as {self.read}"

    def _combine(self, array: Array, rows: range, columns: range) -> Array:
        return self.columns.combine(self.rows.combine(array, rows, -2), columns, -1)

    def _under(self, rows: range, columns: range) -> Window:
        down, across = self.rows.under(rows), self.columns.under(columns)
        return Window(across.start, down.start, len(across), len(down))

    def _strips(self, window: Window, columns: range) -> Iterator[range]:
        """Divide the rows of a window so that few of the image's pixels are held."""
        share = self.image.height / self.height * len(self.columns.under(columns))
        rows = range(window.row_off, window.row_off + window.height)
        step = max(int(PIECE / share), 1)
        return (rows[start : start + step] for start in range(0, len(rows), step))


def scaling_of(path: RasterPath, dataset: Any, options: ReadOptions) -> Scaling:
    """Find out on which grid an open image is read.

    Raises:
        SceneError: The size of its pixels on the ground is unknown, or there would be too many.
        UsageError: It is to be read at a model's pixel size, but there is no model.
    """
    image, asked = grid_of(dataset), options.resample_to
    blocks = [(int(rows), int(columns)) for rows, columns in dataset.block_shapes[:1]]
    if asked is None:
        return Scaling(image, image, blocks)
    if asked == MODEL:
        raise UsageError("--resample-to model: there is no model here; give the size in metres")
    stated = options.pixel_size
    sizes = (stated, stated) if stated else ground_size(image) if options.use_place else None
    if sizes is None or image.transform.is_identity:
        raise SceneError(
            f"{path}: cannot be read at {asked:g} m, since the size of its pixels on the ground is "
            "unknown; give it CRS and geotransform with gdalwarp, or leave --resample-to out"
        )
    lengths = (image.width, image.height)
    width, height = (
        length if abs(size / asked - 1) < EQUAL else max(round(length * size / asked), 1)
        for length, size in zip(lengths, sizes, strict=True)
    )
    if width * height > options.limits.max_pixels:
        raise SceneError(
            f"{path}: would be read as {width} x {height} px at {asked:g} m, more than "
            f"{options.max_pixels} together; give a larger --resample-to, or --max-pixels "
            f"{width * height}"
        )
    scale = Affine.scale(image.width / width, image.height / height)
    read = Grid(height, width, image.transform * scale, image.crs)
    (rows, columns), *_ = blocks
    block = rows * height // image.height or 1, columns * width // image.width or 1
    return Scaling(image, read, [block])


def _indices(pixels: range) -> Indices:
    return np.arange(pixels.start, pixels.stop, dtype=np.int64)
