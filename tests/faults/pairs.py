"""An image and a DSM that do not lie on one grid: P2 to P6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from affine import Affine
from faults.cell import Cell
from faults.rasters import SKIPPED
from faults.runner import Ended
from faults.workplace import Array, Workplace
from rasterio.warp import transform_bounds
from support import UTM

PLACE: Affine = UTM["transform"]
SHAPE = (40, 48)
OTHER_CRS = "EPSG:32633"
ROWS, COLUMNS = np.indices(SHAPE)
HILL = (ROWS * 0.5 + COLUMNS).astype(np.float32)

Plant = Callable[[Workplace], None]


def dsm_on(transform: Affine, array: Array = HILL, **more: Any) -> Plant:
    """The DSM on another grid."""
    return lambda place: place.write(dsm=array, **{"transform": transform, **more})


def in_other_crs(place: Workplace) -> None:
    """A DSM that covers the image and more, in the next UTM zone."""
    west, north = PLACE @ (0, 0)
    east, south = PLACE @ (SHAPE[1], SHAPE[0])
    left, _, _, top = transform_bounds(UTM["crs"], OTHER_CRS, west, south, east, north)
    transform = Affine(0.5, 0, left - 10, 0, -0.5, top + 10)
    heights = np.add.outer(np.arange(120), np.arange(140)).astype(np.float32)
    place.write(dsm=heights, crs=OTHER_CRS, transform=transform)


half_a_pixel_aside = dsm_on(PLACE @ Affine.translation(0.5, -0.5))


def aligned(plant: Plant) -> Plant:
    def both(place: Workplace) -> None:
        plant(place)
        place.words.append("--align")

    return both


def covered(part: tuple[slice, slice]) -> Callable[[Workplace, Ended], None]:
    """Whether just these rows and columns have classes."""

    def check(place: Workplace, _: Ended) -> None:
        expected = np.zeros(SHAPE, np.bool_)
        expected[part] = True
        np.testing.assert_array_equal(place.classes() != 255, expected)

    return check


EVERYTHING = (slice(None), slice(None))


def refused(fault: str, what: str, plant: Plant, *says: str) -> Cell:
    parts = ("scenes/dsm/b.tif: ", *says)
    return Cell(fault, what, 4, SKIPPED, plant, parts)


def warped(
    fault: str, what: str, plant: Plant, part: tuple[slice, slice] = EVERYTHING, **more: Any
) -> Cell:
    """The same with --align."""
    what, result = f"{what}, --align", more.pop("result", "segmented on the image's grid")
    return Cell(fault, what, 0, result, aligned(plant), ("aligned to",), covered(part), **more)


def both(fault: str, what: str, plant: Plant, *says: str) -> tuple[Cell, Cell]:
    return refused(fault, what, plant, *says, "mfnet-run --align"), warped(fault, what, plant)


def without_place(name: str) -> Plant:
    """The image or the DSM has no geotransform."""

    def plant(place: Workplace) -> None:
        nowhere: dict[str, Any] = {"crs": None, "transform": None}
        if name == "image":
            place.write(place.pixels(), **nowhere)
        else:
            place.write(dsm=place.heights(), **nowhere)

    return plant


def without_place_and_smaller(place: Workplace) -> None:
    place.write(dsm=place.heights()[:20], crs=None, transform=None)


OVERLAP = 29  # columns of 48: 60 %
CELLS = (
    refused(
        "P2", "DSM in another CRS", dsm_on(PLACE, crs=OTHER_CRS), OTHER_CRS, "EPSG:32632",
        "mfnet-run --align",
    ),
    warped("P2", "DSM in another CRS", in_other_crs),
    *both(
        "P3", "DSM of half the resolution", dsm_on(PLACE @ Affine.scale(2), HILL[::2, ::2]),
        "20 x 24 px", "40 x 48 px",
    ),
    refused("P3", "DSM half a pixel aside", half_a_pixel_aside, "mfnet-run --align"),
    warped(
        "P3", "DSM half a pixel aside", half_a_pixel_aside, (slice(39), slice(None)),
        result="nodata where the DSM ends before a pixel's centre",
    ),
    *both(
        "P3", "DSM upside down", dsm_on(PLACE @ Affine.translation(0, 40) @ Affine.scale(1, -1)),
    ),
    refused(
        "P4", "60 % overlap", dsm_on(PLACE @ Affine.translation(48 - OVERLAP, 0)),
        "mfnet-run --align",
    ),
    warped(
        "P4", "60 % overlap", dsm_on(PLACE @ Affine.translation(48 - OVERLAP, 0)),
        (slice(None), slice(48 - OVERLAP, None)), result="nodata outside of the overlap",
    ),
    Cell(
        "P5", "no overlap, --align", 4, "scene refused, the others run",
        aligned(dsm_on(PLACE @ Affine.translation(5000, 0))),
        ("scenes/dsm/b.tif: does not touch the image", "give the DSM of this place"),
    ),
    Cell(
        "P6", "image without a place, equal size", 0, "segmented, with a warning",
        without_place("image"), ("fitted by their size alone",), covered(EVERYTHING),
    ),
    Cell(
        "P6", "DSM without a place, equal size", 0, "segmented, with a warning",
        without_place("dsm"), ("fitted by their size alone",), covered(EVERYTHING),
    ),
    refused("P6", "DSM without a place, other size", without_place_and_smaller, "20 x 48 px"),
    Cell(
        "P6", "DSM without a place, other size, --align", 4, "scene refused, the others run",
        aligned(without_place_and_smaller), ("scenes/dsm/b.tif: ", "gdal_edit"),
    ),
)  # fmt: skip
