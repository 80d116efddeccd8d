"""Datasets: which scenes to train and test on, and how to read their files.

There are the splits of three published datasets and plain folders `image/ dsm/ label/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfnet.data.labels import LabelCoding, classes_from_file, classes_from_labels, detect_coding
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.scene.discovery import Scene, scenes_from
from mfnet_runtime.scene.layouts import LAYOUTS, Layout, layout_in
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS

CLASSES_FILE = "classes.json"
DEFAULT_BANDS = (1, 2, 3)
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
    read: ReadOptions = DEFAULT_OPTIONS  # how the scenes' files are read
    band_names: tuple[str, str, str] = ("red", "green", "blue")  # in network order
    coding: LabelCoding = "index"  # of every label
    stray: int = IGNORE  # class of colours that belong to none; the published code says 0
    stride: int = 128  # pixels between validation windows while training
    test_stride: int = 32  # pixels between windows in the final test
    steps_per_epoch: int = 1000  # batches


def dataset_from_layout(name: str, root: Path, read: ReadOptions = DEFAULT_OPTIONS) -> Dataset:
    """Find a benchmark in the folder layout of its distribution, with its published split.

    Args:
        name: vaihingen, potsdam or mmhunan.
        root: Folder that holds the distribution's own folders.
        read: How to read scenes, without what the layout fixes.

    Raises:
        UsageError: The name is unknown, files are missing, or `read` chooses other bands.
    """
    if name not in SPLITS:
        raise UsageError(f"dataset {name!r} is not one of {', '.join(SPLITS)}")
    if not root.is_dir():
        raise UsageError(f"{root}: not a folder; expected the {name} dataset there")
    if read.bands:
        raise UsageError("--dataset fixes the bands; leave --bands out")
    return replace(SPLITS[name](root), read=LAYOUTS[name].read_options(read))


def published_in(root: Path, read: ReadOptions = DEFAULT_OPTIONS) -> Dataset | None:
    """Return the published dataset whose layout a folder has; None if it has none.

    Raises:
        UsageError: Files of the dataset are missing, or `read` chooses other bands.
    """
    layout = layout_in(root)
    return dataset_from_layout(layout.name, root, read) if layout else None


def dataset_from_folder(
    root: Path,
    *,
    validation: Path | None = None,
    only: Sequence[str] = (),
    classes: ClassTable | None = None,
    read: ReadOptions = DEFAULT_OPTIONS,
) -> Dataset:
    """Find scenes in `image/ dsm/ label/` with equal stems.

    Args:
        root: Scenes to train on.
        validation: Another such folder, to test on.
        only: Names of the scenes of `root` to use; empty means all.
        classes: Meaning of the labels. By default it is read from `classes.json` in `root`, or
            classes are numbered up to the highest index in any label.
        read: How to read scenes.

    Raises:
        UsageError: Folders or files are missing, `classes.json` is malformed, or labels are
            colour-coded without one.
        SceneError: A label cannot be read.
    """
    layout = "image/, dsm/ and label/ with equal stems"
    found = scenes_from(root, labelled=True, only=only, drivers=read.allow_driver)
    train = _require(found, root, layout)
    test = []
    if validation is not None:
        found = scenes_from(validation, labelled=True, drivers=read.allow_driver)
        test = _require(found, validation, layout)
    labels = [scene.label for scene in train + test if scene.label is not None]
    coding = detect_coding(labels[0], read.limits)
    if classes is None and (root / CLASSES_FILE).is_file():
        classes = classes_from_file(root / CLASSES_FILE)
    if classes is None and coding == "colour":
        raise UsageError(
            f"{labels[0]}: colour-coded, but nothing says which colour is which class; add "
            f'{root / CLASSES_FILE} with a list of {{"name": "water", "colour": [0, 0, 255]}}'
        )
    band_names = Dataset.band_names
    if read.bands and tuple(read.bands) != DEFAULT_BANDS:
        first, second, third = (f"band {band}" for band in read.bands)
        band_names = first, second, third
    return Dataset(
        name=root.resolve().name,
        classes=classes or classes_from_labels(labels, read.limits),
        train=train,
        test=test,
        read=read,
        band_names=band_names,
        coding=coding,
    )


def _vaihingen(root: Path) -> Dataset:
    return _dataset(
        LAYOUTS["vaihingen"],
        root,
        (VAIHINGEN_TRAIN.split(), "gts_for_participants/top_mosaic_09cm_area{}.tif"),
        (
            VAIHINGEN_TEST.split(),
            "gts_eroded_for_participants/top_mosaic_09cm_area{}_noBoundary.tif",
        ),
        coding="colour",
        stride=32,
    )


def _potsdam(root: Path) -> Dataset:
    return _dataset(
        LAYOUTS["potsdam"],
        root,
        (POTSDAM_TRAIN.split(), "5_Labels_for_participants/top_potsdam_{}_label.tif"),
        (
            POTSDAM_TEST.split(),
            "5_Labels_for_participants_no_Boundary/top_potsdam_{}_label_noBoundary.tif",
        ),
        coding="colour",
    )


def _mmhunan(root: Path) -> Dataset:
    layout, label, held_out = LAYOUTS["mmhunan"], "masks_png/{}.tif", MMHUNAN_TEST.split()
    chips = sorted(set(layout.tiles(root)) - set(held_out), key=lambda chip: (len(chip), chip))
    dataset = _dataset(
        layout, root, (chips, label), (held_out, label), test_stride=128, steps_per_epoch=500
    )
    if not chips:
        raise UsageError(f"{root / 'images_png'}: only test chips in it; expected others to train")
    return dataset


SPLITS: dict[str, Callable[[Path], Dataset]] = {
    "vaihingen": _vaihingen,
    "potsdam": _potsdam,
    "mmhunan": _mmhunan,
}


def _dataset(
    layout: Layout,
    root: Path,
    train: tuple[Sequence[str], str],
    test: tuple[Sequence[str], str],
    **more: Any,
) -> Dataset:
    """Make a dataset of the tiles to train and to test on, each with the path of their labels.

    Raises:
        UsageError: Files are missing.
    """

    def scenes(tiles: Sequence[str], label: str) -> list[Scene]:
        files = [(tile, *layout.files(root, tile)) for tile in tiles]
        return [
            Scene(image.stem, image, dsm, root / label.format(tile)) for tile, image, dsm in files
        ]

    both = scenes(*train), scenes(*test)
    paths = (layout.image, layout.dsm, *dict.fromkeys((train[1], test[1])))
    folders = ", ".join(f"{Path(path).parent}/" for path in paths)
    _require(both[0] + both[1], root, f"{folders} as distributed")
    return Dataset(
        name=layout.name,
        classes=layout.classes,
        train=both[0],
        test=both[1],
        band_names=layout.band_names,
        **more,
    )


def _require(scenes: Sequence[Scene], root: Path, layout: str) -> list[Scene]:
    """Return the scenes if all their files exist; otherwise count the missing ones."""
    wanted = [path for scene in scenes for path in (scene.image, scene.dsm, scene.label) if path]
    missing = [path for path in wanted if isinstance(path, Path) and not path.is_file()]
    if missing:
        named = ", ".join(str(path) for path in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(
            f"{root}: {len(missing)} of {len(wanted)} files are missing: {named}{more}; "
            f"expected {layout}"
        )
    return list(scenes)
