"""Datasets: official layouts built in miniature, one's own folders, and labels of every coding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from mfnet.data.datasets import (
    MMHUNAN_TEST,
    POTSDAM_TEST,
    POTSDAM_TRAIN,
    VAIHINGEN_TEST,
    VAIHINGEN_TRAIN,
    dataset_from_folder,
    dataset_from_layout,
)
from mfnet.data.labels import LabelCoding, classes_from_labels, read_label
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.labels import IGNORE, ISPRS, MMHUNAN, ClassTable

Table = dict[int, tuple[int, int, int, int]]


def write(path: Path, values: Any, *, palette: Table | None = None, **profile: Any) -> Path:
    """A raster of (row, column) or (band, row, column) values."""
    bands = np.atleast_3d(values) if np.ndim(values) == 3 else np.asarray(values)[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    driver = {".tif": "GTiff", ".png": "PNG"}[path.suffix]
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=bands.dtype,
        crs="EPSG:32632" if driver == "GTiff" else None,
        transform=rasterio.Affine(2, 0, 0, 0, -2, 0), **profile,
    ) as raster:  # fmt: skip
        raster.write(bands)
        if palette is not None:
            raster.write_colormap(1, palette)
    Path(f"{path}.aux.xml").unlink(missing_ok=True)  # a PNG has no place, as in the benchmarks
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def vaihingen(root: Path) -> None:
    for area in (VAIHINGEN_TRAIN + " " + VAIHINGEN_TEST).split():
        stem = f"top_mosaic_09cm_area{area}"
        touch(
            root,
            f"top/{stem}.tif",
            f"dsm/dsm_09cm_matching_area{area}.tif",
            f"gts_for_participants/{stem}.tif",
            f"gts_eroded_for_participants/{stem}_noBoundary.tif",
        )


def potsdam(root: Path, *, padded: bool = True) -> None:
    for tile in (POTSDAM_TRAIN + " " + POTSDAM_TEST).split():
        row, column = (int(part) for part in tile.split("_"))
        dsm_tile = f"{row:02}_{column:02}" if padded else tile
        no_boundary = f"5_Labels_for_participants_no_Boundary/top_potsdam_{tile}_label_noBoundary"
        touch(
            root,
            f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif",
            f"1_DSM_normalisation/dsm_potsdam_{dsm_tile}_normalized_lastools.jpg",
            f"5_Labels_for_participants/top_potsdam_{tile}_label.tif",
            f"{no_boundary}.tif",
        )


def mmhunan(root: Path, train: tuple[str, ...] = ("7", "1000", "30")) -> None:
    for chip in (*train, *MMHUNAN_TEST.split()):
        touch(root, f"images_png/{chip}.png", f"dsm_pngs/{chip}.png", f"masks_png/{chip}.tif")


def own(root: Path, labels: dict[str, Any], *, palette: Table | None = None, **kind: Any) -> Path:
    """A folder of one's own; only labels are real rasters, nothing else is opened."""
    for name, values in labels.items():
        touch(root, f"image/{name}.tif", f"dsm/{name}.tif")
        write(root / "label" / f"{name}.tif", values, palette=palette, **kind)
    return root


