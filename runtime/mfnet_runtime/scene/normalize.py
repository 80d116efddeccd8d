"""Pixel values and heights to network input, and the DSM statistics this needs. Pure numpy.

Shared by training and inference, so that they cannot drift apart (reference MFNET.md, section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.contract import DsmRule, ImageRule

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
Pieces = Iterable[tuple[npt.NDArray[Any], BoolArray]]  # of a raster, with their validity
Heights = Iterable[tuple[FloatArray, BoolArray]]  # pieces of a DSM

HISTOGRAM_BINS = 1 << 16  # percentiles to 1/65536 of the scene's range


@dataclass(frozen=True)
class DsmRange:
    """The heights that become 0 and 1, in the DSM's unit (metres)."""

    low: float
    high: float
    valid_pixels: int | None = None  # None where the contract fixes the range

    @property
    def constant(self) -> bool:
        """No height differs from another: every valid pixel becomes 0."""
        return not self.low < self.high


def dsm_range(rule: DsmRule, heights: Callable[[], Heights]) -> DsmRange:
    """The range of a scene by the contract's rule, over valid pixels only.

    Args:
        rule: From the contract.
        heights: Starts a pass over the whole DSM; called once, or twice for percentiles.

    Returns:
        The range; (0, 0) with `valid_pixels` 0 where the DSM has no valid pixel.
    """
    if rule.name == "range":
        return DsmRange(rule.low, rule.high)
    percentiles = (rule.low, rule.high) if rule.name == "scene_percentile" else None
    return DsmRange(*valid_range(heights, percentiles))


def valid_range(
    pieces: Callable[[], Pieces], percentiles: tuple[float, float] | None = None
) -> tuple[float, float, int]:
    """Smallest and largest of all valid values, or two percentiles, and how many there are.

    Args:
        pieces: Starts a pass over all values; called once, or twice for percentiles.
        percentiles: In percent.

    Returns:
        Low, high and count; zeros where no value is valid.
    """
    low, high, count = np.inf, -np.inf, 0
    for piece, valid in pieces():
        values = piece if valid.all() else piece[valid]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            count += values.size
    if not count:
        return 0.0, 0.0, 0
    if percentiles is not None and low < high:
        bins = np.zeros(HISTOGRAM_BINS, np.int64)
        for piece, valid in pieces():
            bins += np.histogram(piece[valid], HISTOGRAM_BINS, (low, high))[0]
        edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
        share = np.concatenate([[0.0], np.cumsum(bins) * (100.0 / count)])
        low, high = np.interp(percentiles, share, edges).tolist()
    return low, high, count


def scaled_image(
    image: npt.NDArray[np.generic],
    valid: BoolArray,
    rule: ImageRule,
    out: FloatArray | None = None,
) -> FloatArray:
    """Image (3, row, column) of any number type to float32 in [0, 1]; 0 where not valid.

    Args:
        image: Pixel values as stored.
        valid: (row, column).
        rule: From the contract.
        out: Where it goes; None: a new array.
    """
    scaled = np.empty(image.shape, np.float32) if out is None else out
    share = np.float32(1.0 / rule.full_scale)
    np.multiply(image, share, out=scaled, dtype=np.float32, casting="unsafe")
    _blank(scaled, valid)
    return scaled


def scaled_dsm(
    dsm: FloatArray, valid: BoolArray, span: DsmRange, out: FloatArray | None = None
) -> FloatArray:
    """Heights (row, column) to float32 in [0, 1], clipped; 0, the lowest, where not valid.

    Args:
        dsm: Heights, in the unit of the range.
        valid: (row, column).
        span: The heights that become 0 and 1.
        out: Where it goes; None: a new array.
    """
    scaled = np.empty_like(dsm) if out is None else out
    if span.constant:
        scaled.fill(0.0)
        return scaled
    np.subtract(dsm, np.float32(span.low), out=scaled)
    np.divide(scaled, np.float32(span.high - span.low), out=scaled)
    np.clip(scaled, np.float32(0.0), np.float32(1.0), out=scaled)
    _blank(scaled, valid)
    return scaled


def _blank(scaled: FloatArray, valid: BoolArray) -> None:
    """Zeros where not valid, in every band; most rows are valid all over."""
    if not valid.all():
        np.copyto(scaled, np.float32(0.0), where=~valid)


def padded(array: FloatArray, window: int) -> FloatArray:
    """Reflect the last two axes, to the right and below, up to at least `window` pixels."""
    rows, columns = array.shape[-2:]
    if rows >= window and columns >= window:
        return array
    below, right = max(window - rows, 0), max(window - columns, 0)
    margin = [(0, 0)] * (array.ndim - 2) + [(0, below), (0, right)]
    return np.pad(array, margin, mode="reflect")
