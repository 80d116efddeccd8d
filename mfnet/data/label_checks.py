"""Labels that would train or score a network silently wrong, and a table of what they hold.

A mask of 0 and 255, a nodata value that is a class, or a palette in another order than the class
table are read without an error, and mean something else than their author meant.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mfnet.data.datasets import Dataset
from mfnet.data.labels import Labels, palette_of
from mfnet_runtime.console import say
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.raster.limits import DEFAULT_LIMITS, RasterLimits
from mfnet_runtime.raster.open import open_raster

logger = logging.getLogger(__name__)

ROWS = 20  # scenes in the table; the others are added up
Split = Iterable[tuple[str, Labels]]  # name of a scene, and its label or a part of it


def check_labels(
    dataset: Dataset, training: Split, validation: Split | None, named: bool, allowed: bool
) -> None:
    """Print how many pixels each class has, and refuse labels that look wrong.

    Args:
        dataset: The scenes, and the meaning of their labels.
        training: Labels to train on.
        validation: Labels to validate on; None if they are read later.
        named: The class names are the user's, so that each should have a pixel.
        allowed: Report what looks wrong as warnings, and go on.

    Raises:
        UsageError: Says what looks wrong, and how to mend it.
    """
    counts = _counts(training, dataset.classes)
    splits = {"training": counts}
    if validation is not None:
        splits["validation"] = _counts(validation, dataset.classes)
    for line in table_lines(splits, dataset.classes):
        say(line)
    found = odd_labels(dataset)
    total = np.sum(list(counts.values()), axis=0)
    found += _missing_classes(total, dataset.classes, named)
    for text in found:
        if not allowed:
            raise UsageError(f"{text}; --allow-odd-labels goes on as it is")
        logger.warning("%s", text)


def odd_labels(dataset: Dataset) -> list[str]:
    """Return what is odd about the label files of a dataset; see `odd_values`."""
    if dataset.coding != "index":
        return []
    files = [scene.label for scene in (*dataset.train, *dataset.test) if scene.label is not None]
    return [
        text for path in files for text in odd_values(path, dataset.classes, dataset.read.limits)
    ]


def odd_values(
    path: Path, classes: ClassTable, limits: RasterLimits = DEFAULT_LIMITS
) -> Iterator[str]:
    """Yield what is odd about the values, nodata value and palette of an index label.

    Args:
        path: The raster.
        classes: Meaning of the indices.
        limits: Which files may be opened.
    """
    with open_raster(path, limits) as raster:
        nodata, palette = raster.nodata, palette_of(raster)
        counts = np.zeros(IGNORE + 1, np.int64)
        for _, window in raster.block_windows(1):
            values = raster.read(1, window=window)
            inside = values[(values >= 0) & (values <= IGNORE)]
            counts += np.bincount(inside.astype(np.int64), minlength=IGNORE + 1)
    share = counts / max(counts.sum(), 1)
    if nodata is not None and 0 <= nodata < len(classes) and share[int(nodata)]:
        index = int(nodata)
        yield (
            f"{path}: its nodata value {index} is the class '{classes.names[index]}', so "
            f"{share[index]:.1%} of the pixels count as unlabelled; if they are labelled, remove "
            f"the value: gdal_edit.py -unsetnodata {path.name}"
        )
    if nodata != IGNORE and IGNORE in np.argsort(counts)[-2:] and share[IGNORE]:
        yield (
            f"{path}: {share[IGNORE]:.1%} of the pixels are 255, which counts as unlabelled; if "
            f"255 is a class, give it the next index: gdal_calc.py -A {path.name} "
            f'--calc="where(A==255,{_free_index(counts)},A)" --outfile=mended.tif'
        )
    if palette:
        for index, colour in enumerate(classes.colours):
            if palette[index] != colour and palette[index] in classes.colours:
                other = classes.names[classes.colours.index(palette[index])]
                yield (
                    f"{path}: its palette gives index {index} the colour of '{other}', the class "
                    f"table calls it '{classes.names[index]}'; sort the classes as in the palette"
                )
                break


def table_lines(
    splits: Mapping[str, Mapping[str, npt.NDArray[np.int64]]], classes: ClassTable
) -> list[str]:
    """Return a table: labelled pixels by scene, and their share of each class.

    Args:
        splits: For each part of the data, the pixels of each class by scene.
        classes: Names of the columns.
    """
    width = max(len("validation, all"), *(len(name) for part in splits.values() for name in part))
    head = "".join(f"  {name[:12]:>12}" for name in classes.names)
    lines = [f"{'labelled pixels':<{width}}  {'pixels':>12}{head}"]
    for split, scenes in splits.items():
        shown = list(scenes.items())[:ROWS] if len(scenes) > 1 else []
        rows = [(name, counts) for name, counts in shown]
        if hidden := len(scenes) - len(shown) - (len(scenes) == 1):
            rows.append((f"and {hidden} more", np.sum(list(scenes.values())[ROWS:], axis=0)))
        rows.append((f"{split}, all", np.sum(list(scenes.values()), axis=0)))
        for name, counts in rows:
            total = int(np.sum(counts))
            shares = "".join(f"  {count / max(total, 1):>12.2%}" for count in counts)
            lines.append(f"{name:<{width}}  {total:>12,}{shares}")
    return lines


def _counts(split: Split, classes: ClassTable) -> dict[str, npt.NDArray[np.int64]]:
    """Return the pixels of each class by scene."""
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for name, label in split:
        found = np.bincount(label.ravel(), minlength=IGNORE + 1)[: len(classes)]
        counts[name] = counts.get(name, 0) + found
    return counts


def _missing_classes(
    counts: npt.NDArray[np.int64], classes: ClassTable, named: bool
) -> Iterator[str]:
    present = [name for name, count in zip(classes.names, counts, strict=True) if count]
    if len(present) == 1:
        yield (
            f"every labelled pixel of the training scenes is '{present[0]}', so there is nothing "
            "to learn; check the values of the labels with gdalinfo -hist"
        )
    elif named and len(present) < len(classes):
        missing = ", ".join(name for name in classes.names if name not in present)
        yield (
            f"no pixel of the training scenes is labelled as {missing}, which the network then "
            "never predicts; check classes.json against the labels, or add scenes"
        )


def _free_index(counts: npt.NDArray[np.int64]) -> int:
    """Return the index after the highest that occurs, without 255."""
    return int(np.flatnonzero(counts[:IGNORE]).max(initial=-1)) + 1
