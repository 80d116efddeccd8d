"""Class names and colours, and labels from colour-coded rasters."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.errors import ModelError

IGNORE = 255  # unlabelled pixels, not scored; the nodata value of a class map
MAX_CLASSES = 255  # 0..254 in a uint8 class map, 255 is nodata
MAX_NAME = 64  # characters
PLAIN_NAME = f"1 to {MAX_NAME} printable characters"

Colour = tuple[int, int, int]


def is_plain_name(name: str) -> bool:
    """Check that a name from a model file is safe to print: no control characters."""
    return 1 <= len(name) <= MAX_NAME and name.isprintable()


@dataclass(frozen=True)
class ClassTable:
    """Names and colours by class index: `names[i]`, `colours[i]` (red, green, blue in 0..255).

    Raises:
        ModelError: names that are empty, repeated, unprintable or over 64 characters; colours out
            of range.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_CLASSES or len(self.names) != len(self.colours):
            raise ModelError(
                f"class table has {len(self.names)} names and {len(self.colours)} colours; "
                f"expected equally many, 1 to {MAX_CLASSES}"
            )
        for name in self.names:
            if not is_plain_name(name):
                raise ModelError(f"class name {name!r:.80} must be {PLAIN_NAME}")
        if len(set(self.names)) != len(self.names):
            raise ModelError(f"class names repeat: {', '.join(self.names)}")
        for colour in self.colours:
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise ModelError(f"class colour {colour!r} must be three values in 0..255")

    def __len__(self) -> int:
        return len(self.names)

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Return the GDAL colour table (index to RGBA); nodata is transparent."""
        table = {index: (*colour, 255) for index, colour in enumerate(self.colours)}
        return {**table, IGNORE: (0, 0, 0, 0)}

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per class, in index order."""
        pairs = zip(self.names, self.colours, strict=True)
        return [{"name": name, "colour": list(colour)} for name, colour in pairs]

    @staticmethod
    def from_json(rows: Any) -> ClassTable:
        """Parse the output of `to_json`.

        Raises:
            ModelError: `rows` is not a list of {name, colour}.
        """
        try:
            names = tuple(str(row["name"]) for row in rows)
            colours = tuple((int(r), int(g), int(b)) for r, g, b in (row["colour"] for row in rows))
        except (TypeError, KeyError, ValueError, OverflowError) as fault:
            raise ModelError(f"class table is malformed: {fault!r:.200}") from fault
        return ClassTable(names, colours)

    @staticmethod
    def numbered(count: int, colours: Sequence[Colour] | None = None) -> ClassTable:
        """Make classes class_0, class_1, ... in distinct hues, for data without names."""
        golden = 0.618033988749895  # steps of the golden ratio never repeat a hue
        hues = [colorsys.hsv_to_rgb((index * golden) % 1, 0.65, 0.9) for index in range(count)]
        made = tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in hues)
        return ClassTable(
            tuple(f"class_{index}" for index in range(count)), tuple(colours) if colours else made
        )


# Class order and colours of the benchmarks (reference MFNET.md, section 6).
ISPRS = ClassTable(
    ("impervious surface", "building", "low vegetation", "tree", "car", "clutter"),
    ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
)
MMHUNAN = ClassTable(
    ("cropland", "forest", "grassland", "wetland", "water", "unused land", "built-up"),
    (
        (196, 90, 17),
        (51, 129, 88),
        (177, 205, 61),
        (228, 84, 96),
        (91, 154, 214),
        (225, 174, 110),
        (239, 159, 2),
    ),
)


def labels_from_colours(rgb: npt.NDArray[np.uint8], classes: ClassTable) -> npt.NDArray[np.uint8]:
    """Convert a colour-coded label to class indices.

    Args:
        rgb: (3, row, column).
        classes: The classes with their colours.

    Returns:
        (row, column) class index; `IGNORE` where the colour belongs to no class (such as black).
    """
    packed = (rgb[0].astype(np.uint32) << 16) | (rgb[1].astype(np.uint32) << 8) | rgb[2]
    labels = np.full(packed.shape, IGNORE, np.uint8)
    for index, (red, green, blue) in enumerate(classes.colours):
        labels[packed == (red << 16 | green << 8 | blue)] = index
    return labels
