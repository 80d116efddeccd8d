"""Faults of raster files that keep them from being read: R1 to R4, R11 to R15."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from faults.cell import Cell
from faults.workplace import Workplace
from rasterio.enums import ColorInterp

SKIPPED = "scene refused, the others run"
IMAGE = "scenes/image/b.tif: "
TILES: dict[str, Any] = {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}


def refused(
    fault: str, what: str, says: tuple[str, ...], plant: Callable[[Workplace], Any], **more: Any
) -> Cell:
    """The scene fails before anything is written, and the others come out."""
    return Cell(fault, what, 4, SKIPPED, plant, (IMAGE, *says), **more)


def contents(fault: str, what: str, says: str, content: bytes) -> Cell:
    """An image file of other bytes."""
    return refused(fault, what, (says,), lambda place: place.image.write_bytes(content))


def truncated(percent: int) -> Cell:
    def plant(place: Workplace) -> None:
        place.write(noise(), **TILES)
        whole = place.image.read_bytes()
        place.image.write_bytes(whole[: len(whole) * percent // 100])

    return refused("R2", f"TIFF truncated at {percent} %", ("write it",), plant)


def noise(kind: str = "uint8", bands: int = 3, top: int = 255) -> Any:
    rng = np.random.default_rng(7)
    return rng.integers(0, top, (bands, 40, 48), endpoint=True).astype(kind)


def corrupt_block(part: str) -> Cell:
    """Eight bytes of a compressed tile that is not the first."""

    def plant(place: Workplace) -> None:
        dsm = np.random.default_rng(7).uniform(0, 9, (40, 48)).astype(np.float32)
        place.write(noise(), dsm, **TILES)
        path = place.image if part == "image" else place.dsm
        with rasterio.open(path) as dataset:
            offset = int(dataset.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
        with path.open("r+b") as file:
            file.seek(offset + 20)
            file.write(b"\xff" * 8)

    says = (f"scenes/{part}/b.tif: damaged or truncated", "write it anew with gdal_translate")
    return Cell("R3", f"one corrupt deflate block, {part}", 4, SKIPPED, plant, says)


def bands(what: str, says: str, array: Any, **profile: Any) -> Cell:
    def plant(place: Workplace) -> None:
        place.write(array, **profile)

    return refused("R11", what, (says,), plant)


def palette(place: Workplace) -> None:
    place.write(noise(bands=1))
    with rasterio.open(place.image, "r+") as dataset:
        dataset.write_colormap(1, {value: (value, 0, 0, 255) for value in range(256)})


def alpha(place: Workplace) -> None:
    pixels = np.concatenate([place.pixels(), np.full((1, 40, 48), 255, np.uint8)])
    pixels[3, :8] = 0
    place.write(pixels)
    with rasterio.open(place.image) as dataset:
        assert dataset.colorinterp[3] is ColorInterp.alpha


def stretched(place: Workplace) -> None:
    place.write(noise("uint16", top=65535))
    place.words += ["--image-range", "0", "65535"]


def tiff_header(*tags: tuple[int, int, int], first: int = 8) -> bytes:
    """A TIFF that is all promise: tags of (number, count, value), LONG each."""
    entries = b"".join(struct.pack("<HHII", tag, 4, *rest) for tag, *rest in tags)
    return struct.pack("<2sHIH", b"II", 42, first, len(tags)) + entries + bytes(900)


def huge(side: int, tile: int) -> bytes:
    """The header of a tiled byte raster of three bands."""
    return tiff_header(
        (256, 1, side), (257, 1, side), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 3),
        (284, 1, 1), (322, 1, tile), (323, 1, tile), (324, 1, 200), (325, 1, 100),
    )  # fmt: skip


def special(what: str, says: str, make: Callable[[Path], Any]) -> Cell:
    """Something else in the place of the image."""

    def plant(place: Workplace) -> None:
        place.image.unlink()
        make(place.image)

    return refused("R15", what, ("cannot be opened (", says, "check it with gdalinfo"), plant)


def unreadable(place: Workplace) -> None:
    place.image.chmod(0)
    place.under(plain_user=True)


def covered(rows: slice) -> Callable[[Workplace, Any], None]:
    """Whether just these rows are nodata."""

    def check(place: Workplace, _: object) -> None:
        empty = np.zeros((40, 48), np.bool_)
        empty[rows] = True
        np.testing.assert_array_equal(place.classes() == 255, empty)

    return check


NONE = slice(0, 0)
CELLS = (
    contents("R1", "a .tif of 0 bytes", "check it with gdalinfo", b""),
    contents("R1", "text named .tif", "check it with gdalinfo", b"no raster\n" * 99),
    *(truncated(percent) for percent in (10, 50, 90, 99)),
    corrupt_block("image"),
    corrupt_block("dsm"),
    contents("R4", "offset of the first IFD is 0", "check it with gdalinfo", tiff_header(first=0)),
    bands("1 band", "choose them with --bands", noise(bands=1)),
    bands("2 bands", "choose them with --bands", noise(bands=2)),
    bands("4 bands, none alpha", "choose them", noise(bands=4), photometric="minisblack"),
    bands("5 bands", "choose them with --bands", noise(bands=5), photometric="minisblack"),
    refused("R11", "palette", ("choose them with --bands",), palette),
    bands("16-bit values above the model's scale", "--image-range", noise("uint16", top=4095)),
    bands("complex numbers", "convert it to real ones", noise("complex64")),
    Cell("R11", "16-bit with --image-range", 0, "segmented", stretched, check=covered(NONE)),
    Cell(
        "R11", "colours as floats of 0 to 1", 0, "segmented, with a warning",
        lambda place: place.write(noise("float32", top=1)), ("warning: ", "--image-range"),
        check=covered(NONE),
    ),
    Cell(
        "R11", "alpha band", 0, "nodata where transparent", alpha, check=covered(slice(0, 8))
    ),
    contents("R12", "2,000,000 x 2,000,000 px in a header", "--max-pixels", huge(2_000_000, 4096)),
    contents("R12", "a stored block of 30,000 x 30,000 px", "TILED=YES", huge(30_000, 30_000)),
    special("symlink loop", "Too many levels", lambda path: path.symlink_to(path)),
    special("link to nothing", "No such file", lambda path: path.symlink_to("nowhere.tif")),
    special("FIFO", "a pipe or device", os.mkfifo),
    special("directory", "a folder", lambda path: path.mkdir()),
    special("/dev/zero", "a pipe or device", lambda path: path.symlink_to("/dev/zero")),
    refused("R15", "mode 000", ("Permission denied", "check it with gdalinfo"), unreadable),
)  # fmt: skip
