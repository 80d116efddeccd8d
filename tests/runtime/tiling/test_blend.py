"""Blending: weights sum to 1, order and batch do not matter, rows come out once each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfnet_runtime.tiling.blend import LogitMosaic
from mfnet_runtime.tiling.grid import Offset, WindowGrid
from mfnet_runtime.tiling.options import BLENDS, BlendName

Field = npt.NDArray[np.float32]


def mosaicked(grid: WindowGrid, blend: BlendName, field: Field) -> Field:
    """Cut `field` (classes, H, W) into the windows of the grid and put it together again."""
    mosaic = LogitMosaic(grid, field.shape[0], blend)
    starts = [row.start for row in grid.rows[1:]] + [grid.height]
    rows = []
    for row, following in zip(grid.rows, starts, strict=True):
        for column in grid.columns:
            cut = np.zeros((field.shape[0], grid.window, grid.window), np.float32)
            part = field[:, row.start :, column.start :][:, : grid.window, : grid.window]
            cut[:, : part.shape[1], : part.shape[2]] = part
            mosaic.add(row, column, cut)
        rows.append(mosaic.finish_above(following).copy())
    return np.concatenate(rows, axis=1)


@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    stride=st.integers(1, 16),
    blend=st.sampled_from(BLENDS),
)
def test_weights_sum_to_one(height: int, width: int, stride: int, blend: BlendName) -> None:
    grid = WindowGrid(height, width, 16, stride)
    ones = np.ones((1, height, width), np.float32)
    np.testing.assert_allclose(mosaicked(grid, blend, ones), ones, rtol=1e-5)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("width", "alone"), [(64, 64), (70, 48), (9, 9)])
def test_windows_side_by_side_keep_every_bit(blend: BlendName, width: int, alone: int) -> None:
    """Also beside the last two, which overlap where the width is no multiple of the window's."""
    field = np.random.default_rng(0).normal(size=(3, 48, width)).astype(np.float32)
    found = mosaicked(WindowGrid(48, width, 16, 16), blend, field)
    np.testing.assert_array_equal(found[..., :alone], field[..., :alone])


@pytest.mark.parametrize("blend", BLENDS)
def test_a_field_cut_and_mosaicked_is_itself(blend: BlendName) -> None:
    field = np.random.default_rng(0).normal(size=(3, 50, 70)).astype(np.float32)
    grid = WindowGrid(50, 70, 16, 5)
    np.testing.assert_allclose(mosaicked(grid, blend, field), field, atol=1e-5)


def test_uniform_is_the_published_sum_of_logits() -> None:
    """Windows that disagree: compare with the published loop, which revisits the border."""
    rng = np.random.default_rng(1)
    grid = WindowGrid(45, 37, 16, 6)
    answers = {(r.start, c.start): rng.normal(size=(2, 16, 16)) for r, c in grid}
    total, visits = np.zeros((2, 45, 37)), np.zeros((45, 37))
    for top in range(0, 45, 6):
        for left in range(0, 37, 6):
            top_, left_ = min(top, 45 - 16), min(left, 37 - 16)
            total[:, top_ : top_ + 16, left_ : left_ + 16] += answers[top_, left_]
            visits[top_ : top_ + 16, left_ : left_ + 16] += 1
    mosaic = LogitMosaic(grid, 2, "uniform")
    starts = [row.start for row in grid.rows[1:]] + [grid.height]
    rows = []
    for row, following in zip(grid.rows, starts, strict=True):
        for column in grid.columns:
            mosaic.add(row, column, answers[row.start, column.start].astype(np.float32))
        rows.append(mosaic.finish_above(following).copy())
    np.testing.assert_allclose(np.concatenate(rows, axis=1), total / visits, atol=1e-5)


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    window=st.integers(1, 12),
    data=st.data(),
)
def test_centre_is_the_logits_of_the_nearest_window(
    height: int, width: int, window: int, data: st.DataObject
) -> None:
    """Bit by bit: each window answers with its number, plus what rounding would change."""
    grid = WindowGrid(height, width, window, data.draw(st.integers(1, window)))
    mosaic, number, rows = LogitMosaic(grid, 1, "centre"), 0.1, []
    starts = [row.start for row in grid.rows[1:]] + [height]
    for row, following in zip(grid.rows, starts, strict=True):
        for column in grid.columns:
            mosaic.add(row, column, np.full((1, window, window), number, np.float32))
            number += 1
        rows.append(mosaic.finish_above(following)[0].copy())

    def nearest(length: int, offsets: tuple[Offset, ...]) -> npt.NDArray[np.int64]:
        centres = np.array([offset.start + window / 2 for offset in offsets])
        return np.asarray(np.abs(np.arange(length)[:, None] + 0.5 - centres).argmin(axis=1))

    down, across = nearest(height, grid.rows), nearest(width, grid.columns)
    expected = down[:, None] * len(grid.columns) + across + 0.1
    np.testing.assert_array_equal(np.concatenate(rows), expected.astype(np.float32))


def test_windows_out_of_order_are_a_bug() -> None:
    grid = WindowGrid(32, 16, 16, 16)
    mosaic = LogitMosaic(grid, 1, "uniform")
    with pytest.raises(AssertionError):
        mosaic.add(grid.rows[1], grid.columns[0], np.zeros((1, 16, 16), np.float32))
