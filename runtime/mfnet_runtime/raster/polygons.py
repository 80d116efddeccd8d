"""Polygons of equal class from a class map, each whole: none is cut at a border of blocks.

Knows no vector formats. Memory grows with the polygons, not with the pixels: until they are
written some 90 bytes a corner, as 240 MB for 2.8 million corners of a noisy map of 25 megapixels.
Sieving holds two bytes a pixel more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.features import shapes, sieve

from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.raster.open import no_place_is_fine
from mfnet_runtime.raster.pixel_area import GroundArea

VectorFormat = Literal["gpkg", "fgb"]
Ring = npt.NDArray[np.float64]  # (n, 2) column and row of corners, the first again at the end


@dataclass(frozen=True)
class VectorOptions:
    """What to make of a class map."""

    format: VectorFormat  # the suffix of the file
    sieve: int = 0  # pixels; smaller patches go to their largest neighbour first
    min_area: float = 0.0  # m2; smaller polygons are left out, and leave a gap

    def __post_init__(self) -> None:
        if self.format not in get_args(VectorFormat):
            raise UsageError(
                f"no vectors named {self.format!r}; there are {', '.join(get_args(VectorFormat))}"
            )
        if self.sieve < 0 or not self.min_area >= 0:
            raise UsageError(f"sieve {self.sieve}, area {self.min_area}: expected at least 0")


@dataclass(frozen=True)
class Polygon:
    """Adjoining pixels of one class, by their edges, not their corners."""

    index: int  # of the class
    rings: tuple[Ring, ...]  # the outer one first

    def m2(self, ground: GroundArea) -> float:
        """Its area."""
        outer, *holes = (ground.of_ring(*ring.T) for ring in self.rings)
        return outer - sum(holes)

    def wkb(self, transform: Any) -> bytes:
        """Well-known binary, little-endian, in the coordinates that a transform leads to."""
        parts = [struct.pack("<BII", 1, 3, len(self.rings))]
        for ring in self.rings:
            places = _moved(ring, transform).astype("<f8")
            parts += [struct.pack("<I", len(ring)), places.tobytes()]
        return b"".join(parts)


def polygons_from_raster(path: Path, smallest: int = 0) -> Iterator[Polygon]:
    """All polygons of a class map; pixels adjoin by their edges.

    Args:
        path: The class map.
        smallest: Pixels of a patch that is not given to its largest neighbour.
    """
    with no_place_is_fine(), rasterio.open(path) as dataset:
        band: Any = rasterio.band(dataset, 1)
        if smallest > 1:
            valid = dataset.read_masks(1) != 0  # nodata neither grows nor shrinks
            band = sieve(band, smallest, mask=valid)
            del valid
        # of a file GDAL gives map coordinates, of an array we would state the same
        back = ~dataset.transform
        for shape, value in shapes(band, transform=dataset.transform):
            if int(value) != IGNORE:
                rings = (_moved(np.array(ring), back) for ring in shape["coordinates"])
                yield Polygon(int(value), tuple(np.rint(ring) for ring in rings))


def _moved(ring: Ring, transform: Any) -> Ring:
    """Coordinates that an affine transform leads to."""
    x, y = ring.T
    return np.column_stack(
        (
            transform.a * x + transform.b * y + transform.c,
            transform.d * x + transform.e * y + transform.f,
        )
    )
