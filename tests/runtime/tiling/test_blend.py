"""Blending: weights sum to 1, and the means do not depend on the blocks, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import window_weights

from mfnet_runtime.tiling.blend import LogitMosaic, PublishedMosaic
from mfnet_runtime.tiling.classes import classes_from_logits
from mfnet_runtime.tiling.grid import Offset, WindowGrid
from mfnet_runtime.tiling.options import BLENDS, BlendName

Array = npt.NDArray[Any]
Answer = Callable[[Offset, Offset], Array]  # logits (classes, window, window) of a window
blends = st.sampled_from(BLENDS)


def blend(mosaic: LogitMosaic, answer: Answer) -> Array:
    """Mean logits (classes, row, column) of the columns to produce."""
    grid, done = mosaic.grid, []
    stops = [row.start for row in grid.rows[1:]] + [grid.height]
    for row, stop in zip(grid.rows, stops, strict=True):
        for column in grid.columns:
            mosaic.add(row, column, answer(row, column))
        done.append(mosaic.finish_above(stop).copy())
    return np.concatenate(done, axis=1)


def cut_from(field: Array, window: int) -> Answer:
    """Windows cut from a field (classes, row, column), zero outside of it."""

    def cut(row: Offset, column: Offset) -> Array:
        found = np.zeros((len(field), window, window), np.float32)
        part = field[:, row.start :, column.start :][:, :window, :window]
        found[:, : part.shape[1], : part.shape[2]] = part
        return found

    return cut


def noise(grid: WindowGrid, seed: int = 0) -> Answer:
    """Windows that disagree with each other."""
    rng = np.random.default_rng(seed)
    side = (grid.window, grid.window)
    found = {place: rng.normal(0, 8, (3, *side)).astype(np.float32) for place in grid}
    return lambda row, column: found[row, column]


def published_sum(grid: WindowGrid, answer: Answer) -> tuple[Array, Array]:
    """Sums (classes, row, column) of the published loop, in its order, and visits (row, column)."""
    rows = {row.start: row for row in grid.rows}
    columns = {column.start: column for column in grid.columns}
    total = np.zeros((len(answer(grid.rows[0], grid.columns[0])), grid.height, grid.width))
    visits = np.zeros(total.shape[1:], int)
    for top, left in product(range(0, grid.height, grid.stride), range(0, grid.width, grid.stride)):
        row = rows[min(top, grid.height - grid.window)]
        column = columns[min(left, grid.width - grid.window)]
        under = (
            slice(row.start, row.start + grid.window),
            slice(column.start, column.start + grid.window),
        )
        total[:, under[0], under[1]] += answer(row, column)
        visits[under] += 1
    return total, visits


@pytest.mark.parametrize("name", BLENDS)
def test_weights_are_positive_and_symmetric(name: BlendName) -> None:
    weights = window_weights(name, 64)
    assert weights.min() > 0
    np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=1e-5)
    np.testing.assert_array_equal(weights, weights.T)


@given(height=st.integers(1, 80), width=st.integers(1, 80), stride=st.integers(1, 16), name=blends)
def test_weights_sum_to_one(height: int, width: int, stride: int, name: BlendName) -> None:
    ones = np.ones((1, height, width), np.float32)
    found = blend(LogitMosaic(WindowGrid(height, width, 16, stride), 1, name), cut_from(ones, 16))
    np.testing.assert_allclose(found, ones, rtol=1e-5)


@pytest.mark.parametrize("name", BLENDS)
@pytest.mark.parametrize(("width", "alone"), [(64, 64), (70, 48), (9, 9)])
def test_windows_without_overlap_keep_every_bit(name: BlendName, width: int, alone: int) -> None:
    """Also beside the last two, which overlap where the width is no multiple of the window."""
    field = np.random.default_rng(0).normal(size=(3, 48, width)).astype(np.float32)
    found = blend(LogitMosaic(WindowGrid(48, width, 16, 16), 3, name), cut_from(field, 16))
    np.testing.assert_array_equal(found[..., :alone], field[..., :alone])


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 90), block=st.integers(3, 100), stride=st.integers(3, 16), name=blends)
def test_means_are_the_same_bits_in_blocks(
    width: int, block: int, stride: int, name: BlendName
) -> None:
    grid = WindowGrid(30, width, 16, stride)
    answer = noise(grid)
    parts = [blend(LogitMosaic(part, 3, name), answer) for part in grid.blocks(block)]
    whole = blend(LogitMosaic(grid, 3, name), answer)
    np.testing.assert_array_equal(
        np.concatenate(parts, axis=2).view(np.uint32), whole.view(np.uint32)
    )


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(16, 60),
    width=st.integers(16, 60),
    stride=st.integers(2, 16),
    block=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_published_means_are_those_of_the_published_loop(
    height: int, width: int, stride: int, block: int, seed: int
) -> None:
    """Bit by bit in float64, in one block and in many; `uniform` only up to rounding."""
    grid = WindowGrid(height, width, 16, stride)
    answer = noise(grid, seed)
    total, visits = published_sum(grid, answer)
    for blocks in ([grid], grid.blocks(block)):
        found = [blend(PublishedMosaic(part, 3), answer) for part in blocks]
        np.testing.assert_array_equal(np.concatenate(found, axis=2), total / visits)
    rounded = blend(LogitMosaic(grid, 3, "uniform"), answer)
    np.testing.assert_allclose(rounded, total / visits, atol=1e-4)


def test_nearly_equal_classes_are_decided_as_published() -> None:
    """Logits of few bits, as in FP16: float32 shares let the wrong class win."""
    grid = WindowGrid(80, 90, 16, 4)
    rng = np.random.default_rng(0)
    logits = {
        place: (rng.integers(-8, 9, (3, 16, 16)) / np.float32(4)).astype(np.float32)
        for place in grid
    }

    def answer(row: Offset, column: Offset) -> Array:
        return logits[row, column]

    expected = published_sum(grid, answer)[0].argmax(axis=0)
    valid = np.ones(expected.shape, bool)
    found = classes_from_logits(blend(PublishedMosaic(grid, 3), answer), valid)
    np.testing.assert_array_equal(found, expected)
    rounded = classes_from_logits(blend(LogitMosaic(grid, 3, "uniform"), answer), valid)
    assert 0 < (rounded != expected).mean() < 0.05


@given(
    height=st.integers(1, 60), width=st.integers(1, 60), window=st.integers(1, 12), data=st.data()
)
def test_centre_takes_the_logits_of_the_nearest_window(
    height: int, width: int, window: int, data: st.DataObject
) -> None:
    """Bit by bit: each window answers with its number, plus a part that rounding would change."""
    grid = WindowGrid(height, width, window, data.draw(st.integers(1, window)))
    number = {place: np.float32(index + 0.1) for index, place in enumerate(grid)}

    def answer(row: Offset, column: Offset) -> Array:
        return np.full((1, window, window), number[row, column])

    def nearest(length: int, offsets: tuple[Offset, ...]) -> npt.NDArray[np.int64]:
        centres = np.array([offset.start + window / 2 for offset in offsets])
        return np.asarray(np.abs(np.arange(length)[:, None] + 0.5 - centres).argmin(axis=1))

    down, across = nearest(height, grid.rows), nearest(width, grid.columns)
    expected = down[:, None] * len(grid.columns) + across + 0.1
    found = blend(LogitMosaic(grid, 1, "centre"), answer)[0]
    np.testing.assert_array_equal(found, expected.astype(np.float32))
