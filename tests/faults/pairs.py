"""Faults of names: R16; and of pairs of image and DSM: P1 to P6."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
from affine import Affine
from faults.cell import Cell
from faults.rasters import SKIPPED, Check, Plant, segmented
from faults.runner import Ended
from faults.workplace import Array, Workplace
from rasterio.warp import transform_bounds
from support import UTM

PLACE: Affine = UTM["transform"]
OTHER_CRS = "EPSG:32633"
ROWS, COLUMNS = np.indices((40, 48))
HILL = (ROWS * 0.5 + COLUMNS).astype(np.float32)


def renamed(stem: str) -> Plant:
    def plant(place: Workplace) -> None:
        for path in (place.image, place.dsm):
            path.rename(path.with_name(f"{stem}.tif"))

    return plant


def named(what: str, stem: str) -> Cell:
    def check(place: Workplace, _: Ended) -> None:
        assert (place.classes(stem) != 255).all()

    return segmented("R16", what, "segmented under that name", renamed(stem), check)


def table(rows: str) -> Plant:
    """A table of pairs; another image of the same name is in a second folder."""

    def plant(place: Workplace) -> None:
        for part in ("image", "dsm"):
            (place.root / "more" / part).mkdir(parents=True)
            shutil.copy(place.scenes / part / "b.tif", place.root / "more" / part / "a.tif")
        place.source = place.root / "pairs.csv"
        place.source.write_text(rows)

    return plant


def both_there(place: Workplace, _: Ended) -> None:
    assert (place.classes("a") != place.classes("second")).any()
    assert np.unique(place.classes("second")).size > 1


def dsm_on(transform: Affine, array: Array = HILL, **more: Any) -> Plant:
    """The DSM on another grid."""
    return lambda place: place.write(dsm=array, **{"transform": transform, **more})


def in_other_crs(place: Workplace) -> None:
    """A DSM that covers the image and more, in the next UTM zone."""
    west, north = PLACE @ (0, 0)
    east, south = PLACE @ (48, 40)
    left, _, _, top = transform_bounds(UTM["crs"], OTHER_CRS, west, south, east, north)
    transform = Affine(0.5, 0, left - 10, 0, -0.5, top + 10)
    heights = np.add.outer(np.arange(120), np.arange(140)).astype(np.float32)
    place.write(dsm=heights, crs=OTHER_CRS, transform=transform)


def without_place(name: str, rows: int = 40) -> Plant:
    """The image or the DSM has no geotransform."""

    def plant(place: Workplace) -> None:
        array = place.pixels() if name == "image" else place.heights()[:rows]
        nowhere: dict[str, Any] = {name: array, "crs": None, "transform": None}
        place.write(**nowhere)

    return plant


def covered(rows: slice = slice(None), columns: slice = slice(None)) -> Check:
    """Only these rows and columns have classes."""

    def check(place: Workplace, _: Ended) -> None:
        expected = np.zeros((40, 48), np.bool_)
        expected[rows, columns] = True
        np.testing.assert_array_equal(place.classes() != 255, expected)

    return check


def refused(fault: str, what: str, plant: Plant, *says: str) -> Cell:
    return Cell(fault, what, 4, SKIPPED, plant, ("scenes/dsm/b.tif: ", *says))


def aligned(plant: Plant) -> Plant:
    def both(place: Workplace) -> None:
        plant(place)
        place.words.append("--align")

    return both


def with_align(
    fault: str,
    what: str,
    plant: Plant,
    result: str = "segmented on the image's grid",
    check: Check | None = None,
) -> tuple[Cell, Cell]:
    """Refused, and segmented with --align."""
    says = ("aligned to",)
    return (
        refused(fault, what, plant, "--align"),
        segmented(fault, f"{what}, --align", result, aligned(plant), check or covered(), says=says),
    )


A, C = "scenes/image/a.tif,scenes/dsm/a.tif", "scenes/image/c.tif,scenes/dsm/c.tif"
MORE = "more/image/a.tif,more/dsm/a.tif"
LONG = "x" * 251  # with .tif the longest name that file systems take
BY_SIZE = ("matched by size alone",)
CELLS = (
    named("name with spaces", "a b"),
    named("name with unicode", "Grünfläche 緑地"),
    named("name with a line break", "a\nb"),
    named("name -x.tif", "-x"),
    named("name with % ? # ! :", "%2e?b#c!zip:d"),
    Cell("R16", "name of 255 bytes", 4, "scene refused: .tif.aux.xml would not fit", renamed(LONG),
         (f"{LONG}.tif", "rename the scene")),
    Cell("R16", "same file name in two folders, by a table", 2, "refused before any work",
         table(f"image,dsm\n{A}\n{MORE}\n{C}\n"), ("pairs.csv: ", "there is a scene named 'a'")),
    segmented("R16", "the same, scenes named in the table", "both segmented",
              table(f"image,dsm,name\n{A},a\n{MORE},second\n{C},c\n"), both_there),
    refused("P1", "DSM missing", lambda place: place.dsm.unlink(), "scene 'b' has no dsm",
            "put it there, or leave the scene out"),
    Cell("P1", "two DSMs of one stem", 2, "refused before any work",
         lambda place: shutil.copy(place.dsm, place.dsm.with_suffix(".tiff")),
         ("dsm/b.tiff: b.tif has the same stem", "keep one of them")),
    refused("P2", "DSM with the CRS of another place", dsm_on(PLACE, crs=OTHER_CRS), OTHER_CRS,
            "EPSG:32632", "--align"),
    *with_align("P2", "DSM in another CRS", in_other_crs),
    *with_align("P3", "DSM of half the resolution",
                dsm_on(PLACE @ Affine.scale(2), HILL[::2, ::2])),
    *with_align("P3", "DSM half a pixel aside", dsm_on(PLACE @ Affine.translation(0.5, -0.5)),
                "nodata where the DSM ends before a pixel's centre", covered(rows=slice(39))),
    *with_align("P3", "DSM upside down",
                dsm_on(PLACE @ Affine.translation(0, 40) @ Affine.scale(1, -1))),
    *with_align("P4", "60 % overlap", dsm_on(PLACE @ Affine.translation(19, 0)),
                "nodata outside of the overlap", covered(columns=slice(19, None))),
    refused("P5", "no overlap, --align", aligned(dsm_on(PLACE @ Affine.translation(5000, 0))),
            "does not touch the image", "give the DSM of this place"),
    segmented("P6", "image without a place, equal size", "segmented, with a warning",
              without_place("image"), covered(), says=BY_SIZE),
    segmented("P6", "DSM without a place, equal size", "segmented, with a warning",
              without_place("dsm"), covered(), says=BY_SIZE),
    refused("P6", "DSM without a place, other size", without_place("dsm", 20), "px; "),
    refused("P6", "DSM without a place, other size, --align", aligned(without_place("dsm", 20)),
            "gdal_edit"),
)  # fmt: skip
