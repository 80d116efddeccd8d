"""Scaling by the contract's rules, over valid pixels only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from mfnet_runtime.contract import DsmRule, ImageRule
from mfnet_runtime.scene.normalize import DsmRange, dsm_range, pad_to_window, scale_dsm, scale_image

Piece = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def pieces(heights: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> Iterator[Piece]:
    """A DSM in three pieces, as the reader gives it."""
    yield from zip(np.array_split(heights, 3), np.array_split(valid, 3), strict=True)


def span_of(
    rule: DsmRule, heights: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
) -> DsmRange:
    return dsm_range(rule, lambda: pieces(heights, valid))


def test_minmax_sees_valid_pixels_only() -> None:
    heights = np.array([[240.0, 360.0], [-9999.0, np.nan], [300.0, 260.0]], np.float32)
    valid = np.isfinite(heights) & (heights > -1000)
    span = span_of(DsmRule(), heights, valid)
    assert span == DsmRange(240.0, 360.0, 4)
    scaled = scale_dsm(heights, valid, span)
    np.testing.assert_allclose(scaled, np.array([[0, 1], [0, 0], [0.5, 1 / 6]]), rtol=1e-6)


def test_percentiles_ignore_a_spike() -> None:
    heights = np.linspace(100.0, 200.0, 10_001, dtype=np.float32).reshape(73, 137)
    heights[0, 0] = 5000.0
    span = span_of(DsmRule("scene_percentile", 1.0, 99.0), heights, np.ones_like(heights, bool))
    # one bin of the histogram spans 4900 m / 65536
    assert span.low == pytest.approx(101.0, abs=0.1)
    assert span.high == pytest.approx(199.0, abs=0.1)


def test_fixed_range_reads_nothing() -> None:
    def unread() -> Iterator[Piece]:
        raise AssertionError

    assert dsm_range(DsmRule("range", 10.0, 60.0), unread) == DsmRange(10.0, 60.0)


@pytest.mark.parametrize("height", [0.0, 123.0])
@pytest.mark.parametrize("rule", [DsmRule(), DsmRule("scene_percentile", 2.0, 98.0)])
def test_constant_dsm_becomes_zeros(height: float, rule: DsmRule) -> None:
    heights = np.full((9, 9), height, np.float32)
    span = span_of(rule, heights, np.ones_like(heights, bool))
    assert span.constant
    assert not scale_dsm(heights, np.ones_like(heights, bool), span).any()


def test_empty_dsm_is_constant() -> None:
    heights = np.full((9, 9), np.nan, np.float32)
    span = span_of(DsmRule(), heights, np.zeros_like(heights, bool))
    assert span.valid_pixels == 0
    assert not scale_dsm(heights, np.zeros_like(heights, bool), span).any()


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 10_000), (np.float32, 1)])
def test_image_scaling(dtype: npt.DTypeLike, full: float) -> None:
    image: npt.NDArray[np.generic] = np.array([0, full], dtype).reshape(1, 1, 2).repeat(3, axis=0)
    scaled = scale_image(image, np.ones((1, 2), bool), ImageRule(full_scale=full))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, 0], [[0, 1]] * 3)


@pytest.mark.parametrize("valid", [True, False])
def test_scaling_in_place_gives_the_same_bits(valid: bool) -> None:
    rng = np.random.default_rng(0)
    known = rng.random((7, 9)) > (0.0 if valid else 0.3)
    image = rng.integers(0, 256, (3, 7, 9), dtype=np.uint8)
    heights = rng.uniform(90, 210, (7, 9)).astype(np.float32)
    span = DsmRange(100.0, 200.0)
    rows = np.full((4, 9, 9), np.nan, np.float32)
    scale_image(image, known, ImageRule(), rows[:3, 2:])
    scale_dsm(heights, known, span, rows[3, 2:])
    np.testing.assert_array_equal(rows[:3, 2:], scale_image(image, known, ImageRule()))
    np.testing.assert_array_equal(rows[3, 2:], scale_dsm(heights, known, span))
    expected = np.where(known, image.astype(np.float32) * np.float32(1 / 255), 0)
    np.testing.assert_array_equal(rows[:3, 2:], expected)
    assert np.isnan(rows[:, :2]).all()
    scale_dsm(heights, known, DsmRange(5.0, 5.0), rows[3, 2:])
    assert not rows[3, 2:].any()


def test_invalid_image_pixels_are_zero_even_if_nan() -> None:
    image = np.full((3, 1, 2), np.nan, np.float32)
    assert not scale_image(image, np.zeros((1, 2), bool), ImageRule()).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3), (31, 31)])
def test_small_scenes_are_reflected_up_to_a_window(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    grown = pad_to_window(array, 32)
    assert grown.shape == (2, max(32, shape[0]), max(32, shape[1]))
    np.testing.assert_array_equal(grown[:, : shape[0], : shape[1]], array)


def test_large_scenes_are_not_copied() -> None:
    array = np.zeros((3, 32, 40), np.float32)
    assert pad_to_window(array, 32) is array
