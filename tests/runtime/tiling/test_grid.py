"""Every pixel is covered, whatever the scene, window and stride."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.grid import WindowGrid, axis_offsets

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
