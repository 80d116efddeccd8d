"""Odd names of files and scenes: R16, and which files make a pair: P1."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
from faults.cell import Cell
from faults.runner import Ended
from faults.workplace import Workplace


def renamed(stem: str) -> Callable[[Workplace], None]:
    def plant(place: Workplace) -> None:
        for path in (place.image, place.dsm):
            path.rename(path.with_name(f"{stem}.tif"))

    return plant


def named(what: str, stem: str) -> Cell:
    """A scene of another name comes out under it, as it does under its own."""

    def check(place: Workplace, _: Ended) -> None:
        assert (place.out / f"{stem}.tif").is_file()
        assert (place.classes(stem) != 255).all()

    return Cell("R16", what, 0, "segmented under that name", renamed(stem), check=check)


def table(rows: str) -> Callable[[Workplace], None]:
    """Pairs by a table; another image of the same name lies in a second folder."""

    def plant(place: Workplace) -> None:
        for part in ("image", "dsm"):
            folder = place.root / "more" / part
            folder.mkdir(parents=True)
            shutil.copy(place.scenes / part / "b.tif", folder / "a.tif")
        place.source = place.root / "pairs.csv"
        place.source.write_text(rows)

    return plant


def both_there(place: Workplace, _: Ended) -> None:
    assert (place.classes("a") != place.classes("second")).any()
    assert np.unique(place.classes("second")).size > 1


def two_candidates(place: Workplace) -> None:
    shutil.copy(place.dsm, place.dsm.with_suffix(".tiff"))


A, C = "scenes/image/a.tif,scenes/dsm/a.tif", "scenes/image/c.tif,scenes/dsm/c.tif"
MORE = "more/image/a.tif,more/dsm/a.tif"
LONG = "x" * 251  # bytes; with .tif the longest name there is

CELLS = (
    named("name with spaces", "a b"),
    named("name with unicode", "Grünfläche 緑地"),
    named("name with a line break", "a\nb"),
    named("name -x.tif", "-x"),
    named("name with % ? # ! :", "%2e?b#c!zip:d"),
    Cell(
        "R16", "name of 255 bytes", 4, "scene refused: .tif.aux.xml would not fit", renamed(LONG),
        (f"{LONG}.tif", "rename the scene"),
    ),
    Cell(
        "R16", "same file name in two folders, by a table", 2, "refused before any work",
        table(f"image,dsm\n{A}\n{MORE}\n{C}\n"), ("pairs.csv: ", "there is a scene named 'a'"),
    ),
    Cell(
        "R16", "the same, scenes named in the table", 0, "both segmented",
        table(f"image,dsm,name\n{A},a\n{MORE},second\n{C},c\n"), check=both_there,
    ),
    Cell(
        "P1", "DSM missing", 4, "scene refused, the others run", lambda place: place.dsm.unlink(),
        ("scenes/dsm/b.tif: scene 'b' has no dsm", "put it there, or leave the scene out"),
    ),
    Cell(
        "P1", "two DSMs of one stem", 2, "refused before any work", two_candidates,
        ("dsm/b.tiff: b.tif has the same stem", "keep one of them"),
    ),
)  # fmt: skip
