"""Every pixel is covered, whatever the scene, window and stride."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import window_weights

from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.blend import AxisWeights
from mfnet_runtime.tiling.grid import Offset, WindowGrid, axis_offsets
from mfnet_runtime.tiling.options import BLENDS, BlendName

sizes = st.integers(1, 300)


def published_starts(length: int, window: int, stride: int) -> list[int]:
    """The published loop, word for word: step, and move back inside at the border."""
    starts = []
    for start in range(0, length, stride):
        starts.append(length - window if start + window > length else start)
    return starts


@given(length=st.integers(32, 400), stride=st.integers(1, 32))
def test_visits_are_those_of_the_published_loop(length: int, stride: int) -> None:
    offsets = axis_offsets(length, 32, stride)
    visited = [offset.start for offset in offsets for _ in range(offset.visits)]
    assert visited == published_starts(length, 32, stride)


@given(height=sizes, width=sizes, window=st.integers(1, 64), data=st.data())
def test_every_pixel_is_covered(height: int, width: int, window: int, data: st.DataObject) -> None:
    grid = WindowGrid(height, width, window, data.draw(st.integers(1, window)))
    covered = np.zeros((height, width), bool)
    for row, column in grid:
        assert 0 <= row.start <= max(height - window, 0)
        assert 0 <= column.start <= max(width - window, 0)
        covered[row.start : row.start + window, column.start : column.start + window] = True
    assert covered.all()
    assert len(grid) == len(list(grid))


@pytest.mark.parametrize("stride", [0, -1, 33])
def test_stride_that_leaves_gaps_is_refused(stride: int) -> None:
    with pytest.raises(UsageError, match=r"stride is .* expected 1 to 32"):
        WindowGrid(100, 100, 32, stride)


@pytest.mark.parametrize("blend", BLENDS)
def test_weights_are_positive_and_symmetric(blend: BlendName) -> None:
    weights = window_weights(blend, 64)
    assert weights.min() > 0
    np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=1e-5)
    np.testing.assert_array_equal(weights, weights.T)


def test_hann_windows_at_half_stride_sum_to_a_constant() -> None:
    weights = window_weights("hann", 64)[32]
    np.testing.assert_allclose(weights[:32] + weights[32:], weights[31], rtol=1e-2)


def nearest_start(pixel: int, length: int, window: int, stride: int) -> int:
    """By trying all windows over a pixel: the nearest centre, the earlier of equal ones."""
    over = [
        offset.start
        for offset in axis_offsets(length, window, stride)
        if offset.start <= pixel < offset.start + window
    ]
    return min(over, key=lambda start: (abs(2 * pixel + 1 - 2 * start - window), start))


@pytest.mark.parametrize("window", range(1, 9))
def test_centre_takes_each_pixel_of_the_nearest_window(window: int) -> None:
    """All strides and lengths, and all blocks of two widths, which know some windows only."""
    for stride, length in product(range(1, window + 1), range(1, 28)):
        offsets = axis_offsets(length, window, stride)
        expected = [nearest_start(pixel, length, window, stride) for pixel in range(length)]
        weights = AxisWeights("centre", offsets, window)
        assert taken(weights, offsets, window, range(length)) == expected
        for first, width in product(range(length), (1, 5)):
            block = range(first, min(first + width, length))
            known = WindowGrid(1, length, window, stride, block).columns
            weights = AxisWeights("centre", known, window)
            assert taken(weights, known, window, block) == expected[first : block.stop]


def taken(
    weights: AxisWeights, offsets: tuple[Offset, ...], window: int, pixels: range
) -> list[int]:
    """Start of the one window that has a share in each pixel."""
    shares = {offset.start: weights.share(offset) for offset in offsets}
    assert set(np.concatenate(list(shares.values())).tolist()) <= {0.0, 1.0}
    found = []
    for pixel in pixels:
        over = [s for s in shares if s <= pixel < s + window and shares[s][pixel - s]]
        assert len(over) == 1
        found += over
    return found
