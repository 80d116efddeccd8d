"""Synthetic towns: what draw_town promises, and the files that training and mfnet-run read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mfnet.data.datasets import dataset_from_folder
from mfnet.synthetic import NODATA, PIXEL, TOWN, TownScene, draw_town, write_town
from mfnet.synthetic.__main__ import main
from mfnet.synthetic.light import Sun, lambert, shadow, smooth_noise
from mfnet.synthetic.plan import plan_town
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.scene.discovery import scenes_from

GROUND, BUILDING, TREE, LOW, CAR, WATER = range(len(TOWN))


@pytest.fixture(scope="module")
def town() -> TownScene:
    return draw_town((512, 512), seed=7)


def test_a_town_has_every_class_on_one_grid(town: TownScene) -> None:
    assert town.image.shape == (3, 512, 512)
    assert town.image.dtype == np.uint8
    assert town.dsm.shape == town.label.shape == (512, 512)
    assert town.dsm.dtype == np.float32
    assert town.label.dtype == np.uint8
    share = np.bincount(town.label.ravel(), minlength=len(TOWN)) / town.label.size
    assert share.shape == (len(TOWN),)
    assert (share > 0.005).all(), dict(zip(TOWN.names, share, strict=True))


def test_heights_fit_the_classes(town: TownScene) -> None:
    height = {name: town.dsm[town.label == index] for index, name in enumerate(TOWN.names)}
    ground = float(np.median(height["ground"]))
    assert np.isfinite(town.dsm).all()
    assert 4 < np.median(height["building"]) - ground < 25
    assert 3 < np.median(height["tree"]) - ground < 15
    assert np.median(height["water"]) < ground - 1
    assert town.dsm.max() - ground < 40


def test_neither_band_nor_height_alone_tells_the_classes_apart(town: TownScene) -> None:
    # Roofs and streets look alike, cars and lawns are of one height: both inputs are needed.
    grey = town.image.mean(0)
    building, ground = grey[town.label == BUILDING], grey[town.label == GROUND]
    assert abs(np.median(building) - np.median(ground)) < ground.std() * 2
    lawn, street = (town.dsm[town.label == index] for index in (LOW, GROUND))
    assert abs(np.median(lawn) - np.median(street)) < 2


def test_equal_seeds_give_equal_towns() -> None:
    first, second, other = (draw_town((96, 128), seed) for seed in (5, 5, 6))
    for name in ("image", "dsm", "label"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.image != other.image).any()


@pytest.mark.parametrize("size", [(32, 32), (33, 190), (300, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_small_and_narrow_towns(size: tuple[int, int], seed: int) -> None:
    scene = draw_town(size, seed)
    assert scene.label.shape == size
    assert scene.label.max() < len(TOWN)


def test_a_size_below_the_smallest_is_refused() -> None:
    with pytest.raises(UsageError, match="31 x 64 px"):
        draw_town((31, 64), seed=1)


def test_nodata_is_ignored_in_the_label() -> None:
    scene = draw_town((128, 128), seed=3, nodata=True)
    unknown = scene.dsm == NODATA
    assert 0.01 < unknown.mean() < 0.1
    assert unknown[0, 0]
    np.testing.assert_array_equal(scene.label == IGNORE, unknown)


def test_written_scenes_are_read_by_the_runtime_and_the_trainer(tmp_path: Path) -> None:
    write_town(tmp_path, {"north": 1, "south": 2}, (96, 80), nodata=["south"])
    assert [scene.name for scene in scenes_from(tmp_path, labelled=True)] == ["north", "south"]
    table = ClassTable.from_json(json.loads((tmp_path / "classes.json").read_text()))
    assert table == TOWN
    assert dataset_from_folder(tmp_path).classes == TOWN
    expected = draw_town((96, 80), 2, nodata=True)
    with rasterio.open(tmp_path / "image" / "south.tif") as image:
        np.testing.assert_array_equal(image.read(), expected.image)
        assert (image.crs.to_epsg(), image.res) == (32632, (PIXEL, PIXEL))
        assert (image.profile["interleave"], image.profile["compress"]) == ("pixel", "deflate")
        assert image.profile["tiled"]
    with rasterio.open(tmp_path / "dsm" / "south.tif") as dsm:
        np.testing.assert_array_equal(dsm.read(1), expected.dsm)
        assert dsm.nodata == NODATA
        assert dsm.units == ("metre",)
    with rasterio.open(tmp_path / "label" / "south.tif") as label:
        np.testing.assert_array_equal(label.read(1), expected.label)
        assert label.colormap(1)[WATER] == (*TOWN.colours[WATER], 255)
        assert label.nodata == IGNORE


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        write_town(tmp_path / "file", {"a": 1}, (32, 32))


def test_command_writes_both_splits(tmp_path: Path) -> None:
    command = [str(tmp_path), "--train", "2", "--test", "1", "--size", "64", "--seed", "9"]
    assert main(command) == 0
    train, test = (scenes_from(tmp_path / part, labelled=True) for part in ("train", "test"))
    assert [scene.name for scene in train + test] == ["train_1", "train_2", "test_1"]
    with rasterio.open(train[0].dsm) as dsm:
        assert (dsm.read(1) == NODATA).any()  # the first scene shows gaps
    with rasterio.open(test[0].dsm) as dsm:
        assert not (dsm.read(1) == NODATA).any()


def test_knows_no_torch() -> None:
    code = "import mfnet.synthetic, mfnet.data.datasets, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_pole_casts_its_shadow_away_from_the_sun() -> None:
    surface = np.zeros((41, 41), np.float32)
    surface[20, 20] = 5
    dark = shadow(surface, pixel=1.0, sun=Sun(azimuth=180, elevation=45)) > 0.5
    rows, columns = np.nonzero(dark)
    assert set(columns) == {20}
    assert rows.min() == 20 - 4  # sun in the south at 45 degrees: 5 m north, the last one fading
    assert rows.max() == 19


def test_slopes_to_the_sun_are_brighter_and_walls_do_not_matter() -> None:
    sun = Sun(azimuth=180, elevation=45)
    southward = np.linspace(5, 0, 11, dtype=np.float32)[:, None] * np.ones((1, 5), np.float32)
    assert (lambert(southward, 1.0, sun) > 1.1).all()
    assert (lambert(southward[::-1], 1.0, sun) < 0.9).all()
    step = np.zeros((10, 10), np.float32)
    step[5:] = 8
    np.testing.assert_allclose(lambert(step, 1.0, sun), 1, atol=1e-6)


def test_noise_is_smooth_and_of_the_stated_strength() -> None:
    noise = smooth_noise(np.random.default_rng(1), (200, 300), 6)
    assert noise.shape == (200, 300)
    assert abs(noise.mean()) < 0.1
    assert 0.6 < noise.std() < 1.5
    assert np.abs(np.diff(noise, axis=0)).max() < 1


@pytest.mark.parametrize("seed", range(3))
def test_street_frame_and_raster_frame_invert_each_other(seed: int) -> None:
    plan = plan_town(np.random.default_rng(seed), (200.0, 260.0))
    for x, y in ((0.0, 0.0), (130.0, 90.0), (260.0, 200.0)):
        u, v = plan.uv_from_xy(np.array([x], np.float32), np.array([y], np.float32))
        assert plan.xy_from_uv(float(u[0]), float(v[0])) == pytest.approx((x, y), abs=0.05)
