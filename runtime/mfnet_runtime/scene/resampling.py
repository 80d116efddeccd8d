"""Heights between the pixels of a DSM, never mixed with what is no height. Pure numpy.

Every value depends on its own coordinates alone, in a fixed order of operations: the same bits
come out however a scene is cut. (GDAL's warper gives other heights for other pieces: its scale
and its approximate coordinates are of the piece.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mfnet_runtime.scene.normalize import BoolArray, FloatArray

Coordinates = npt.NDArray[np.float64]  # pixels; 0.5 is the centre of the first
Taps = tuple[npt.NDArray[np.int64], list[Coordinates]]  # the first pixel, weights from there on


@dataclass(frozen=True)
class Kernel:
    """A way to resample, as GDAL means it."""

    taps: Callable[[Coordinates, float], Taps]  # of coordinates and half a target pixel's width
    radius: float  # how far taps lie from a coordinate, in the larger of the two pixels
    spread: float  # pixels across a target pixel from which blocks of them are averaged first
    fallback: str | None = None  # where a tap has no data; None: the taps that have some
    by_share: bool = False  # valid where half the weight is, not where the nearest pixel is


def resampled(
    values: FloatArray,
    valid: BoolArray,
    y: Coordinates,
    x: Coordinates,
    kernel: Kernel,
    half: tuple[float, float],
    origin: tuple[int, int] = (0, 0),
) -> tuple[FloatArray, BoolArray]:
    """Values at coordinates, from valid pixels only.

    A target pixel has data where the pixel that its centre lies in has some, so holes keep their
    shape whatever the kernel. Its value is the weighted mean of the pixels with data.

    Args:
        values: (row, column); must hold all pixels that the kernel reaches.
        valid: (row, column).
        y: Row coordinates, broadcast against `x` to the target's shape.
        x: Column coordinates.
        kernel: From `KERNELS`.
        half: Half the height and width of a target pixel, in pixels of `values`.
        origin: Row and column, in the coordinates' raster, of the first of `values`.

    Returns:
        Values and validity of the target's shape; 0 where not valid.
    """
    known = np.where(valid, values, np.float32(0))  # 0 * NaN is NaN
    first_y, weights_y = kernel.taps(y, half[0])
    first_x, weights_x = kernel.taps(x, half[1])
    shape = np.broadcast_shapes(y.shape, x.shape)
    total, share = np.zeros(shape), np.zeros(shape)
    complete = np.ones(shape, np.bool_)
    for row, weight_y in enumerate(weights_y):
        for column, weight_x in enumerate(weights_x):
            place = (first_y + (row - origin[0]), first_x + (column - origin[1]))
            weight = weight_y * weight_x
            there = valid[place]
            total += weight * known[place]
            share += weight * there
            if kernel.fallback:
                complete &= there
    if kernel.by_share:
        has_data = share >= 0.5
    else:
        (row_at, _), (column_at, _) = _nearest(y, 0.0), _nearest(x, 0.0)
        has_data = valid[row_at - origin[0], column_at - origin[1]]
    result = np.divide(total, share, out=np.zeros(shape), where=has_data).astype(np.float32)
    if kernel.fallback and not complete.all():
        simpler, _ = resampled(values, valid, y, x, KERNELS[kernel.fallback], half, origin)
        result = np.where(complete, result, simpler)
    return result, np.asarray(has_data)


def block_means(values: FloatArray, valid: BoolArray, side: int) -> tuple[FloatArray, BoolArray]:
    """Means over blocks of `side` x `side` pixels; a block has data where half of it has.

    Args:
        values: (row, column), multiples of `side`.
        valid: (row, column).
        side: Pixels.
    """
    known = np.where(valid, values, np.float32(0))
    total = np.zeros((values.shape[0] // side, values.shape[1] // side))
    count = np.zeros_like(total)
    for row in range(side):
        for column in range(side):
            total += known[row::side, column::side]
            count += valid[row::side, column::side]
    has_data = 2 * count >= side * side
    means = np.divide(total, count, out=np.zeros_like(total), where=has_data)
    return means.astype(np.float32), has_data


def _nearest(at: Coordinates, _: float) -> Taps:
    return np.floor(at).astype(np.int64), [np.ones_like(at)]


def _bilinear(at: Coordinates, half: float) -> Taps:
    return _convolution(at, half, 1, lambda far: np.clip(1 - far, 0.0, None))


def _cubic(at: Coordinates, half: float) -> Taps:
    def keys(far: Coordinates) -> Coordinates:
        """Keys 1981, a = -0.5."""
        near = (1.5 * far - 2.5) * far * far + 1
        tail = ((-0.5 * far + 2.5) * far - 4) * far + 2
        return np.where(far < 1, near, np.where(far < 2, tail, 0.0))

    return _convolution(at, half, 2, keys)


def _convolution(
    at: Coordinates, half: float, radius: int, weight: Callable[[Coordinates], Coordinates]
) -> Taps:
    """Weights by distance, in pixels or, where they are larger, in target pixels."""
    unit = max(1.0, 2 * half)
    beside = math.ceil(radius * unit)
    first = np.floor(at - 0.5) - (beside - 1)
    weights = [weight(np.abs(first + (tap + 0.5) - at) / unit) for tap in range(2 * beside)]
    return first.astype(np.int64), weights


def _average(at: Coordinates, half: float) -> Taps:
    """Shares of the pixels under a target pixel."""
    low, high = at - half, at + half
    first = np.floor(low)
    weights = [
        np.clip(np.minimum(high, first + tap + 1) - np.maximum(low, first + tap), 0.0, None)
        / (2 * half)
        for tap in range(math.ceil(2 * half) + 1)
    ]
    return first.astype(np.int64), weights


KERNELS = {
    "bilinear": Kernel(_bilinear, 1.0, 2.0),
    "nearest": Kernel(_nearest, 0.5, math.inf),
    "cubic": Kernel(_cubic, 2.0, 2.0, fallback="bilinear"),
    "average": Kernel(_average, 0.5, 4.0, by_share=True),
}
