from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from support import UTM, write_raster, write_scene

from mfnet.data.datasets import Dataset
from mfnet_export.validation import sample_windows as sample
from mfnet_export.validation.sample_windows import sample_windows
from mfnet_runtime.contract import Contract, DsmRule
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.scene.discovery import scenes_from
from mfnet_runtime.scene.options import ReadOptions

CONTRACT = Contract(32, ClassTable.numbered(3))


def test_synthetic_windows_are_scaled_and_repeat() -> None:
    first, second = sample_windows(CONTRACT, count=3), sample_windows(CONTRACT, count=3)
    assert first.source == "3 of a synthetic town, 2 of noise"
    assert (first.image.shape, first.dsm.shape) == ((5, 3, 32, 32), (5, 1, 32, 32))
    for name in ("image", "dsm"):
        array = getattr(first, name)
        assert array.dtype == np.float32
        assert 0 <= array.min() < array.max() <= 1
        assert len({window.tobytes() for window in array}) == 5  # no two alike
        np.testing.assert_array_equal(array, getattr(second, name))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_windows_of_scenes_are_the_runtimes(tmp_path: Path, count: int) -> None:
    for index, name in enumerate("abc"):
        write_scene(tmp_path / "scenes", name, 70, 100, seed=index)
    found = sample_windows(CONTRACT, tmp_path / "scenes", count)
    assert found.source == f"{count} of scenes, 2 of noise"
    assert found.image.shape == (count + 2, 3, 32, 32)
    assert found.dsm.min() >= 0
    assert found.dsm.max() <= 1


def test_the_dsm_is_scaled_over_the_scene_by_the_contracts_rule(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    image = np.full((3, 64, 64), 51, np.uint8)
    heights = np.repeat(np.arange(64, dtype=np.float32)[:, None], 64, axis=1)
    write_raster(scenes / "image" / "a.tif", image)
    write_raster(scenes / "dsm" / "a.tif", heights)
    found = sample_windows(CONTRACT, scenes, 4)
    assert found.dsm[0].max() < 0.5  # the upper half of the scene
    np.testing.assert_allclose(found.image[:4], 0.2, rtol=1e-6)
    ranged = Contract(32, ClassTable.numbered(3), dsm=DsmRule("range", 0, 630))
    assert sample_windows(ranged, scenes, 4).dsm[:4].max() == pytest.approx(0.1)


def test_windows_without_data_are_left_out(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    heights = np.full((64, 64), -9999, np.float32)
    heights[40:, 40:] = 5
    write_raster(scenes / "image" / "a.tif", np.ones((3, 64, 64), np.uint8))
    write_raster(scenes / "dsm" / "a.tif", heights, nodata=-9999)
    assert len(sample_windows(CONTRACT, scenes, 4)) == 1 + 2
    heights[:] = -9999
    write_raster(scenes / "dsm" / "a.tif", heights, nodata=-9999)
    with pytest.raises(UsageError, match="no window with a valid pixel"):
        sample_windows(CONTRACT, scenes, 4)


def test_published_datasets_have_scenes_to_train_and_to_test_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, name in enumerate("ab", 1):
        write_raster(tmp_path / f"image/{name}.tif", np.full((3, 40, 40), value, np.uint8))
        write_raster(tmp_path / f"dsm/{name}.tif", np.eye(40, dtype=np.float32))
    train, test = scenes_from(tmp_path)
    dataset = Dataset("made", ClassTable.numbered(3), [train], [test])
    monkeypatch.setattr(sample, "published_in", lambda *_: dataset)
    fit = sample.windows_from_folder(tmp_path, CONTRACT, 1, ReadOptions(), training=True)
    assert fit[0][0].max() == pytest.approx(1 / 255)
    assert sample_windows(CONTRACT, tmp_path, 1).image[0].max() == pytest.approx(2 / 255)


def test_a_scene_smaller_than_the_window_is_padded(tmp_path: Path) -> None:
    write_scene(tmp_path / "scenes", "a", 20, 25)
    assert sample_windows(CONTRACT, tmp_path / "scenes", 2).image.shape == (3, 3, 32, 32)


def test_bands_are_chosen_and_wrong_scenes_named(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    image = np.stack([np.full((40, 40), band * 51, np.uint8) for band in range(5)])
    write_raster(scenes / "image" / "a.tif", image)
    write_raster(scenes / "dsm" / "a.tif", np.eye(40, dtype=np.float32))
    found = sample_windows(CONTRACT, scenes, 1, ReadOptions((4, 2, 1)))
    np.testing.assert_allclose(found.image[0, :, 0, 0], [0.6, 0.2, 0.0], atol=1e-6)
    with pytest.raises(SceneError, match=r"a\.tif: has 5 bands"):
        sample_windows(CONTRACT, scenes, 1)
    with pytest.raises(UsageError, match="expected at least 1"):
        sample_windows(CONTRACT, scenes, 0)
    with pytest.raises(UsageError, match="nowhere: is not a file or folder"):
        sample_windows(CONTRACT, tmp_path / "nowhere")


def test_scenes_are_read_as_asked(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, height=32, width=32)
    coarse = {**UTM, "transform": UTM["transform"] @ Affine.scale(2)}
    write_raster(scene.dsm, np.arange(256, dtype=np.float32).reshape(16, 16), **coarse)
    with pytest.raises(SceneError, match="--align"):
        sample_windows(CONTRACT, tmp_path, 1)
    found = sample_windows(CONTRACT, tmp_path, 1, ReadOptions(align=True, resampling="nearest"))
    expected = np.arange(256).reshape(16, 16) / 255
    np.testing.assert_allclose(found.dsm[0, 0, ::2, ::2], expected, rtol=1e-6)
    trained = replace(CONTRACT, pixel_size=1.0)
    options = ReadOptions(align=True, resampling="nearest", resample_to="model")
    found = sample_windows(trained, tmp_path, 1, options)
    np.testing.assert_allclose(found.dsm[0, 0, :16, :16], expected, rtol=1e-6)
