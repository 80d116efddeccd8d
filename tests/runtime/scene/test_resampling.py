"""Values between pixels: exact where arithmetic is, and nothing mixed with what is no height."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfnet_runtime.scene.resampling import KERNELS, block_means, resampled

RNG = np.random.default_rng(0)
MARGIN = 10  # pixels around the target, for any kernel


def axes(height: int, width: int, step: float = 1.0, shift: float = 0.0) -> tuple[Any, Any]:
    """Centres of target pixels of `step` pixels, inside a raster with margins."""
    y = MARGIN + shift + (np.arange(height) + 0.5) * step
    x = MARGIN + shift + (np.arange(width) + 0.5) * step
    return y[:, None], x[None]


def holed(shape: tuple[int, int] = (40, 44), share: float = 0.2) -> tuple[Any, Any]:
    return RNG.uniform(100, 200, shape).astype(np.float32), RNG.random(shape) >= share


@pytest.mark.parametrize("name", KERNELS)
def test_the_same_grid_gives_the_same_bits(name: str) -> None:
    values, valid = holed()
    y, x = axes(20, 24)
    found, has_data = resampled(values, valid, y, x, KERNELS[name], (0.5, 0.5))
    here = (slice(MARGIN, MARGIN + 20), slice(MARGIN, MARGIN + 24))
    np.testing.assert_array_equal(has_data, valid[here])
    np.testing.assert_array_equal(found[has_data], values[here][has_data])
    assert not found[~has_data].any()


@pytest.mark.parametrize("name", ["bilinear", "cubic", "average"])
@pytest.mark.parametrize("step", [0.3, 0.5, 1.0, 3.0])
def test_a_plane_stays_a_plane(name: str, step: float) -> None:
    rows, columns = np.mgrid[0:40, 0:44] + 0.5
    plane = (3 * rows - 2 * columns + 100).astype(np.float32)
    count = int(20 / step)
    y, x = axes(count, count, step)
    everywhere = np.ones(plane.shape, np.bool_)
    found, has_data = resampled(plane, everywhere, y, x, KERNELS[name], (step / 2, step / 2))
    assert has_data.all()
    if name == "average" and step < 1:
        return  # means of pixels are steps there, as GDAL's
    np.testing.assert_allclose(found, 3 * y - 2 * x + 100, atol=1e-3)


def test_bilinear_is_the_weighted_mean_of_four() -> None:
    values = np.array([[10, 20], [30, 50]], np.float32)
    padded, known = np.pad(values, 1), np.pad(np.ones((2, 2), np.bool_), 1)
    y, x = np.array([[1.75]]), np.array([[2.25]])  # a quarter down, three quarters across
    found, _ = resampled(padded, known, y, x, KERNELS["bilinear"], (0.25, 0.25))
    assert found == 0.75 * (0.25 * 10 + 0.75 * 20) + 0.25 * (0.25 * 30 + 0.75 * 50)


def test_average_is_the_mean_by_area() -> None:
    values = np.arange(36, dtype=np.float32).reshape(6, 6)
    everywhere = np.ones((6, 6), np.bool_)
    at = np.array([2.5])  # 1.75 to 3.25: a quarter, one, a quarter
    found, _ = resampled(
        values, everywhere, at[:, None], at[None], KERNELS["average"], (0.75, 0.75)
    )
    weights = np.array([0.25, 1, 0.25]) / 1.5
    np.testing.assert_allclose(found[0, 0], weights @ values[1:4, 1:4] @ weights)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("step", [0.4, 1.0, 2.6])
@pytest.mark.parametrize("garbage", [-9999.0, np.nan, np.inf, 3e38])
def test_what_is_no_height_changes_nothing(name: str, step: float, garbage: float) -> None:
    values, valid = holed()
    count = int(20 / step)
    y, x = axes(count, count, step, 0.3)
    half = (step / 2, step / 2)
    clean, has_data = resampled(values, valid, y, x, KERNELS[name], half)
    dirty, same = resampled(np.where(valid, values, garbage), valid, y, x, KERNELS[name], half)
    np.testing.assert_array_equal(dirty, clean)
    np.testing.assert_array_equal(same, has_data)
    if name != "cubic":  # which may overshoot
        assert clean[has_data].min() >= 100
        assert clean[has_data].max() <= 200


@pytest.mark.parametrize("name", ["bilinear", "cubic"])
def test_holes_keep_the_shape_that_nearest_gives_them(name: str) -> None:
    values, valid = holed()
    y, x = axes(50, 50, 0.4, 0.1)
    _, expected = resampled(values, valid, y, x, KERNELS["nearest"], (0.2, 0.2))
    _, found = resampled(values, valid, y, x, KERNELS[name], (0.2, 0.2))
    np.testing.assert_array_equal(found, expected)


def test_average_needs_half_of_a_pixel() -> None:
    values = np.full((4, 6), 7, np.float32)
    valid = np.ones((4, 6), np.bool_)
    valid[:, :3] = False
    y, x = np.array([[2.0]]), np.array([[2.9, 3.0, 3.1]])
    _, has_data = resampled(values, valid, y, x, KERNELS["average"], (1.0, 1.0))
    np.testing.assert_array_equal(has_data, [[False, True, True]])


@given(
    st.sampled_from(sorted(KERNELS)),
    st.floats(0.1, 3.0),
    st.floats(-1.0, 1.0),
    st.integers(1, 19),
    st.integers(0, 2),
)
def test_any_part_is_the_part_of_the_whole(
    name: str, step: float, shift: float, cut: int, origin: int
) -> None:
    """Whatever is read around it, wherever that begins, and however coordinates are given."""
    values, valid = holed((90, 90))
    y, x = axes(20, 20, step, shift)
    kernel, half = KERNELS[name], (step / 2, step / 2)
    whole, known = resampled(values, valid, y, x, kernel, half)
    less = (slice(origin, None), slice(origin, 80))
    y, x = np.broadcast_arrays(y[:cut], x)
    part, there = resampled(values[less], valid[less], y, x, kernel, half, (origin, origin))
    np.testing.assert_array_equal(part, whole[:cut])
    np.testing.assert_array_equal(there, known[:cut])


def test_block_means() -> None:
    values = np.array([[1, 3, 5, np.nan], [1, 3, -9999, 8]], np.float32)
    valid = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.bool_)
    means, has_data = block_means(values, valid, 2)
    np.testing.assert_array_equal(has_data, [[True, False]])  # a quarter is too little
    np.testing.assert_array_equal(means, [[2, 0]])
