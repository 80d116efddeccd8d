"""Polygons of the classes in a class map.

Each polygon is whole: none is cut at a border of blocks. Memory grows with the polygons, not with
the pixels: about 90 bytes a corner until they are written, which is 240 MB for the 2.8 million
corners of a noisy map of 25 megapixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.features import shapes, sieve

from mfnet_runtime.labels import IGNORE
from mfnet_runtime.raster.geotiff import CACHE
from mfnet_runtime.raster.open import no_place_is_fine
from mfnet_runtime.raster.pixel_area import GroundArea

Ring = npt.NDArray[np.float64]  # (n, 2) column and row of corners, the first again at the end


POLYGON = struct.pack("<BI", 1, 3)  # first bytes of well-known binary, little-endian


@dataclass(frozen=True)
class Polygon:
    """Pixels of one class that are connected by edges."""

    index: int  # of the class
    rings: tuple[Ring, ...]  # the outer one first

    def m2(self, ground: GroundArea) -> float:
        """Return the area in square metres."""
        outer, *holes = (ground.of_ring(*ring.T) for ring in self.rings)
        return outer - sum(holes)


def polygons_from_raster(path: Path, smallest: int = 0) -> Iterator[Polygon]:
    """Return all polygons of a class map.

    Args:
        path: The class map; sieving writes two temporary bytes a pixel to its folder.
        smallest: Patches of fewer pixels are merged into their largest neighbour.
    """
    with (
        TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder,
        no_place_is_fine(),
        rasterio.Env(GDAL_CACHEMAX=CACHE),
        rasterio.open(path) as dataset,
    ):
        band: Any = rasterio.band(dataset, 1)
        if smallest > 1:
            band = _sieved(dataset, smallest, Path(folder))
        # GDAL returns map coordinates for a file; the transform makes it do so for an array
        pixel_from_map = ~dataset.transform
        for shape, value in shapes(band, transform=dataset.transform):
            if int(value) != IGNORE:
                rings = (
                    transformed(np.array(ring), pixel_from_map) for ring in shape["coordinates"]
                )
                yield Polygon(int(value), tuple(np.rint(ring) for ring in rings))


def _sieved(dataset: Any, smallest: int, folder: Path) -> npt.NDArray[np.uint8]:
    """Merge small patches; nodata neither grows nor shrinks. All pixels are in temporary files."""
    height, width = dataset.shape
    kind = {"driver": "GTiff", "dtype": "uint8", "count": 1, "bigtiff": "if_safer"}
    with rasterio.open(folder / "valid.tif", "w+", height=height, width=width, **kind) as valid:
        for _, window in dataset.block_windows(1):
            valid.write(dataset.read_masks(1, window=window), 1, window=window)
        kept = np.memmap(folder / "kept", np.uint8, "w+", shape=dataset.shape)
        # an array as mask would be copied
        sieve(rasterio.band(dataset, 1), smallest, out=kept, mask=rasterio.band(valid, 1))
    return kept


def transformed(corners: Ring, transform: Any) -> Ring:
    """Apply an affine transform to (n, 2) coordinates."""
    x, y = corners.T
    return np.column_stack(
        (
            transform.a * x + transform.b * y + transform.c,
            transform.d * x + transform.e * y + transform.f,
        )
    )


def wkb(rings: list[Ring]) -> bytes:
    """Return a polygon as well-known binary, little-endian; the outer ring first."""
    parts = [POLYGON, struct.pack("<I", len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), ring.astype("<f8").tobytes()]
    return b"".join(parts)


def wkb_checksum(polygon: bytes) -> int:
    """Return the same for the same corners of rings in any order and direction.

    Raises:
        ValueError: it is no polygon.
    """
    if polygon[:5] != POLYGON:
        raise ValueError("a geometry is no polygon")
    total, at = 0, 9
    while at < len(polygon):
        count = int.from_bytes(polygon[at : at + 4], "little")
        corners = np.frombuffer(polygon, "<c16", count, at + 4)
        total += crc32(np.sort(corners[1:]).data)
        at += 4 + corners.nbytes
    return total % (1 << 32)
