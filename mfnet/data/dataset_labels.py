"""Labels of training data as class indices, and class tables for data that names none.

Reads label rasters whole: they belong to training scenes, which fit into memory. Knows no splits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError

from mfnet_runtime.errors import MFNetError, SceneError, UsageError
from mfnet_runtime.labels import IGNORE, ClassTable, Colour, labels_from_colours
from mfnet_runtime.scene.reader import open_raster

LabelCoding = Literal["index", "colour"]
FOREIGN_SHARE = 0.01  # of the pixels may have a stray colour; Potsdam's own labels have a few
CLASSES_FILE = "classes.json"


def read_label(path: Path, coding: LabelCoding, classes: ClassTable) -> npt.NDArray[np.uint8]:
    """Class indices of a label raster.

    Args:
        path: A GeoTIFF, PNG or JPEG.
        coding: Whether pixels hold the class index or the class colour.
        classes: What the indices or colours mean.

    Returns:
        (row, column) class index; 255 where undefined: black or a stray colour, a negative
        index, the raster's nodata value, 255.

    Raises:
        SceneError: unreadable, of another coding, or with values that are no class.
    """
    with _opened(path) as raster:
        if coding == "colour":
            if raster.count < 3 or raster.dtypes[0] != "uint8":
                raise SceneError(
                    f"{path}: {raster.count} bands of {raster.dtypes[0]}; expected a colour-coded "
                    "label with 3 bands of uint8"
                )
            return _index_from_colour(path, raster.read((1, 2, 3)), classes)
        if raster.count != 1 or not np.issubdtype(np.dtype(raster.dtypes[0]), np.integer):
            raise SceneError(
                f"{path}: {raster.count} bands of {raster.dtypes[0]}; expected an index label "
                "with 1 band of integers"
            )
        values, nodata = raster.read(1), raster.nodata
    undefined = (values < 0) | (values == IGNORE)
    if nodata is not None:
        undefined |= values == nodata
    wrong = ~undefined & (values >= len(classes))
    if wrong.any():
        raise SceneError(
            f"{path}: class index {int(values[wrong][0])} at {int(wrong.sum())} pixels; expected "
            f"0 to {len(classes) - 1} ({classes.names[0]} to {classes.names[-1]}) or {IGNORE}"
        )
    return np.where(undefined, IGNORE, values).astype(np.uint8)


def label_coding(path: Path) -> LabelCoding:
    """How a label is coded: three bands are colours, one is indices.

    Raises:
        SceneError: unreadable.
    """
    with _opened(path) as raster:
        return "colour" if raster.count >= 3 else "index"


def classes_of_labels(paths: list[Path]) -> ClassTable:
    """Numbered classes up to the highest index in some labels, in their palette's colours.

    Raises:
        SceneError: a label is unreadable, or holds no class at all.
    """
    highest, colours = -1, None
    for path in paths:
        with _opened(path) as raster:
            for _, window in raster.block_windows(1):
                values = raster.read(1, window=window)
                known = values[(values >= 0) & (values < IGNORE) & (values != raster.nodata)]
                highest = max(highest, int(known.astype(np.int64).max(initial=-1)))
            if colours is None:
                colours = _palette(raster)
    if highest < 0:
        raise SceneError(f"{paths[0]}: no class in it nor in the other {len(paths) - 1} labels")
    count = highest + 1
    return ClassTable.numbered(count, colours[:count] if colours is not None else None)


def classes_from_file(path: Path) -> ClassTable:
    """The class table in a `classes.json`: a list of {"name", "colour"}.

    Raises:
        UsageError: unreadable or malformed.
    """
    try:
        return ClassTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, MFNetError) as fault:
        raise UsageError(
            f"{path}: {fault}; expected a JSON list of "
            '{"name": "water", "colour": [0, 0, 255]}, one per class in index order'
        ) from fault


def _index_from_colour(
    path: Path, rgb: npt.NDArray[np.uint8], classes: ClassTable
) -> npt.NDArray[np.uint8]:
    labels = labels_from_colours(rgb, classes)
    foreign = (labels == IGNORE) & rgb.any(0)
    if np.count_nonzero(foreign) > FOREIGN_SHARE * foreign.size:
        row, column = (int(places[0]) for places in np.nonzero(foreign))
        found = tuple(int(part) for part in rgb[:, row, column])
        raise SceneError(
            f"{path}: colour {found} at row {row}, column {column} is no class's, as are "
            f"{np.count_nonzero(foreign) / foreign.size:.0%} of the pixels; expected one of "
            f"{', '.join(str(colour) for colour in classes.colours)} or black"
        )
    return labels


def _palette(raster: Any) -> list[Colour] | None:
    try:
        table = raster.colormap(1)
    except ValueError:  # there is none
        return None
    return [table.get(index, (0, 0, 0, 255))[:3] for index in range(IGNORE)]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A raster open for reading; its faults become ours."""
    try:
        with open_raster(path) as raster:
            yield raster
    except (RasterioError, OSError) as fault:
        raise SceneError(f"{path}: cannot be read as a label: {fault}") from fault
