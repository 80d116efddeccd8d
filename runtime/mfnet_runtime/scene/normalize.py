"""Scale pixel values and heights to network input, and take the statistics that this needs.

Training and inference share these functions, so that they cannot differ. Pure numpy.
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

HISTOGRAM_BINS = 1 << 16  # percentiles are exact to 1/65536 of the range


@dataclass(frozen=True)
class DsmRange:
    """The heights that become 0 and 1, in the unit of the DSM (metres)."""

    low: float
    high: float
    valid_pixels: int | None = None  # None if the contract fixes the range

    @property
    def constant(self) -> bool:
        """True if all heights are equal: every valid pixel becomes 0."""
        return not self.low < self.high


def dsm_range(rule: DsmRule, heights: Callable[[], Heights]) -> DsmRange:
    """Find the range of a scene by the contract's rule, over valid pixels only.

    Args:
        rule: Rule of the contract.
        heights: Starts a pass over the whole DSM; called once, or twice for percentiles.

    Returns:
        The range; (0, 0) with `valid_pixels` 0 if the DSM has no valid pixel.
    """
    if rule.name == "range":
        return DsmRange(rule.low, rule.high)
    percentiles = (rule.low, rule.high) if rule.name == "scene_percentile" else None
    return DsmRange(*valid_range(heights, percentiles))


def valid_range(
    pieces: Callable[[], Pieces], percentiles: tuple[float, float] | None = None
) -> tuple[float, float, int]:
    """Find the smallest and largest valid value, or two percentiles, and count the values.

    Args:
        pieces: Starts a pass over all values; called once, or twice for percentiles.
        percentiles: Percentiles to return instead of the extremes, in percent.

    Returns:
        Low, high and count; zeros if no value is valid.
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


def scale_image(
    image: npt.NDArray[np.generic],
    valid: BoolArray,
    rule: ImageRule,
    out: FloatArray | None = None,
) -> FloatArray:
    """Scale an image (3, row, column) of any type to float32 in [0, 1]; 0 where not valid.

    Args:
        image: Pixel values as stored.
        valid: Validity, (row, column).
        rule: Rule of the contract.
        out: Array for the result; None makes a new one.
    """
    scaled = np.empty(image.shape, np.float32) if out is None else out
    share = np.float32(1.0 / rule.full_scale)
    np.multiply(image, share, out=scaled, dtype=np.float32, casting="unsafe")
    _clear(scaled, valid)
    return scaled


def scale_dsm(
    dsm: FloatArray, valid: BoolArray, span: DsmRange, out: FloatArray | None = None
) -> FloatArray:
    """Scale heights (row, column) to float32 in [0, 1], clipped; 0, the lowest, where not valid.

    Args:
        dsm: Heights, in the unit of the range.
        valid: Validity, (row, column).
        span: The heights that become 0 and 1.
        out: Array for the result; None makes a new one.
    """
    scaled = np.empty_like(dsm) if out is None else out
    if span.constant:
        scaled.fill(0.0)
        return scaled
    np.subtract(dsm, np.float32(span.low), out=scaled)
    np.divide(scaled, np.float32(span.high - span.low), out=scaled)
    np.clip(scaled, np.float32(0.0), np.float32(1.0), out=scaled)
    _clear(scaled, valid)
    return scaled


def _clear(scaled: FloatArray, valid: BoolArray) -> None:
    if not valid.all():  # most rows are valid everywhere
        np.copyto(scaled, np.float32(0.0), where=~valid)


def pad_to_window(array: FloatArray, window: int) -> FloatArray:
    """Reflect the last two axes, to the right and below, up to at least `window` pixels."""
    rows, columns = array.shape[-2:]
    if rows >= window and columns >= window:
        return array
    below, right = max(window - rows, 0), max(window - columns, 0)
    margin = [(0, 0)] * (array.ndim - 2) + [(0, below), (0, right)]
    return np.pad(array, margin, mode="reflect")