@pytest.mark.parametrize(
    ("name", "build", "train", "test", "classes", "coding", "stride", "steps"),
    [
        ("vaihingen", vaihingen, 12, 4, ISPRS, "colour", 32, 1000),
        ("potsdam", potsdam, 18, 6, ISPRS, "colour", 128, 1000),
        ("mmhunan", mmhunan, 3, 50, MMHUNAN, "index", 128, 500),
    ],
)
def test_official_splits(
    tmp_path: Path,
    name: str,
    build: Callable[[Path], None],
    train: int,
    test: int,
    classes: ClassTable,
    coding: str,
    stride: int,
    steps: int,
) -> None:
    build(tmp_path)
    dataset = dataset_from_layout(name, tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (train, test)
    assert (dataset.classes, dataset.coding) == (classes, coding)
    assert (dataset.stride, dataset.steps_per_epoch) == (stride, steps)
    assert not {s.name for s in dataset.train} & {s.name for s in dataset.test}
    for scene in dataset.train + dataset.test:
        assert scene.label is not None
        assert all(path.is_file() for path in (scene.image, scene.dsm, scene.label))


def test_vaihingen_is_scored_on_eroded_labels_and_shows_infrared(tmp_path: Path) -> None:
    vaihingen(tmp_path)
    dataset = dataset_from_layout("vaihingen", tmp_path)
    assert dataset.band_names == ("near infrared", "red", "green")
    assert all("gts_for_participants" in str(scene.label) for scene in dataset.train)
    assert all("noBoundary" in str(scene.label) for scene in dataset.test)
    assert dataset.test[0].dsm.name == "dsm_09cm_matching_area5.tif"


@pytest.mark.parametrize("padded", [True, False])
def test_potsdam_heights_are_found_however_they_are_spelt(tmp_path: Path, padded: bool) -> None:
    potsdam(tmp_path, padded=padded)
    dataset = dataset_from_layout("potsdam", tmp_path)
    tile = "06_10" if padded else "6_10"
    assert dataset.train[0].dsm.name == f"dsm_potsdam_{tile}_normalized_lastools.jpg"
    assert dataset.bands == (1, 2, 3)
    assert not dataset.use_alpha  # the fourth band is infrared


def test_mmhunan_trains_on_every_other_chip_in_order(tmp_path: Path) -> None:
    mmhunan(tmp_path)
    assert [s.name for s in dataset_from_layout("mmhunan", tmp_path).train] == ["7", "30", "1000"]


def test_mmhunan_without_training_chips(tmp_path: Path) -> None:
    mmhunan(tmp_path, train=())
    with pytest.raises(UsageError, match="only test chips"):
        dataset_from_layout("mmhunan", tmp_path)


def test_missing_files_are_counted_and_three_are_named(tmp_path: Path) -> None:
    vaihingen(tmp_path)
    for area in ("1", "3", "23", "26"):
        (tmp_path / f"dsm/dsm_09cm_matching_area{area}.tif").unlink()
    with pytest.raises(UsageError) as fault:
        dataset_from_layout("vaihingen", tmp_path)
    message = str(fault.value)
    assert "4 of 48 files are missing" in message
    assert message.count("dsm_09cm_matching_area") == 3
    assert "and 1 more" in message
    assert "gts_eroded_for_participants/" in message


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vaihingen, potsdam, mmhunan"):
        dataset_from_layout("berlin", tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        dataset_from_layout("potsdam", tmp_path / "none")


def test_own_folder_with_class_names(tmp_path: Path) -> None:
    own(tmp_path / "train", {"a": np.zeros((8, 8), np.uint8), "b": np.ones((8, 8), np.uint8)})
    own(tmp_path / "val", {"c": np.zeros((8, 8), np.uint8)})
    table = ClassTable(("dry", "wet"), ((200, 180, 90), (0, 0, 255)))
    (tmp_path / "train" / "classes.json").write_text(json.dumps(table.to_json()))
    dataset = dataset_from_folder(tmp_path / "train", validation=tmp_path / "val")
    assert dataset.name == "train"
    assert dataset.classes == table
    assert [scene.name for scene in dataset.train] == ["a", "b"]
    assert [scene.name for scene in dataset.test] == ["c"]
    assert dataset_from_folder(tmp_path / "train").test == []


def test_own_folder_without_names_takes_number_and_colours_from_the_labels(tmp_path: Path) -> None:
    low, high = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    high[0, 0] = 2  # the highest index is in the validation folder
    colours: Table = {0: (1, 2, 3, 255), 1: (4, 5, 6, 255), 2: (7, 8, 9, 255)}
    train = own(tmp_path / "train", {"a": low}, palette=colours)
    val = own(tmp_path / "val", {"b": high})
    dataset = dataset_from_folder(train, validation=val)
    assert dataset.classes.names == ("class_0", "class_1", "class_2")
    assert dataset.classes.colours == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert dataset_from_folder(val).classes.colours == ClassTable.numbered(3).colours


def test_own_folder_of_colour_labels_needs_a_class_file(tmp_path: Path) -> None:
    rgb = np.zeros((3, 8, 8), np.uint8)
    own(tmp_path, {"a": rgb})
    with pytest.raises(UsageError, match=r"classes\.json"):
        dataset_from_folder(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(ISPRS.to_json()))
    assert dataset_from_folder(tmp_path).coding == "colour"
    assert dataset_from_folder(tmp_path, classes=MMHUNAN).classes == MMHUNAN


@pytest.mark.parametrize("text", ["{", "[]", '[{"name": "a"}]', '{"a": 1}'])
def test_a_bad_class_file_is_named(tmp_path: Path, text: str) -> None:
    own(tmp_path, {"a": np.zeros((8, 8), np.uint8)})
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UsageError, match=r"classes\.json.*one per class"):
        dataset_from_folder(tmp_path)


def test_own_folder_with_a_missing_label(tmp_path: Path) -> None:
    own(tmp_path, {"a": np.zeros((8, 8), np.uint8)})
    touch(tmp_path, "image/b.tif", "dsm/b.tif")
    with pytest.raises(UsageError, match=r"1 of 6 files are missing: .*b\.tif"):
        dataset_from_folder(tmp_path)


def test_labels_without_any_class(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((8, 8), -1, np.int8))
    with pytest.raises(SceneError, match="no class"):
        classes_from_labels([path])


@pytest.mark.parametrize(
    ("values", "nodata"),
    [
        (np.array([[0, 6], [-1, 3]], np.int8), None),
        (np.array([[0, 6], [255, 3]], np.uint8), None),
        (np.array([[0, 6], [99, 3]], np.uint8), 99),
        (np.array([[0, 6], [-32768, 3]], np.int16), -32768),
    ],
)
def test_index_labels(tmp_path: Path, values: Any, nodata: float | None) -> None:
    path = write(tmp_path / "a.tif", values, nodata=nodata)
    label = read_label(path, "index", MMHUNAN)
    assert label.dtype == np.uint8
    assert label.tolist() == [[0, 6], [IGNORE, 3]]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_colour_labels(tmp_path: Path, suffix: str) -> None:
    rgb = np.zeros((3, 20, 20), np.uint8)  # black: undefined
    rgb[:, :, 1] = np.array(ISPRS.colours[3])[:, None]
    rgb[:, 0, 2] = (252, 255, 0)  # one stray colour, as in Potsdam 4_12
    label = read_label(write(tmp_path / f"a{suffix}", rgb), "colour", ISPRS)
    assert (label[:, 1] == 3).all()
    assert (np.delete(label, 1, axis=1) == IGNORE).all()


@pytest.mark.parametrize(
    ("values", "coding", "message"),
    [
        (np.full((4, 4), 7, np.uint8), "index", "class index 7 at 16 pixels; expected 0 to 6"),
        (np.zeros((4, 4), np.float32), "index", "expected an index label with 1 band of integers"),
        (np.zeros((3, 4, 4), np.uint8), "index", "3 bands of uint8"),
        (np.zeros((4, 4), np.uint8), "colour", "expected a colour-coded label with 3 bands"),
        (np.full((3, 4, 4), 9, np.uint8), "colour", r"100% .* \(9, 9, 9\) at row 0, column 0"),
    ],
)
def test_labels_of_another_kind(
    tmp_path: Path, values: Any, coding: LabelCoding, message: str
) -> None:
    path = write(tmp_path / "a.tif", values)
    with pytest.raises(SceneError, match=message):
        read_label(path, coding, MMHUNAN)


def test_unreadable_labels(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"no raster")
    with pytest.raises(SceneError, match=r"a\.tif"):
        read_label(tmp_path / "a.tif", "index", MMHUNAN)
    damaged = write(tmp_path / "b.tif", np.zeros((64, 64), np.uint8), compress="deflate")
    content = bytearray(damaged.read_bytes())
    content[-20:] = b"\xff" * 20
    damaged.write_bytes(content[: len(content) - 8])
    with pytest.raises(SceneError, match=r"b\.tif"):
        read_label(damaged, "index", MMHUNAN)
