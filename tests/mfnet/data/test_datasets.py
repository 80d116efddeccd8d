"""Datasets: official layouts in miniature, plain folders, and labels of every coding."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from support import UTM, write_raster

from mfnet.checkpoints.checkpoint import load_checkpoint
from mfnet.cli import main
from mfnet.data.datasets import (
    MMHUNAN_TEST,
    POTSDAM_TEST,
    POTSDAM_TRAIN,
    VAIHINGEN_TEST,
    VAIHINGEN_TRAIN,
    dataset_from_folder,
    dataset_from_layout,
    published_in,
)
from mfnet.data.labels import LabelCoding, classes_from_labels, read_label
from mfnet.data.scenes import load_scene
from mfnet_bench.cli import main as bench
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.labels import IGNORE, ISPRS, MMHUNAN, ClassTable
from mfnet_runtime.scene.options import ReadOptions

Table = dict[int, tuple[int, int, int, int]]
SIDE = 40  # pixels
RNG = np.random.default_rng(0)


def image(bands: int = 3) -> Any:
    return RNG.integers(0, 255, (bands, SIDE, SIDE), dtype=np.uint8)


def heights(kind: Any = np.float32) -> Any:
    return RNG.uniform(200, 255, (SIDE, SIDE)).astype(kind)


def colour_label(eroded: bool = False) -> Any:
    """ISPRS colours; eroded labels are black where classes meet."""
    rgb = np.array(ISPRS.colours, np.uint8)[RNG.integers(0, 6, (5, 5)).repeat(8, 0).repeat(8, 1)]
    return rgb.transpose(2, 0, 1) * (np.arange(SIDE) % 8 > (1 if eroded else -1)).astype(np.uint8)


def vaihingen(root: Path) -> None:
    # DSMs lie half a pixel off in their header alone, as between pixel-is-point and pixel-is-area.
    off = {**UTM, "transform": from_origin(500000.25, 5400000, 0.5, 0.5)}
    for area in (VAIHINGEN_TRAIN + " " + VAIHINGEN_TEST).split():
        name = f"top_mosaic_09cm_area{area}"
        eroded = f"gts_eroded_for_participants/{name}_noBoundary.tif"
        write_raster(root / f"top/{name}.tif", image(), **UTM)
        write_raster(root / f"dsm/dsm_09cm_matching_area{area}.tif", heights(), **off)
        write_raster(root / f"gts_for_participants/{name}.tif", colour_label(), **UTM)
        write_raster(root / eroded, colour_label(True), **UTM)


def potsdam(root: Path, padded: bool = True) -> None:
    for tile in (POTSDAM_TRAIN + " " + POTSDAM_TEST).split():
        row, column = (int(part) for part in tile.split("_"))
        dsm_tile = f"{row:02}_{column:02}" if padded else tile
        dsm = f"1_DSM_normalisation/dsm_potsdam_{dsm_tile}_normalized_lastools.jpg"
        name = f"top_potsdam_{tile}"
        eroded = f"5_Labels_for_participants_no_Boundary/{name}_label_noBoundary.tif"
        # GDAL flags the infrared band of such a file as alpha.
        write_raster(root / f"4_Ortho_RGBIR/{name}_RGBIR.tif", image(4), **UTM)
        write_raster(root / dsm, heights(np.uint8))
        write_raster(root / f"5_Labels_for_participants/{name}_label.tif", colour_label(), **UTM)
        write_raster(root / eroded, colour_label(True), **UTM)


def mmhunan(root: Path, train: tuple[str, ...] = ("7", "1000", "30")) -> None:
    for chip in (*train, *MMHUNAN_TEST.split()):
        write_raster(root / f"images_png/{chip}.png", image())
        write_raster(root / f"dsm_pngs/{chip}.png", heights(np.uint8))
        label = RNG.integers(-1, 7, (SIDE, SIDE)).astype(np.int8)
        write_raster(root / f"masks_png/{chip}.tif", label)


@pytest.mark.parametrize(
    ("build", "train", "test", "classes", "coding", "stride", "steps", "bands"),
    [
        (vaihingen, 12, 4, ISPRS, "colour", 32, 1000, ("near infrared", "red", "green")),
        (potsdam, 18, 6, ISPRS, "colour", 128, 1000, ("red", "green", "blue")),
        (mmhunan, 3, 50, MMHUNAN, "index", 128, 500, ("red", "green", "blue")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_official_layouts(
    tmp_path: Path,
    build: Callable[[Path], None],
    train: int,
    test: int,
    classes: ClassTable,
    coding: str,
    stride: int,
    steps: int,
    bands: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, name, run = tmp_path / "data", build.__name__, tmp_path / "run"
    build(root)
    dataset = dataset_from_layout(name, root)
    assert published_in(root) == dataset
    assert (len(dataset.train), len(dataset.test)) == (train, test)
    assert (dataset.classes, dataset.coding) == (classes, coding)
    assert (dataset.stride, dataset.steps_per_epoch) == (stride, steps)
    assert (dataset.read.bands, dataset.band_names) == ((1, 2, 3), bands)
    assert not {s.name for s in dataset.train} & {s.name for s in dataset.test}
    eroded = ["noBoundary" in str(scene.label) for scene in dataset.train + dataset.test]
    assert eroded == [False] * train + [classes is ISPRS] * test
    words = (
        "--from-scratch --backbone tiny --window 32 --epochs 1 --steps 2 --batch 2 --threads 1 "
        "--device cpu"
    )
    assert main([str(root), "-o", str(run), "--dataset", name, *words.split()]) == 0
    contract = load_checkpoint(run / "best.pt").contract
    assert (contract.classes, contract.image.bands) == (classes, bands)
    capsys.readouterr()
    assert bench(["miou", str(run / "best.pt"), str(root), "--dataset", name, "--paper"]) == 0
    assert ("clutter (not in the means)" in capsys.readouterr().out) == (classes is ISPRS)


def test_parts_of_layouts(tmp_path: Path) -> None:
    potsdam(tmp_path / "p", padded=False)
    dsm = dataset_from_layout("potsdam", tmp_path / "p").train[0].dsm
    assert dsm.name == "dsm_potsdam_6_10_normalized_lastools.jpg"  # as well as 06_10
    mmhunan(tmp_path / "m")
    dataset = dataset_from_layout("mmhunan", tmp_path / "m")
    assert [scene.name for scene in dataset.train] == ["7", "30", "1000"]
    mmhunan(tmp_path / "none", train=())
    with pytest.raises(UsageError, match="only test chips"):
        dataset_from_layout("mmhunan", tmp_path / "none")


def test_missing_files_are_counted_and_three_are_named(tmp_path: Path) -> None:
    vaihingen(tmp_path)
    for area in ("1", "3", "23", "26"):
        (tmp_path / f"dsm/dsm_09cm_matching_area{area}.tif").unlink()
    with pytest.raises(UsageError, match=r"4 of 48 files are missing.*and 1 more") as fault:
        dataset_from_layout("vaihingen", tmp_path)
    assert str(fault.value).count("dsm_09cm_matching_area") == 3
    assert "gts_eroded_for_participants/" in str(fault.value)


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vaihingen, potsdam, mmhunan"):
        dataset_from_layout("berlin", tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        dataset_from_layout("potsdam", tmp_path / "none")


def write(path: Path, values: Any, palette: Table | None = None, **profile: Any) -> Path:
    """A label of (row, column) or (band, row, column) values."""
    write_raster(path, np.asarray(values), **(UTM if path.suffix == ".tif" else {}), **profile)
    if palette is not None:
        with rasterio.open(path, "r+") as raster:
            raster.write_colormap(1, palette)
    return path


def own(root: Path, palette: Table | None = None, **labels: Any) -> Path:
    """A plain folder; only labels are real rasters, nothing else is opened."""
    for name, values in labels.items():
        for part in ("image", "dsm"):
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / part / f"{name}.tif").touch()
        write(root / "label" / f"{name}.tif", values, palette)
    return root


ZEROS = np.zeros((8, 8), np.uint8)


def test_own_folder_with_class_names(tmp_path: Path) -> None:
    train, val = own(tmp_path / "train", a=ZEROS, b=ZEROS + 1), own(tmp_path / "val", c=ZEROS)
    table = ClassTable(("dry", "wet"), ((200, 180, 90), (0, 0, 255)))
    (train / "classes.json").write_text(json.dumps(table.to_json()))
    dataset = dataset_from_folder(train, validation=val)
    assert (dataset.name, dataset.classes) == ("train", table)
    assert [[s.name for s in part] for part in (dataset.train, dataset.test)] == [["a", "b"], ["c"]]
    assert dataset_from_folder(train).test == []


def test_own_folder_without_names_takes_number_and_colours_from_the_labels(tmp_path: Path) -> None:
    high = np.full((8, 8), 255, np.uint8)
    high[0, 0] = 2  # the highest index is in the validation folder
    colours: Table = {0: (1, 2, 3, 255), 1: (4, 5, 6, 255), 2: (7, 8, 9, 255)}
    train, val = own(tmp_path / "train", colours, a=ZEROS), own(tmp_path / "val", b=high)
    classes = dataset_from_folder(train, validation=val).classes
    assert classes.names == ("class_0", "class_1", "class_2")
    assert classes.colours == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert dataset_from_folder(val).classes.colours == ClassTable.numbered(3).colours
    with pytest.raises(SceneError, match="no class"):
        classes_from_labels([write(tmp_path / "a.tif", np.full((8, 8), -1, np.int8))])


def test_own_folder_of_colour_labels_needs_a_class_file(tmp_path: Path) -> None:
    own(tmp_path, a=np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(UsageError, match=r"classes\.json"):
        dataset_from_folder(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(ISPRS.to_json()), encoding="utf-8-sig")
    assert dataset_from_folder(tmp_path).coding == "colour"
    assert dataset_from_folder(tmp_path, classes=MMHUNAN).classes == MMHUNAN


def test_own_folder_of_other_formats(tmp_path: Path) -> None:
    root = own(tmp_path, a=ZEROS + 2)
    write_raster(root / "image/a.tif", np.zeros((3, 8, 8), np.uint8))
    (root / "dsm/a.tif").unlink()
    rows = "\n".join(["1.5 " * 8] * 8)
    header = "ncols 8\nnrows 8\nxllcorner 0\nyllcorner 0\ncellsize 1\n"
    (root / "dsm/a.asc").write_text(header + rows)
    read = ReadOptions(allow_driver=("AAIGrid",), use_place=False)
    dataset = dataset_from_folder(root, read=read)
    assert dataset.train[0].dsm.name == "a.asc"
    loaded = load_scene(dataset.train[0], dataset, 255.0)
    assert (loaded.data.dsm == 1.5).all()
    assert (loaded.label == 2).all()


def test_a_layout_fixes_the_bands(tmp_path: Path) -> None:
    potsdam(tmp_path)
    with pytest.raises(UsageError, match="--dataset fixes the bands"):
        dataset_from_layout("potsdam", tmp_path, ReadOptions((1, 2, 3)))
    read = dataset_from_layout("potsdam", tmp_path, ReadOptions(align=True, nodata_dsm=0)).read
    assert (read.bands, read.ignore_alpha, read.use_place) == ((1, 2, 3), True, False)
    assert (read.align, read.nodata_dsm, read.pixel_size) == (True, 0, 0.05)


@pytest.mark.parametrize("text", ["{", "[]", '[{"name": "a"}]', '{"a": 1}'])
def test_a_bad_class_file_is_named(tmp_path: Path, text: str) -> None:
    own(tmp_path, a=ZEROS)
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UsageError, match=r"classes\.json.*one per class"):
        dataset_from_folder(tmp_path)


def test_own_folder_with_a_missing_label(tmp_path: Path) -> None:
    own(tmp_path, a=ZEROS, b=ZEROS)
    (tmp_path / "label/b.tif").unlink()
    with pytest.raises(UsageError, match=r"1 of 6 files are missing: .*b\.tif"):
        dataset_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("undefined", "kind", "nodata"),
    [(-1, np.int8, None), (255, np.uint8, None), (99, np.uint8, 99), (-32768, np.int16, -32768)],
)
def test_index_labels(tmp_path: Path, undefined: int, kind: Any, nodata: float | None) -> None:
    path = write(tmp_path / "a.tif", np.array([[0, 6], [undefined, 3]], kind), nodata=nodata)
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
    with pytest.raises(SceneError, match=message):
        read_label(write(tmp_path / "a.tif", values), coding, MMHUNAN)


def damaged_labels(folder: Path) -> Iterator[Path]:
    (folder / "a.tif").write_bytes(b"no raster")
    yield folder / "a.tif"
    damaged = write(folder / "b.tif", np.zeros((64, 64), np.uint8), compress="deflate")
    damaged.write_bytes(damaged.read_bytes()[:-20] + b"\xff" * 12)
    yield damaged


def test_unreadable_labels(tmp_path: Path) -> None:
    for path in damaged_labels(tmp_path):
        with pytest.raises(SceneError, match=path.name):
            read_label(path, "index", MMHUNAN)
