"""Pixel values of any type on the model's scale, and what masks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from support import UTM, write_raster

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.options import ReadOptions

ALL = Window(0, 0, 9, 8)


def image_of(
    folder: Path, pixels: Any, full_scale: float = 255.0, heights: int | None = None, **options: Any
) -> ImageBands:
    path = write_raster(folder / "a.tif", pixels, **UTM)
    return ImageBands(path, open_raster(path), full_scale, ReadOptions(**options), heights)


def ramp(dtype: Any, top: float, bands: int = 3) -> Any:
    """Values 0 to `top`."""
    return np.linspace(0, top, bands * 72).reshape(bands, 8, 9).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "full_scale"),
    [(np.uint8, 255.0), (np.uint16, 65535.0), (np.int16, 10000.0), (np.float32, 1.0)],
)
def test_values_come_as_stored(tmp_path: Path, dtype: Any, full_scale: float) -> None:
    pixels = ramp(dtype, full_scale)
    image = image_of(tmp_path, pixels, full_scale)
    found, valid = image.read(ALL)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)
    assert valid.all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("nodata", [0, 250])
def test_nodata_with_a_tolerance(tmp_path: Path, dtype: Any, nodata: float) -> None:
    pixels = np.full((3, 8, 9), 100, dtype)
    pixels[:, 0, :4] = np.array([0, 3, 4, 5], dtype) if not nodata else [250, 247, 254, 245]
    pixels[0, 1, 0] = nodata  # one band alone may have that value
    image = image_of(tmp_path, pixels, nodata_image=nodata, nodata_tolerance=4)
    _, valid = image.read(ALL)
    expected = np.ones((8, 9), np.bool_)
    expected[0, :3] = False
    np.testing.assert_array_equal(valid, expected)
    image = image_of(tmp_path, pixels, nodata_image=nodata)
    assert np.count_nonzero(~image.read(ALL)[1]) == 1


def test_a_tolerance_needs_a_nodata_value(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"a\.tif: declares no nodata .* with --nodata-image"):
        image_of(tmp_path, ramp(np.uint8, 255), nodata_tolerance=4)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"--nodata-tolerance .* at least 0"):
            ReadOptions(nodata_tolerance=wrong)


@pytest.mark.parametrize("top", [4095, 256])
def test_too_large_values_are_refused(tmp_path: Path, top: int) -> None:
    with pytest.raises(SceneError, match=f"pixel values reach {top}, the model expects 0 to 255"):
        image_of(tmp_path, ramp(np.uint16, top)).read(ALL)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_range_becomes_the_full_scale(tmp_path: Path, dtype: Any) -> None:
    pixels = ramp(dtype, 250)
    image = image_of(tmp_path, pixels, image_range=(50.0, 200.0))
    found, valid = image.read(ALL)
    assert found.dtype == np.float32
    expected = np.clip((pixels.astype(float) - 50) / 150, 0, 1) * 255
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert valid.all()
    assert image.span == (50, 200)


def test_percentiles_are_of_the_valid_pixels_of_all_bands(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).uniform(1000, 3000, (3, 80, 90)).astype(np.float32)
    pixels[:, :20] = np.nan
    pixels[0, 50, 50] = 60000  # a spike
    image = image_of(tmp_path, pixels, image_percentiles=(2.0, 98.0))
    assert image.span is not None
    np.testing.assert_allclose(image.span, np.nanpercentile(pixels, [2, 98]), atol=2)
    found, valid = image.read(Window(0, 0, 90, 80))
    assert not valid[:20].any()
    assert found[:, 20:].min() == 0
    assert found[:, 20:].max() == 255


def test_an_image_of_one_value_has_no_range(tmp_path: Path) -> None:
    image = image_of(tmp_path, np.full((3, 8, 9), 7, np.uint8), image_percentiles=(0.0, 100.0))
    assert not image.read(ALL)[0].any()


def test_no_percentiles_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"a\.tif: no valid pixel to find percentiles of"):
        image_of(tmp_path, np.full((3, 8, 9), np.nan, np.float32), image_percentiles=(2.0, 98.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_range": (5.0, 5.0)}, "--image-range 5 5: the first must be the smaller"),
        ({"image_percentiles": (2.0, 102.0)}, "expected 0 to 100"),
        ({"image_percentiles": (98.0, 2.0)}, "the smaller first"),
        ({"image_range": (0.0, 1.0), "image_percentiles": (2.0, 98.0)}, "exclude each other"),
    ],
)
def test_ranges_that_are_none(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ReadOptions(**options)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_any_band_is_not_valid(tmp_path: Path, hole: float) -> None:
    pixels = ramp(np.float32, 200)
    pixels[1, 2, 3] = hole
    _, valid = image_of(tmp_path, pixels).read(ALL)
    assert not valid[2, 3]
    assert valid.sum() == 71


def test_a_nodata_value_asked_for_masks_too(tmp_path: Path) -> None:
    pixels = np.full((3, 8, 9), 100, np.uint8)
    pixels[:, 0, 0] = 255
    pixels[1, 5, 5] = 255  # one bright band is a colour
    _, valid = image_of(tmp_path, pixels, nodata_image=255.0).read(ALL)
    assert not valid[0, 0]
    assert valid.sum() == 71


def test_an_impossible_nodata_value_asked_for_is_no_pixel_value(tmp_path: Path) -> None:
    pixels = np.full((3, 8, 9), 100, np.int16)
    pixels[2, 0, 0] = -32768
    with pytest.raises(SceneError, match="pixel values reach -32768"):
        image_of(tmp_path / "plain", pixels).read(ALL)
    _, valid = image_of(tmp_path, pixels, nodata_image=-32768.0).read(ALL)
    assert valid.sum() == 71


def test_a_band_of_heights_is_no_colour_and_no_alpha(tmp_path: Path) -> None:
    pixels = np.full((4, 8, 9), 100, np.uint8)
    pixels[3, 4, 4] = 0  # a low place
    path = write_raster(tmp_path / "a.tif", pixels, **UTM)
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [*target.colorinterp[:3], ColorInterp.alpha]
    image = ImageBands(path, open_raster(path), 255.0, ReadOptions(), heights=4)
    assert image.bands == [1, 2, 3]
    assert image.read(ALL)[1].all()
    assert not ImageBands(path, open_raster(path), 255.0, ReadOptions()).read(ALL)[1].all()


def test_heights_may_be_any_band(tmp_path: Path) -> None:
    pixels = np.stack([np.full((8, 9), value, np.float32) for value in (300, 1, 2, 3)])
    image = image_of(tmp_path, pixels, heights=1)
    assert image.bands == [2, 3, 4]
    with pytest.raises(SceneError, match=r"has 2 bands .*heights aside"):
        image_of(tmp_path / "less", pixels[:3], heights=1)
