"""Scenes in memory, and the random windows cut from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import RGBD, UTM, write_raster, write_scene

from mfnet.data.datasets import Dataset
from mfnet.data.scenes import MemoryScene, count_classes, load_scene, open_labelled_scenes
from mfnet.training.options import TrainConfig
from mfnet.training.prepare import split_rows
from mfnet.training.sampling import WindowSampler
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import dsm_range, scale_dsm, scale_image
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader

CONTRACT = Contract(32, RGBD)


def dataset_of(scene: Scene) -> Dataset:
    return Dataset("test", RGBD, [scene], [])


def held(folder: Path, height: int = 40, width: int = 48) -> MemoryScene:
    scene = write_scene(folder, height=height, width=width, label=True)
    return load_scene(scene, dataset_of(scene), 255.0)


def sampler(scene: MemoryScene, **recipe: Any) -> WindowSampler:
    return WindowSampler([scene], CONTRACT, TrainConfig(**recipe))


def test_windows_are_scaled_as_the_runtime_scales(tmp_path: Path) -> None:
    """Every window must occur in the scene as the runtime would feed it to the network."""
    scene = held(tmp_path)
    batch = sampler(scene, batch=4, seed=0, flips=False).windows(0, 0)
    with SceneReader(Scene("a", tmp_path / "image/a.tif", tmp_path / "dsm/a.tif")) as reader:
        rows = reader.read(0, reader.height)
        image = scale_image(rows.image, rows.image_valid, CONTRACT.image)
        dsm = scale_dsm(rows.dsm, rows.dsm_valid, dsm_range(CONTRACT.dsm, reader.heights))
    for index in range(4):
        places = [
            (top, left)
            for top in range(9)
            for left in range(17)
            if np.array_equal(image[:, top : top + 32, left : left + 32], batch.image[index])
        ]
        assert len(places) == 1
        top, left = places[0]
        place = (slice(top, top + 32), slice(left, left + 32))
        np.testing.assert_array_equal(dsm[place], batch.dsm[index, 0])
        np.testing.assert_array_equal(scene.label[place], batch.label[index])


def test_batches_depend_on_seed_epoch_and_step_alone(tmp_path: Path) -> None:
    scene = held(tmp_path)
    first = sampler(scene, batch=3, seed=5)
    again = sampler(scene, batch=3, seed=5)
    again.windows(7, 7)  # what was drawn before does not matter
    np.testing.assert_array_equal(first.windows(2, 3).image, again.windows(2, 3).image)
    others = [first.windows(2, 4), first.windows(3, 3)]
    others.append(sampler(scene, batch=3, seed=6).windows(2, 3))
    for other in others:
        assert not np.array_equal(first.windows(2, 3).image, other.image)


def flipped(array: Any, axes: tuple[int, ...]) -> Any:
    return np.flip(array, axes)


def turned(array: Any, turns: int) -> Any:
    return np.rot90(array, turns, (-2, -1))


@pytest.mark.parametrize(
    ("recipe", "change", "kinds"),
    [
        ({"flips": True}, flipped, [(), (-1,), (-2,), (-2, -1)]),
        ({"flips": False, "rotations": True}, turned, [0, 1, 2, 3]),
    ],
    ids=["flips", "rotations"],
)
def test_image_dsm_and_label_are_changed_alike(
    tmp_path: Path, recipe: dict[str, Any], change: Callable[[Any, Any], Any], kinds: list[Any]
) -> None:
    scene = held(tmp_path, 32, 32)  # only one place
    plain = sampler(scene, batch=1, seed=0, flips=False).windows(0, 0)
    seen = set()
    for step in range(40):
        batch = sampler(scene, batch=1, seed=0, **recipe).windows(0, step)
        kind = next(k for k in kinds if np.array_equal(change(plain.image, k), batch.image))
        np.testing.assert_array_equal(change(plain.dsm, kind), batch.dsm)
        np.testing.assert_array_equal(change(plain.label, kind), batch.label)
        seen.add(kind)
    assert len(seen) == 4


def test_jitter_changes_values_and_not_places(tmp_path: Path) -> None:
    scene = held(tmp_path, 32, 32)
    plain = sampler(scene, batch=1, flips=False).windows(0, 0)
    batch = sampler(scene, batch=1, flips=False, jitter=0.2).windows(0, 0)
    np.testing.assert_array_equal(plain.label, batch.label)
    for before, after in ((plain.image, batch.image), (plain.dsm, batch.dsm)):
        inside = (after > 0) & (after < 1)
        gain, offset = np.polyfit(before[inside], after[inside], 1)
        assert 0.8 <= gain <= 1.2
        assert abs(offset) <= 0.2
        assert (gain, offset) != pytest.approx((1, 0))
        np.testing.assert_allclose(after[inside], gain * before[inside] + offset, atol=1e-4)
        assert after.min() >= 0
        assert after.max() <= 1


def test_small_scenes_are_padded_and_the_padding_is_ignored(tmp_path: Path) -> None:
    scene = held(tmp_path, 20, 25)
    batch = sampler(scene, batch=2, seed=0, flips=False).windows(0, 0)
    assert batch.image.shape == (2, 3, 32, 32)
    assert (batch.label[:, 20:] == 255).all()
    assert (batch.label[:, :20, 25:] == 255).all()
    np.testing.assert_array_equal(batch.label[0, :20, :25], scene.label)


def test_labels_are_ignored_where_there_is_no_data(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, label=True)
    heights = np.full((40, 48), 5, np.float32)
    heights[:7] = -9999
    write_raster(scene.dsm, heights, nodata=-9999, **UTM)
    label = load_scene(scene, dataset_of(scene), 255.0).label
    assert (label[:7] == 255).all()
    assert (label[7:] != 255).all()


def test_labels_are_ignored_outside_of_areas(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, label=True)
    left, top = UTM["transform"].c, UTM["transform"].f
    read = ReadOptions(bbox=(left, top - 5, left + 8, top))  # of 40 x 48 px of 0.5 m
    dataset = replace(dataset_of(scene), read=read)
    inside = np.zeros((40, 48), np.bool_)
    inside[:10, :16] = True
    loaded = load_scene(scene, dataset, 255.0)
    np.testing.assert_array_equal(loaded.label != 255, inside)
    np.testing.assert_array_equal(loaded.rows(5, 12).read(2, 7).inside, inside[7:12])
    (opened,) = open_labelled_scenes([scene], dataset, 255.0)
    np.testing.assert_array_equal(opened.label, loaded.label)


def test_a_part_keeps_the_statistics_of_the_whole(tmp_path: Path) -> None:
    scene = held(tmp_path)
    part = scene.rows(10, 20)
    assert (part.height, part.width) == (10, 48)
    assert dsm_range(CONTRACT.dsm, part.heights) == dsm_range(CONTRACT.dsm, scene.heights)
    np.testing.assert_array_equal(part.read(2, 5).image, scene.data.image[:, 12:15])
    expected = np.bincount(scene.label[10:20].ravel(), minlength=4)
    np.testing.assert_array_equal(count_classes([part, part], 4), 2 * expected)


@pytest.mark.parametrize(("share", "window", "bands"), [(0.2, 32, 1), (0.5, 32, 3), (0.01, 32, 1)])
def test_held_out_rows_are_spread_and_never_trained(
    tmp_path: Path, share: float, window: int, bands: int
) -> None:
    scene = held(tmp_path, height=200)
    trained, kept = split_rows(scene, share, window)
    assert len(kept) == bands
    assert sum(part.height for part in kept) == pytest.approx(200 * share, abs=bands)
    assert sum(part.height for part in trained + kept) == 200
    pieces = [part for pair in zip_longest(trained, kept) for part in pair if part is not None]
    whole = np.concatenate([part.data.image for part in pieces], axis=1)
    np.testing.assert_array_equal(whole, scene.data.image)


def test_a_holdout_of_nothing_or_all_is_refused(tmp_path: Path) -> None:
    for share in (0.0, 1.0, -0.5, 1e-4):
        with pytest.raises(UsageError, match="--holdout is"):
            split_rows(held(tmp_path), share, 32)


@pytest.mark.parametrize(
    ("shape", "place", "message"),
    [
        ((40, 47), UTM, r"label/a\.tif: is 47 x 40 px, a\.tif is 48 x 40 px"),
        ((40, 48), {**UTM, "crs": "EPSG:32633"}, r"label/a\.tif: CRS is .*32633"),
    ],
)
def test_label_on_another_grid_is_refused(
    tmp_path: Path, shape: tuple[int, int], place: dict[str, Any], message: str
) -> None:
    scene = write_scene(tmp_path, label=True)
    assert scene.label is not None
    write_raster(scene.label, np.zeros(shape, np.uint8), **place)
    with pytest.raises(SceneError, match=message):
        load_scene(scene, dataset_of(scene), 255.0)
