"""Datasets: which scenes to train and test on, and how to read their files.

There are the folder layouts and splits of three benchmarks, as published, and plain folders
`image/ dsm/ label/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfnet.data.labels import LabelCoding, classes_from_file, classes_from_labels, detect_coding
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ISPRS, MMHUNAN, ClassTable
from mfnet_runtime.scene.discovery import Scene, scenes_from

CLASSES_FILE = "classes.json"
VAIHINGEN_TRAIN = "1 3 23 26 7 11 13 28 17 32 34 37"
VAIHINGEN_TEST = "5 21 15 30"
POTSDAM_TRAIN = (
    "6_10 7_10 2_12 3_11 2_10 7_8 5_10 3_12 5_12 7_11 7_9 6_9 7_7 4_12 6_8 6_12 6_7 4_11"
)
POTSDAM_TEST = "4_10 5_11 2_11 3_10 6_11 7_12"
MMHUNAN_TEST = (
    "11767 11816 1239 12626 12815 1290 1303 13254 13257 13515 13765 14108 14293 15426 1625 16373 "
    "16750 16890 17039 17055 17107 17455 17821 17980 18958 1908 1923 20028 2106 21385 21423 22312 "
    "2256 2265 2442 2603 27264 28965 29287 30275 3280 4017 4166 4886 5215 5233 5410 639 7176 11624"
)


@dataclass(frozen=True)
class Dataset:
    """Labelled scenes and how to read them; scores are computed on the test scenes."""

    name: str
    classes: ClassTable
    train: list[Scene]
    test: list[Scene]  # empty without a validation folder
    bands: tuple[int, int, int] = (1, 2, 3)  # image bands, counted from 1, in network order
    band_names: tuple[str, str, str] = ("red", "green", "blue")
    coding: LabelCoding = "index"  # of every label
    use_alpha: bool = True  # False: an alpha band holds data (Potsdam's near infrared)
    use_place: bool = True  # False: files match pixel by pixel, whatever their headers say
    stride: int = 128  # pixels between validation windows while training
    test_stride: int = 32  # pixels between windows in the final test
    steps_per_epoch: int = 1000  # batches


def dataset_from_layout(name: str, root: Path) -> Dataset:
    """Find a benchmark in the folder layout of its distribution, with its published split.

    Args:
        name: vaihingen, potsdam or mmhunan.
        root: Folder that holds the distribution's own folders.

    Raises:
        UsageError: The name is unknown, or files are missing.
    """
    if name not in LAYOUTS:
        raise UsageError(f"dataset {name!r} is not one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise UsageError(f"{root}: not a folder; expected the {name} dataset there")
    return LAYOUTS[name](root)


def dataset_from_folder(
    root: Path,
    *,
    validation: Path | None = None,
    only: Sequence[str] = (),
    classes: ClassTable | None = None,
    bands: tuple[int, int, int] = (1, 2, 3),
) -> Dataset:
    """Find scenes in `image/ dsm/ label/` with equal stems.

    Args:
        root: Scenes to train on.
        validation: Another such folder, to test on.
        only: Names of the scenes of `root` to use; empty means all.
        classes: Meaning of the labels. By default it is read from `classes.json` in `root`, or
            classes are numbered up to the highest index in any label.
        bands: Image bands to use, counted from 1.

    Raises:
        UsageError: Folders or files are missing, `classes.json` is malformed, or labels are
            colour-coded without one.
        SceneError: A label cannot be read.
    """
    layout = "image/, dsm/ and label/ with equal stems"
    train = _require(scenes_from(root, labelled=True, only=only), root, layout)
    test = []
    if validation is not None:
        test = _require(scenes_from(validation, labelled=True), validation, layout)
    labels = [scene.label for scene in train + test if scene.label is not None]
    coding = detect_coding(labels[0])
    if classes is None and (root / CLASSES_FILE).is_file():
        classes = classes_from_file(root / CLASSES_FILE)
    if classes is None and coding == "colour":
        raise UsageError(
            f"{labels[0]}: colour-coded, but nothing says which colour is which class; add "
            f'{root / CLASSES_FILE} with a list of {{"name": "water", "colour": [0, 0, 255]}}'
        )
    first, second, third = (f"band {band}" for band in bands)
    return Dataset(
        name=root.resolve().name,
        classes=classes or classes_from_labels(labels),
        train=train,
        test=test,
        bands=bands,
        band_names=Dataset.band_names if bands == Dataset.bands else (first, second, third),
        coding=coding,
    )


def _vaihingen(root: Path) -> Dataset:
    full = "gts_for_participants/top_mosaic_09cm_area{}.tif"
    eroded = "gts_eroded_for_participants/top_mosaic_09cm_area{}_noBoundary.tif"

    def scene(area: str, label: str) -> Scene:
        image = root / f"top/top_mosaic_09cm_area{area}.tif"
        dsm = root / f"dsm/dsm_09cm_matching_area{area}.tif"
        return Scene(image.stem, image, dsm, root / label.format(area))

    train = [scene(area, full) for area in VAIHINGEN_TRAIN.split()]
    test = [scene(area, eroded) for area in VAIHINGEN_TEST.split()]
    layout = "top/, dsm/, gts_for_participants/ and gts_eroded_for_participants/ as from ISPRS"
    _require(train + test, root, layout)
    return Dataset(
        name="vaihingen",
        classes=ISPRS,
        train=train,
        test=test,
        band_names=("near infrared", "red", "green"),
        coding="colour",
        use_place=False,
        stride=32,
    )


def _potsdam(root: Path) -> Dataset:
    full = "5_Labels_for_participants/top_potsdam_{}_label.tif"
    eroded = "5_Labels_for_participants_no_Boundary/top_potsdam_{}_label_noBoundary.tif"

    def scene(tile: str, label: str) -> Scene:
        image = root / f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif"
        row, column = tile.split("_")
        # ISPRS pads the numbers in DSM names only: 06_10, and 06_07.
        spellings = (f"{int(row):02}_{int(column):02}", f"{int(row):02}_{column}", tile)
        dsms = [
            root / f"1_DSM_normalisation/dsm_potsdam_{spelling}_normalized_lastools.jpg"
            for spelling in spellings
        ]
        dsm = next((path for path in dsms if path.is_file()), dsms[0])
        return Scene(image.stem, image, dsm, root / label.format(tile))

    train = [scene(tile, full) for tile in POTSDAM_TRAIN.split()]
    test = [scene(tile, eroded) for tile in POTSDAM_TEST.split()]
    layout = (
        "4_Ortho_RGBIR/, 1_DSM_normalisation/, 5_Labels_for_participants/ and "
        "5_Labels_for_participants_no_Boundary/ as from ISPRS"
    )
    _require(train + test, root, layout)
    return Dataset(
        name="potsdam",
        classes=ISPRS,
        train=train,
        test=test,
        coding="colour",
        use_alpha=False,
        use_place=False,
    )


def _mmhunan(root: Path) -> Dataset:
    def scene(chip: str) -> Scene:
        image = root / f"images_png/{chip}.png"
        return Scene(chip, image, root / f"dsm_pngs/{chip}.png", root / f"masks_png/{chip}.tif")

    held_out = MMHUNAN_TEST.split()
    found = {path.stem for path in (root / "images_png").glob("*.png")}
    chips = sorted(found - set(held_out), key=lambda chip: (len(chip), chip))
    train, test = [scene(chip) for chip in chips], [scene(chip) for chip in held_out]
    _require(train + test, root, "images_png/ID.png, dsm_pngs/ID.png and masks_png/ID.tif")
    if not train:
        raise UsageError(f"{root / 'images_png'}: only test chips in it; expected others to train")
    return Dataset(
        name="mmhunan",
        classes=MMHUNAN,
        train=train,
        test=test,
        test_stride=128,
        steps_per_epoch=500,
    )


LAYOUTS: dict[str, Callable[[Path], Dataset]] = {
    "vaihingen": _vaihingen,
    "potsdam": _potsdam,
    "mmhunan": _mmhunan,
}


def _require(scenes: Sequence[Scene], root: Path, layout: str) -> list[Scene]:
    """Return the scenes if all their files exist; otherwise count the missing ones."""
    wanted = [path for scene in scenes for path in (scene.image, scene.dsm, scene.label) if path]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        named = ", ".join(str(path) for path in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(
            f"{root}: {len(missing)} of {len(wanted)} files are missing: {named}{more}; "
            f"expected {layout}"
        )
    return list(scenes)
