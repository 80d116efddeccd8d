"""Faults of pixel values and sizes, which a scene is segmented in spite of: R5 to R10, R13."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import rasterio
from faults.cell import Cell
from faults.runner import Ended
from faults.workplace import Array, Workplace, row_of
from support import UTM, rgbd_classes, write_rgbd_model

NODATA = -32768.0  # as DSMs declare it
NOWHERE = "nodata there, elsewhere as with that pixel declared nodata"
BOMB = 3000  # pixels a side; 30,000 in the long version


def stray(**values: float) -> Callable[[Workplace], None]:
    """Heights that are none, one in each row; scene `twin` is the same with them declared."""

    def plant(place: Workplace) -> None:
        heights = place.heights()
        for row, value in enumerate(values.values()):
            heights[row, row + 3] = value
        place.write(dsm=heights, nodata=NODATA if NODATA in values.values() else None)
        for row in range(len(values)):
            heights[row, row + 3] = NODATA
        place.write(place.pixels(), name="twin")
        place.write(dsm=heights, name="twin", nodata=NODATA)

    return plant


def as_the_twin(count: int) -> Callable[[Workplace, Ended], None]:
    """Whether just so many pixels have no class, and all are as in the twin."""

    def check(place: Workplace, ended: Ended) -> None:
        found = place.classes()
        assert [(row, row + 3) for row in range(count)] == [
            (int(row), int(column)) for row, column in np.argwhere(found == 255)
        ]
        np.testing.assert_array_equal(found, place.classes("twin"))
        assert row_of(ended)["dsm_low"] == row_of(ended, "twin")["dsm_low"]
        assert row_of(ended)["dsm_high"] == row_of(ended, "twin")["dsm_high"]

    return check


def heights(fault: str, what: str, **values: float) -> Cell:
    plant, check = stray(**values), as_the_twin(len(values))
    return Cell(fault, what, 0, NOWHERE, plant, check=check)


def constant(place: Workplace) -> None:
    place.write(dsm=np.full((40, 48), 12.5, np.float32))


def is_segmented(place: Workplace, _: Ended) -> None:
    """Whether every pixel has the class that it has by itself."""
    image, dsm = place.pixels(), place.heights()
    span = float(dsm.max() - dsm.min())
    scaled = (dsm - dsm.min()) / np.float32(span) if span else np.zeros_like(dsm)
    np.testing.assert_array_equal(place.classes(), rgbd_classes(image, scaled))


def empty(rows: int) -> Callable[[Workplace], None]:
    """The upper rows of the image are its nodata value."""

    def plant(place: Workplace) -> None:
        pixels = np.maximum(place.pixels(), 1)
        pixels[:, :rows] = 0
        place.write(pixels, nodata=0)

    return plant


def skips(rows: int) -> Callable[[Workplace, Ended], None]:
    """Whether just these rows have no class, and windows inside them were not inferred."""

    def check(place: Workplace, ended: Ended) -> None:
        np.testing.assert_array_equal((place.classes() == 255).all(axis=1), np.arange(40) < rows)
        assert (place.classes()[rows:] != 255).all()
        row = row_of(ended)
        assert row["skipped_windows"] == (row["windows"] if rows == 40 else 2)

    return check


def sized(height: int, width: int) -> Cell:
    def plant(place: Workplace) -> None:
        rng = np.random.default_rng(height)
        pixels = rng.integers(0, 255, (3, height, width), np.uint8)
        place.write(pixels, rng.uniform(0, 9, (height, width)).astype(np.float32))

    what = f"{height} x {width} px, windows of 32"
    return Cell("R10", what, 0, "every pixel has its class", plant, check=is_segmented)


def bomb(side: int, **more: Any) -> Cell:
    """Zeros that unpack to much more than the file has."""

    def plant(place: Workplace) -> None:
        write_rgbd_model(place.model, window=256)
        place.words += ["--stride", "256"]
        tiles: dict[str, Any] = {"tiled": True, "bigtiff": "yes"}
        for path, kind, bands in ((place.image, "uint8", 3), (place.dsm, "float32", 1)):
            shape: dict[str, Any] = {"count": bands, "height": side, "width": side, **UTM}
            with rasterio.open(path, "w", dtype=kind, compress="deflate", **tiles, **shape) as out:
                zeros = np.zeros((bands, 1000, side), kind)
                for top in range(0, side, 1000):
                    out.write(zeros, window=((top, top + 1000), (0, side)))

    def check(place: Workplace, ended: Ended) -> None:
        assert place.image.stat().st_size < side * side // 50
        assert row_of(ended)["valid_pixels"] == side * side
        assert row_of(ended)["dsm_constant"]

    what = f"{side:,} x {side:,} zeros, compressed"
    return Cell("R13", what, 0, "runs in bounded memory", plant, check=check, **more)


def all_of(array: Array, value: float) -> Array:
    return np.full_like(array, value)


CELLS = (
    heights("R5", "1 NaN in the DSM", nan=np.nan),
    heights(
        "R6", "+Inf, -Inf, 1e38 and -9999 in the DSM, undeclared",
        plus=np.inf, minus=-np.inf, large=1e38, small=-9999,
    ),
    heights("R7", "declared nodata and a stray NaN", nodata=NODATA, nan=np.nan),
    Cell(
        "R8", "constant DSM", 0, "segmented without heights, said so", constant,
        ('"dsm_constant": true',), check=is_segmented,
    ),
    Cell("R9", "image all nodata", 0, "all nodata, nothing inferred", empty(40), check=skips(40)),
    Cell("R9", "windows all nodata", 0, "they are not inferred", empty(34), check=skips(34)),
    Cell(
        "R9", "DSM all NaN", 0, "all nodata, nothing inferred",
        lambda place: place.write(dsm=all_of(place.heights(), np.nan)), check=skips(40),
    ),
    *(sized(*size) for size in [(1, 1), (1, 50), (31, 31), (32, 32), (33, 33), (201, 200)]),
    bomb(BOMB),
    bomb(10 * BOMB, slow=True, seconds=900, memory=384 << 20, starts=True),
)  # fmt: skip
