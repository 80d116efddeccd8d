"""Synthetic towns: what draw_town promises, and the files that mfnet-train and mfnet-run read."""

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
from mfnet.synthetic.light import sunlight
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.scene.discovery import scenes_from


@pytest.fixture(scope="module")
def town() -> TownScene:
    return draw_town((512, 480), seed=7)


def test_a_town_has_every_class_on_one_grid(town: TownScene) -> None:
    assert town.image.shape == (3, 512, 480)
    assert town.dsm.shape == town.label.shape == (512, 480)
    kinds = [str(part.dtype) for part in (town.image, town.dsm, town.label)]
    assert kinds == ["uint8", "float32", "uint8"]
    share = np.bincount(town.label.ravel(), minlength=len(TOWN)) / town.label.size
    assert share.shape == (len(TOWN),)
    assert (share > 0.005).all(), dict(zip(TOWN.names, share, strict=True))


def test_both_inputs_are_needed_to_tell_the_classes_apart(town: TownScene) -> None:
    heights = [float(np.median(town.dsm[town.label == index])) for index in range(len(TOWN))]
    ground, building, tree, lawn, car, water = np.array(heights) - heights[0]
    assert 4 < building - ground < 25
    assert 3 < tree - ground < 15
    assert 0.5 < car - ground < 3
    assert abs(lawn - ground) < 2
    assert water < ground - 1
    assert np.ptp(town.dsm) < 45
    grey = town.image.mean(0)
    roofs, streets = (grey[town.label == TOWN.names.index(n)] for n in ("building", "ground"))
    assert abs(np.median(roofs) - np.median(streets)) < 2 * streets.std()


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
    assert np.isfinite(scene.dsm).all()


def test_too_small_a_size_is_refused() -> None:
    with pytest.raises(UsageError, match="64 x 31 px"):
        draw_town((31, 64), seed=1)


def test_written_scenes_are_read_by_the_runtime_and_the_trainer(tmp_path: Path) -> None:
    write_town(tmp_path, {"north": 1, "south": 2}, (96, 80), nodata=["south"])
    assert [scene.name for scene in scenes_from(tmp_path, labelled=True)] == ["north", "south"]
    table = ClassTable.from_json(json.loads((tmp_path / "classes.json").read_text()))
    assert table == dataset_from_folder(tmp_path).classes == TOWN
    expected = draw_town((96, 80), 2, nodata=True)
    unknown = expected.dsm == NODATA
    assert 0.01 < unknown.mean() < 0.1
    np.testing.assert_array_equal(expected.label == IGNORE, unknown)
    with rasterio.open(tmp_path / "image" / "south.tif") as image:
        np.testing.assert_array_equal(image.read(), expected.image)
        assert (image.crs.to_epsg(), image.res) == (32632, (PIXEL, PIXEL))
        assert (image.interleaving.name, image.compression.name) == ("pixel", "deflate")
    with rasterio.open(tmp_path / "dsm" / "south.tif") as dsm:
        np.testing.assert_array_equal(dsm.read(1), expected.dsm)
        assert (dsm.nodata, dsm.units) == (NODATA, ("metre",))
    with rasterio.open(tmp_path / "label" / "south.tif") as label:
        np.testing.assert_array_equal(label.read(1), expected.label)
        assert (label.nodata, label.colormap(1)[5]) == (IGNORE, (*TOWN.colours[5], 255))


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        write_town(tmp_path / "file", {"a": 1}, (32, 32))


def test_command_writes_both_splits(tmp_path: Path) -> None:
    command = [str(tmp_path), "--train", "2", "--test", "1", "--size", "64", "--seed", "9"]
    assert main(command) == 0
    train, test = (scenes_from(tmp_path / part, labelled=True) for part in ("train", "test"))
    assert [scene.name for scene in train + test] == ["train_1", "train_2", "test_1"]
    gaps = []
    for scene in train + test:
        with rasterio.open(scene.dsm) as dsm:
            gaps.append(bool((dsm.read(1) == NODATA).any()))
    assert gaps == [True, False, False]


def test_needs_no_torch() -> None:
    code = "import mfnet.synthetic, mfnet.data.datasets, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_light_and_shadow() -> None:
    sun = (180, 45)  # south, half way up
    surface = np.zeros((41, 41), np.float32)
    surface[20, 20] = 5
    rows, columns = np.nonzero(sunlight(surface, 1.0, sun) < 0.5)
    assert set(columns) == {20}
    assert (rows.min(), rows.max()) == (16, 19)  # 5 m to the north, the last one fading
    southward = np.linspace(5, 0, 11, dtype=np.float32)[:, None].repeat(5, 1)
    assert (sunlight(southward, 1.0, sun) > 1.1).all()
    assert (sunlight(southward[::-1], 1.0, sun)[2:] < 0.9).all()
