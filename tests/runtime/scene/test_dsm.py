"""A band of heights: which band, and which values are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from support import UTM, write_raster

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.dsm import HEIGHT_LIMITS, HeightBand
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader

HEIGHTS = np.linspace(100, 130, 72, dtype=np.float32).reshape(8, 9)


def rows_of(band: HeightBand, start: int, stop: int) -> Any:
    """Full rows."""
    return band.read(Window(0, start, band.dataset.width, stop - start))


def band_of(folder: Path, values: Any, *choice: Any, **profile: Any) -> HeightBand:
    path = write_raster(folder / "dsm.tif", values, **UTM, **profile)
    return HeightBand(path, open_raster(path), *choice)


def test_the_band_asked_for(tmp_path: Path) -> None:
    found = band_of(tmp_path, np.stack([HEIGHTS * 0, HEIGHTS]), 2)
    np.testing.assert_array_equal(rows_of(found, 2, 5)[0], HEIGHTS[2:5])
    np.testing.assert_array_equal(found.read(Window(3, 1, 4, 2))[0], HEIGHTS[1:3, 3:7])


@pytest.mark.parametrize("band", [0, 3, -1])
def test_no_such_band(tmp_path: Path, band: int) -> None:
    with pytest.raises(SceneError, match=rf"heights asked for in band {band}, the file has 2"):
        band_of(tmp_path, np.stack([HEIGHTS, HEIGHTS]), band)


@pytest.mark.parametrize("declared", [None, -9999.0])
@pytest.mark.parametrize("asked", [0.0, float("nan")])
def test_a_nodata_value_asked_for_is_added(
    tmp_path: Path, declared: float | None, asked: float
) -> None:
    values = HEIGHTS.copy()
    values[0, 0], values[1, 1] = 0.0, -9999.0
    _, valid = rows_of(band_of(tmp_path, values, None, asked, nodata=declared), 0, 8)
    assert not valid[1, 1]
    assert valid[0, 0] == (asked != 0.0)
    assert valid.sum() == (70 if asked == 0.0 else 71)


def test_a_nodata_value_is_of_what_is_stored(tmp_path: Path) -> None:
    """Heights packed into integers are compared before they are unpacked."""
    path = write_raster(tmp_path / "dsm.tif", np.arange(72, dtype=np.int16).reshape(8, 9), **UTM)
    with rasterio.open(path, "r+") as target:
        target.scales, target.offsets = (0.01,), (100.0,)
    heights, valid = rows_of(HeightBand(path, open_raster(path), None, 5.0), 0, 8)
    assert not valid[0, 5]
    assert valid.sum() == 71
    assert heights[0, 6] == pytest.approx(100.06)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("float32", -9999.0),
        ("float32", 115.0),
        ("float32", 131.5),
        ("float32", float("nan")),
        ("float32", -3.4028234663852886e38),
        ("float64", 1e300),
        ("int16", 0.0),
        ("int16", 130.5),
    ],
)
@pytest.mark.parametrize("within_rounding", [False, True])
def test_the_file_s_nodata_masks_as_gdal_says(
    tmp_path: Path, dtype: str, nodata: float, within_rounding: bool
) -> None:
    """Also where GDAL is not asked, and for values that differ from nodata by rounding only."""
    values = HEIGHTS.astype(dtype)
    if within_rounding:
        values[2, 2] = nodata * (1 - 1e-7)
    band = band_of(tmp_path, values, nodata=nodata)
    _, valid = rows_of(band, 0, 8)
    stated = band.dataset.read_masks(1) > 0
    low, high = HEIGHT_LIMITS
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(valid, stated & (values > low) & (values < high))


def test_values_beyond_float32_are_no_heights(tmp_path: Path) -> None:
    values = HEIGHTS.astype(np.float64)
    values[3, 3] = -1.7e308
    _, valid = rows_of(band_of(tmp_path, values), 0, 8)
    assert not valid[3, 3]
    assert valid.sum() == 71


def test_the_unit_as_stated(tmp_path: Path) -> None:
    found = band_of(tmp_path, HEIGHTS)
    assert found.unit is None
    with rasterio.open(found.path, "r+") as target:
        target.units = ["US survey foot"]
    assert HeightBand(found.path, open_raster(found.path)).unit == "US survey foot"


def test_heights_in_a_band_of_the_image(tmp_path: Path) -> None:
    pixels = np.stack([*(np.full((8, 9), value, np.float32) for value in (10, 20, 30)), HEIGHTS])
    path = write_raster(tmp_path / "a.tif", pixels, **UTM)
    with SceneReader(Scene("a", path, path, dsm_band=4)) as reader:
        rows = reader.read(2, 6)
        assert reader.image.bands == [1, 2, 3]
    np.testing.assert_array_equal(rows.image, pixels[:3, 2:6])
    np.testing.assert_array_equal(rows.dsm, HEIGHTS[2:6])
    with pytest.raises(SceneError, match=r"DSM has 4 bands, expected 1; .*--dsm-band"):
        SceneReader(Scene("a", path, path))
    with SceneReader(Scene("a", path, path, dsm_band=1), options=ReadOptions((2, 3, 4))) as reader:
        assert reader.read(0, 1).dsm[0, 0] == 10
