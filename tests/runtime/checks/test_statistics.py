"""Statistics of rasters, whole or sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from support import UTM, write_raster

from mfnet_runtime.checks import statistics
from mfnet_runtime.checks.statistics import Sampling, dsm_statistics, image_statistics
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.options import ReadOptions

ALL = Sampling(1 << 20, 64)


@pytest.mark.parametrize("kept", [1 << 20, 1000])
def test_statistics_of_valid_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """From a few pieces as from one; percentiles from a part of the pixels."""
    monkeypatch.setattr("mfnet_runtime.raster.open.PIECE", 900)
    monkeypatch.setattr(statistics, "MOST_KEPT", kept)
    pixels = np.random.default_rng(0).integers(1, 250, (3, 90, 70)).astype(np.float32)
    pixels[:, 0], pixels[1, 1, 0] = 0, np.nan
    path = write_raster(tmp_path / "a.tif", pixels, nodata=0, **UTM)
    with open_raster(path) as dataset:
        image = ImageBands(path, dataset, 255.0, ReadOptions())
        found = image_statistics(image, ReadOptions(), ALL)
    valid = pixels[:, 1:].reshape(3, -1)[:, 1:]
    assert (found.share, found.valid) == (1.0, valid.shape[1] / 6300)
    assert found.masked == {"nodata value 0": 70 / 6300, "NaN or infinite": 1 / 6300}
    assert (found.low, found.high) == (tuple(valid.min(axis=1)), tuple(valid.max(axis=1)))
    low, high = np.percentile(valid, (1, 99), axis=1)
    slack = 0 if kept > 6300 else 15
    assert found.common == pytest.approx((low.min(), high.max()), abs=slack)


def test_statistics_of_heights(tmp_path: Path) -> None:
    heights = np.arange(80, dtype=np.float32).reshape(8, 10)
    heights[0, :2], heights[0, 2:5] = (np.inf, -9999), 5e6
    path = write_raster(tmp_path / "a.tif", heights, nodata=-9999, **UTM)
    with open_raster(path) as dataset:
        found = dsm_statistics(HeightBand(path, dataset, nodata=79.0), ALL)
    assert (found.low, found.high, found.sample.shape) == ((5.0,), (78.0,), (1, 74))
    causes = ("NaN or infinite", "nodata value -9999", statistics.NO_HEIGHT, "--nodata-dsm 79")
    shares = dict(zip(causes, (1 / 80, 1 / 80, 3 / 80, 1 / 80), strict=True))
    assert found.masked == shares


@pytest.mark.parametrize("profile", [{"tiled": True, "blockxsize": 16, "blockysize": 16}, {}])
def test_a_large_raster_is_sampled_all_over(tmp_path: Path, profile: dict[str, int]) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((700, 500), np.uint8), **profile, **UTM)
    with rasterio.open(path) as dataset:
        windows = Sampling(256 * 256, 16).windows(dataset)
        assert len(Sampling(700 * 500, 16).windows(dataset)) == 1
    assert sum(window.width * window.height for window in windows) <= 256 * 256
    assert len(windows) == 256 if profile else {window.width for window in windows} == {500}
    assert (windows[0].row_off, windows[0].col_off) == (0, 0)
    last = windows[-1]
    assert (last.row_off + last.height, last.col_off + last.width) == (700, 500)
    inner = [one for one in windows if one.row_off < 684 and one.col_off < 484]
    assert not profile or all(one.col_off % 16 == one.row_off % 16 == 0 for one in inner)
