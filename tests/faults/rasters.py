"""Faults of raster files: R1 to R15."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from faults.cell import Cell
from faults.runner import Ended
from faults.workplace import Array, Workplace, row_of
from rasterio.enums import ColorInterp
from support import UTM, rgbd_classes, write_raster, write_rgbd_model

SKIPPED = "scene refused, the others run"
IMAGE = "scenes/image/b.tif: "
GDALINFO, BANDS = "check it with gdalinfo", "choose them with --bands"
TILES: dict[str, Any] = {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}
NODATA = -32768.0  # as DSMs declare it

Plant = Callable[[Workplace], Any]
Check = Callable[[Workplace, Ended], None]


def noise(kind: str = "uint8", bands: int = 3, top: int = 255) -> Array:
    rng = np.random.default_rng(7)
    return rng.integers(0, top, (bands, 40, 48), endpoint=True).astype(kind)


def refused(fault: str, what: str, says: str, plant: Plant | bytes | Array, **profile: Any) -> Cell:
    """The scene fails before anything of it is written, and the others come out.

    Args:
        fault: Number in the matrix.
        what: The fault.
        says: The remedy.
        plant: What to do; or the image's bytes or pixels.
        profile: Of the pixels.
    """
    if isinstance(plant, bytes):
        content = plant
        plant = lambda place: place.image.write_bytes(content)  # noqa: E731
    elif isinstance(plant, np.ndarray):
        pixels = plant
        plant = lambda place: place.write(pixels, **profile)  # noqa: E731
    return Cell(fault, what, 4, SKIPPED, plant, (IMAGE, says))


def segmented(fault: str, what: str, result: str, plant: Plant, check: Check, **more: Any) -> Cell:
    return Cell(fault, what, 0, result, plant, check=check, **more)


# --- files that cannot be read -------------------------------------------------------------------


def truncated(percent: int) -> Cell:
    def plant(place: Workplace) -> None:
        place.write(noise(), **TILES)
        os.truncate(place.image, place.image.stat().st_size * percent // 100)

    return refused("R2", f"TIFF truncated at {percent} %", "write it", plant)


def corrupt_block(part: str) -> Cell:
    """Eight bytes of a compressed tile that is not the first."""

    def plant(place: Workplace) -> None:
        place.write(noise(), noise("float32", bands=1), **TILES)
        path = place.image if part == "image" else place.dsm
        with rasterio.open(path) as dataset:
            offset = int(dataset.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
        with path.open("r+b") as file:
            file.seek(offset + 20)
            file.write(b"\xff" * 8)

    says = (f"scenes/{part}/b.tif: damaged or truncated", "write it anew with gdal_translate")
    return Cell("R3", f"one corrupt deflate block, {part}", 4, SKIPPED, plant, says)


def palette(place: Workplace) -> None:
    place.write(noise(bands=1))
    with rasterio.open(place.image, "r+") as dataset:
        dataset.write_colormap(1, {value: (value, 0, 0, 255) for value in range(256)})


def tiff_header(*tags: tuple[int, int, int], first: int = 8) -> bytes:
    """A TIFF without pixels; tags are (number, count, value), LONG each."""
    entries = b"".join(struct.pack("<HHII", tag, 4, *rest) for tag, *rest in tags)
    return struct.pack("<2sHIH", b"II", 42, first, len(tags)) + entries + bytes(900)


def huge(side: int, tile: int) -> bytes:
    """The header of a tiled byte raster of three bands."""
    return tiff_header(
        (256, 1, side), (257, 1, side), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 3),
        (284, 1, 1), (322, 1, tile), (323, 1, tile), (324, 1, 200), (325, 1, 100),
    )  # fmt: skip


def vrt(place: Workplace) -> None:
    """A VRT of another file in place of the image."""
    secret = write_raster(place.root / "secret.tif", np.full((3, 40, 48), 7, np.uint8))
    place.secrets.append(secret)
    bands = [
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>{secret}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    ]
    text = f'<VRTDataset rasterXSize="48" rasterYSize="40">{"".join(bands)}</VRTDataset>'
    place.image.write_text(text)


def mask_beside(place: Workplace) -> None:
    """GDAL takes any format for a mask beside a TIFF."""
    vrt(place)
    place.image.rename(place.image.with_name("b.tif.msk"))
    place.write(np.full((3, 40, 48), 5, np.uint8))


def special(what: str, says: str, make: Callable[[Path], Any]) -> Cell:
    """Something else in place of the image."""

    def plant(place: Workplace) -> None:
        place.image.unlink()
        make(place.image)

    return refused("R15", what, says, plant)


def unreadable(place: Workplace) -> None:
    place.image.chmod(0)
    place.under(plain_user=True)


# --- values that can be read ---------------------------------------------------------------------


def empty_rows(rows: slice) -> Check:
    """Only these rows have no class."""

    def check(place: Workplace, _: Ended) -> None:
        empty = np.zeros((40, 48), np.bool_)
        empty[rows] = True
        np.testing.assert_array_equal(place.classes() == 255, empty)

    return check


def alpha(place: Workplace) -> None:
    pixels = np.concatenate([place.pixels(), np.full((1, 40, 48), 255, np.uint8)])
    pixels[3, :8] = 0
    place.write(pixels)
    with rasterio.open(place.image) as dataset:
        assert dataset.colorinterp[3] is ColorInterp.alpha


def stretched(place: Workplace) -> None:
    place.write(noise("uint16", top=65535))
    place.words += ["--image-range", "0", "65535"]


def stray(fault: str, what: str, *values: float) -> Cell:
    """Heights that are none, one in each row; scene `twin` declares them as nodata."""

    def plant(place: Workplace) -> None:
        heights = place.heights()
        rows = np.arange(len(values))
        heights[rows, rows + 3] = values
        place.write(dsm=heights, nodata=NODATA if NODATA in values else None)
        heights[rows, rows + 3] = NODATA
        place.write(place.pixels(), name="twin")
        place.write(dsm=heights, name="twin", nodata=NODATA)

    def check(place: Workplace, ended: Ended) -> None:
        found, rows = place.classes(), range(len(values))
        assert np.argwhere(found == 255).tolist() == [[row, row + 3] for row in rows]
        np.testing.assert_array_equal(found, place.classes("twin"))
        for end in ("dsm_low", "dsm_high"):
            assert row_of(ended)[end] == row_of(ended, "twin")[end]

    result = "nodata there, elsewhere as with that pixel declared nodata"
    return segmented(fault, what, result, plant, check)


def is_segmented(place: Workplace, _: Ended) -> None:
    """Every pixel has its class."""
    image, dsm = place.pixels(), place.heights()
    span = float(dsm.max() - dsm.min())
    scaled = (dsm - dsm.min()) / np.float32(span) if span else np.zeros_like(dsm)
    np.testing.assert_array_equal(place.classes(), rgbd_classes(image, scaled))


def nodata_rows(what: str, result: str, rows: int, part: str = "image") -> Cell:
    """The upper rows are nodata, and windows inside them are not inferred."""

    def plant(place: Workplace) -> None:
        pixels, heights = np.maximum(place.pixels(), 1), place.heights()
        if part == "image":
            pixels[:, :rows] = 0
        else:
            heights[:rows] = np.nan
        place.write(pixels, nodata=0)
        place.write(dsm=heights)

    def check(place: Workplace, ended: Ended) -> None:
        empty_rows(slice(rows))(place, ended)
        row = row_of(ended)
        assert row["skipped_windows"] == (row["windows"] if rows == 40 else 2)

    return segmented("R9", what, result, plant, check)


def sized(height: int, width: int) -> Cell:
    def plant(place: Workplace) -> None:
        rng = np.random.default_rng(height)
        pixels = rng.integers(0, 255, (3, height, width), np.uint8)
        place.write(pixels, rng.uniform(0, 9, (height, width)).astype(np.float32))

    what = f"{width} x {height} px, windows of 32"
    return segmented("R10", what, "every pixel has its class", plant, is_segmented)


def bomb(side: int, **more: Any) -> Cell:
    """Zeros that unpack to much more than the file has."""

    def plant(place: Workplace) -> None:
        write_rgbd_model(place.model, window=256)
        place.words += ["--stride", "256"]
        for path, kind, bands in ((place.image, "uint8", 3), (place.dsm, "float32", 1)):
            shape: dict[str, Any] = {"count": bands, "height": side, "width": side, "dtype": kind}
            stored: dict[str, Any] = {"compress": "deflate", "tiled": True, "bigtiff": "yes"}
            with rasterio.open(path, "w", **shape, **stored, **UTM) as out:
                for top in range(0, side, 1000):
                    rows = ((top, top + 1000), (0, side))
                    out.write(np.zeros((bands, 1000, side), kind), window=rows)

    def check(place: Workplace, ended: Ended) -> None:
        assert place.image.stat().st_size < side * side // 50
        assert row_of(ended)["valid_pixels"] == side * side
        assert row_of(ended)["dsm_constant"]

    what = f"{side:,} x {side:,} zeros, compressed"
    return segmented("R13", what, "runs in bounded memory", plant, check, **more)


CELLS = (
    refused("R1", "a .tif of 0 bytes", GDALINFO, b""),
    refused("R1", "text named .tif", GDALINFO, b"no raster\n" * 99),
    *(truncated(percent) for percent in (10, 50, 90, 99)),
    corrupt_block("image"),
    corrupt_block("dsm"),
    refused("R4", "offset of the first IFD is 0", GDALINFO, tiff_header(first=0)),
    stray("R5", "1 NaN in the DSM", np.nan),
    stray("R6", "+Inf, -Inf, 1e38 and -9999 in the DSM, undeclared", np.inf, -np.inf, 1e38, -9999),
    stray("R7", "declared nodata and a stray NaN", NODATA, np.nan),
    segmented(
        "R8", "constant DSM", "segmented without heights, with a warning",
        lambda place: place.write(dsm=np.full((40, 48), 12.5, np.float32)), is_segmented,
        says=("every height is 12.5",),
    ),
    nodata_rows("image all nodata", "all nodata, nothing inferred", 40),
    nodata_rows("windows all nodata", "they are not inferred", 34),
    nodata_rows("DSM all NaN", "all nodata, nothing inferred", 40, "dsm"),
    *(sized(*size) for size in [(1, 1), (1, 50), (31, 31), (32, 32), (33, 33), (201, 200)]),
    refused("R11", "1 band", BANDS, noise(bands=1)),
    refused("R11", "2 bands", BANDS, noise(bands=2)),
    refused("R11", "4 bands, none alpha", BANDS, noise(bands=4), photometric="minisblack"),
    refused("R11", "5 bands", BANDS, noise(bands=5), photometric="minisblack"),
    refused("R11", "palette", BANDS, palette),
    refused("R11", "16-bit values above the model's scale", "--image-range",
            noise("uint16", top=4095)),
    refused("R11", "complex numbers", "convert it to real ones", noise("complex64")),
    segmented("R11", "16-bit with --image-range", "segmented", stretched, empty_rows(slice(0))),
    segmented(
        "R11", "colours as floats of 0 to 1", "segmented, with a warning",
        lambda place: place.write(noise("float32", top=1)), empty_rows(slice(0)),
        says=("warning: ", "--image-range"),
    ),
    segmented("R11", "alpha band", "nodata where transparent", alpha, empty_rows(slice(8))),
    refused("R12", "2,000,000 x 2,000,000 px in a header", "--max-pixels", huge(2_000_000, 4096)),
    refused("R12", "a stored block of 30,000 x 30,000 px", "TILED=YES", huge(30_000, 30_000)),
    bomb(3000, memory=384 << 20),
    bomb(30_000, slow=True, seconds=900, memory=384 << 20, starts=True),
    refused("R14", "VRT named .tif", "--allow-driver VRT", vrt),
    Cell("R14", "mask beside a TIFF that is a VRT", 4, SKIPPED, mask_beside,
         ("b.tif.msk: is no TIFF", "remove it")),
    special("symlink loop", "Too many levels", lambda path: path.symlink_to(path)),
    special("link to nothing", "No such file", lambda path: path.symlink_to("nowhere.tif")),
    special("FIFO", "a pipe or device", os.mkfifo),
    special("directory", "a folder", lambda path: path.mkdir()),
    special("/dev/zero", "a pipe or device", lambda path: path.symlink_to("/dev/zero")),
    refused("R15", "mode 000", "Permission denied", unreadable),
)  # fmt: skip
