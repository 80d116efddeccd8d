"""Label rasters as class indices, and class tables for data that comes without one.

Label rasters are read whole: they belong to training scenes, which fit into memory.
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
from mfnet_runtime.raster.limits import DEFAULT_LIMITS, RasterLimits
from mfnet_runtime.raster.open import open_raster

Labels = npt.NDArray[np.uint8]  # (row, column) class index, IGNORE where undefined
LabelCoding = Literal["index", "colour"]
MAX_STRAY = 0.01  # share of pixels that may have a stray colour; Potsdam's own labels have a few


def read_label(
    path: Path,
    coding: LabelCoding,
    classes: ClassTable,
    limits: RasterLimits = DEFAULT_LIMITS,
    stray: int = IGNORE,
) -> Labels:
    """Read a label raster as class indices.

    Args:
        path: A raster of one of the allowed formats.
        coding: Kind of pixel values: class indices or class colours.
        classes: Meaning of the indices or colours.
        limits: Which files may be opened.
        stray: Class of colours that belong to none, other than black.

    Returns:
        (row, column) class index; 255 for black, a negative index, the raster's nodata value, and
        255; `stray` for a stray colour.

    Raises:
        SceneError: The raster is unreadable, of another coding, or has values that are no class.
    """
    with _open(path, limits) as raster:
        if coding == "colour":
            if raster.count < 3 or raster.dtypes[0] != "uint8":
                raise SceneError(
                    f"{path}: {raster.count} bands of {raster.dtypes[0]}; expected a colour-coded "
                    "label with 3 bands of uint8"
                )
            return _indices_from_colours(path, raster.read((1, 2, 3)), classes, stray)
        if raster.count != 1 or not np.issubdtype(np.dtype(raster.dtypes[0]), np.integer):
            raise SceneError(
                f"{path}: {raster.count} bands of {raster.dtypes[0]}; expected an index label "
                "with 1 band of integers"
            )
        values, nodata = raster.read(1), raster.nodata
    undefined = (values < 0) | (values == IGNORE) | (values == nodata)
    wrong = ~undefined & (values >= len(classes))
    if wrong.any():
        raise SceneError(
            f"{path}: class index {int(values[wrong][0])} at {int(wrong.sum())} pixels; expected "
            f"0 to {len(classes) - 1} ({classes.names[0]} to {classes.names[-1]}) or {IGNORE}"
        )
    return np.where(undefined, IGNORE, values).astype(np.uint8)


def detect_coding(path: Path, limits: RasterLimits = DEFAULT_LIMITS) -> LabelCoding:
    """Tell how a label is coded: three bands hold colours, one band holds indices.

    Raises:
        SceneError: The label is unreadable.
    """
    with _open(path, limits) as raster:
        return "colour" if raster.count >= 3 else "index"


def classes_from_labels(paths: list[Path], limits: RasterLimits = DEFAULT_LIMITS) -> ClassTable:
    """Number the classes up to the highest index in some labels; colours are the first palette's.

    Raises:
        SceneError: A label is unreadable, or no label holds a class.
    """
    highest, colours = -1, None
    for path in paths:
        with _open(path, limits) as raster:
            for _, window in raster.block_windows(1):
                values = raster.read(1, window=window)
                known = values[(values >= 0) & (values < IGNORE) & (values != raster.nodata)]
                highest = max(highest, int(known.astype(np.int64).max(initial=-1)))
            colours = colours or palette_of(raster)
    if highest < 0:
        raise SceneError(f"{paths[0]}: no class in it nor in the other {len(paths) - 1} labels")
    return ClassTable.numbered(highest + 1, colours[: highest + 1] if colours else None)


def classes_from_file(path: Path) -> ClassTable:
    """Read a class table, a JSON list of {"name", "colour"}.

    Raises:
        UsageError: The file is unreadable or malformed.
    """
    try:
        return ClassTable.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, MFNetError) as fault:
        raise UsageError(
            f"{path}: {fault}; expected a JSON list of "
            '{"name": "water", "colour": [0, 0, 255]}, one per class in index order'
        ) from fault


def _indices_from_colours(path: Path, rgb: Labels, classes: ClassTable, stray: int) -> Labels:
    labels = labels_from_colours(rgb, classes)
    other = (labels == IGNORE) & rgb.any(0)
    labels[other] = stray
    if np.count_nonzero(other) > MAX_STRAY * other.size:
        row, column = (int(places[0]) for places in np.nonzero(other))
        found = tuple(int(part) for part in rgb[:, row, column])
        raise SceneError(
            f"{path}: {np.count_nonzero(other) / other.size:.0%} of the pixels have a colour of no "
            f"class, the first is {found} at row {row}, column {column}; expected one of "
            f"{', '.join(str(colour) for colour in classes.colours)} or black"
        )
    return labels


def palette_of(raster: Any) -> list[Colour] | None:
    """Return the colours of indices 0 to 254 of an open raster, or None without a palette."""
    try:
        table = raster.colormap(1)
    except ValueError:  # the raster has no palette
        return None
    return [table.get(index, (0, 0, 0))[:3] for index in range(IGNORE)]


@contextmanager
def _open(path: Path, limits: RasterLimits) -> Iterator[Any]:
    """Open a raster; errors while it is open become ours."""
    try:
        with open_raster(path, limits) as raster:
            yield raster
    except (RasterioError, OSError) as fault:
        raise SceneError(f"{path}: cannot be read as a label: {fault}") from fault
