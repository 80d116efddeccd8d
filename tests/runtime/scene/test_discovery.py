"""Which files make a scene: folders with equal stems, one image with its DSM, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.scene.discovery import Scene, require_files, scenes_from


def folder(root: Path, *names: str) -> Path:
    for part in ("image", "dsm", "label"):
        (root / part).mkdir()
    for name in names:
        (root / name).touch()
    return root


def test_scenes_of_a_folder_in_order_of_their_names(tmp_path: Path) -> None:
    folder(tmp_path, "image/b.tif", "image/a.PNG", "dsm/a.tiff", "dsm/b.jpg", "label/a.png")
    first, second = scenes_from(tmp_path)
    assert first == Scene("a", tmp_path / "image/a.PNG", tmp_path / "dsm/a.tiff")
    assert second == Scene("b", tmp_path / "image/b.tif", tmp_path / "dsm/b.jpg")
    require_files(first)


def test_labelled_scenes(tmp_path: Path) -> None:
    folder(tmp_path, "image/a.tif", "dsm/a.tif", "label/a.png")
    (scene,) = scenes_from(tmp_path, labelled=True)
    assert scene.label == tmp_path / "label/a.png"


@pytest.mark.parametrize("stray", ["image/notes.txt", "image/.hidden.tif", "image/a.tif.aux.xml"])
def test_what_is_no_raster_is_no_scene(tmp_path: Path, stray: str) -> None:
    folder(tmp_path, "image/a.tif", "dsm/a.tif", stray)
    assert [scene.name for scene in scenes_from(tmp_path)] == ["a"]


def test_one_image_with_its_height_model(tmp_path: Path) -> None:
    image, dsm = tmp_path / "town.tif", tmp_path / "heights.tif"
    image.touch()
    assert scenes_from(image, dsm) == [Scene("town", image, dsm)]
    with pytest.raises(UsageError, match="add --dsm FILE"):
        scenes_from(image)


@pytest.mark.parametrize("part", ["dsm", "label"])
def test_a_scene_with_a_missing_part_is_listed_and_fails_by_itself(
    tmp_path: Path, part: str
) -> None:
    names = {"image/a.tif", "dsm/a.tif", "label/a.tif"} - {f"{part}/a.tif"}
    folder(tmp_path, *names, "image/b.tif", "dsm/b.tif", "label/b.tif")
    broken, whole = scenes_from(tmp_path, labelled=True)
    require_files(whole)
    with pytest.raises(SceneError, match=rf"{part}/a\.tif: scene 'a' has no {part} there"):
        require_files(broken)


def test_sources_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file or folder"):
        scenes_from(tmp_path / "none")
    with pytest.raises(UsageError, match="no folder image/"):
        scenes_from(tmp_path)
    folder(tmp_path)
    with pytest.raises(UsageError, match="no rasters"):
        scenes_from(tmp_path)
    with pytest.raises(UsageError, match="its own dsm/"):
        scenes_from(tmp_path, tmp_path / "dsm.tif")


def test_a_folder_without_labels_is_no_labelled_one(tmp_path: Path) -> None:
    folder(tmp_path, "image/a.tif", "dsm/a.tif")
    (tmp_path / "label").rmdir()
    assert len(scenes_from(tmp_path)) == 1
    with pytest.raises(UsageError, match="no folder label/"):
        scenes_from(tmp_path, labelled=True)


@pytest.mark.parametrize("part", ["image", "dsm"])
def test_two_files_of_one_stem(tmp_path: Path, part: str) -> None:
    folder(tmp_path, "image/a.tif", "dsm/a.tif", f"{part}/a.png")
    with pytest.raises(UsageError, match="same stem; keep one"):
        scenes_from(tmp_path)
