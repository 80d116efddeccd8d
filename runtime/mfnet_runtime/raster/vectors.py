"""Polygons of a class map as GeoPackage or FlatGeobuf, through pyogrio (the extra `vector`).

Each polygon is whole: none is cut at a border of blocks. Memory grows with the polygons, not with
the pixels: about 90 bytes a corner until they are written, which is 240 MB for the 2.8 million
corners of a noisy map of 25 megapixels. Sieving holds two more bytes a pixel.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.features import shapes, sieve

from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.raster.open import no_place_is_fine
from mfnet_runtime.raster.pixel_area import GroundArea, ground_area
from mfnet_runtime.subprocesses import call_in_subprocess

Ring = npt.NDArray[np.float64]  # (n, 2) column and row of corners, the first again at the end

DRIVERS = {"gpkg": "GPKG", "fgb": "FlatGeobuf"}
LAYER = "classes"
PIXELS_HERE = 1 << 26  # larger maps take long enough (5 s) to need an interruptible process


def require_format(name: str) -> None:
    """Refuse a format that could not be written after the run.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        UsageError: its GDAL does not write that format.
    """
    driver = DRIVERS[name]
    if "w" not in _pyogrio().list_drivers().get(driver, ""):
        raise UsageError(f"--vectors {name}: pyogrio's GDAL does not write {driver}")


def vectors_from_classmap(
    classmap: Path,
    target: Path,
    classes: ClassTable,
    pixels: int,
    smallest: int = 0,
    min_area: float = 0.0,
) -> None:
    """Write the polygons of a class map, with `class`, `name` and `area_m2`.

    Args:
        classmap: Written by this package.
        target: A new file; its suffix is a key of `DRIVERS`.
        classes: Their names.
        pixels: Of the class map; a large one is vectorised in a process of its own.
        smallest: Patches of fewer pixels are merged into their largest neighbour.
        min_area: Smaller polygons are left out, m2.

    Raises:
        OSError: it cannot be written, or it reads back differently.
    """
    names = json.dumps(classes.names)
    arguments = (str(classmap), str(target), names, str(smallest), str(min_area))
    if pixels > PIXELS_HERE:
        call_in_subprocess(__name__, "write_vectors", *arguments)
    else:
        write_vectors(*arguments)


def write_vectors(classmap: str, target: str, names: str, smallest: str, min_area: str) -> None:
    """`vectors_from_classmap` in this process; names as JSON."""
    with no_place_is_fine(), rasterio.open(classmap) as dataset:
        crs, transform = dataset.crs, dataset.transform
        ground = ground_area({"crs": crs, "transform": transform}, dataset.height)
    indices, areas, geometries = [], [], []
    for polygon in polygons_from_raster(Path(classmap), int(smallest)):
        area = polygon.m2(ground) if ground else np.nan
        if area < float(min_area):
            continue
        indices.append(polygon.index)
        areas.append(area)
        geometries.append(polygon.wkb(transform))
    pyogrio = _pyogrio()
    columns = {
        "class": np.array(indices, np.int32),
        "name": np.array([json.loads(names)[index] for index in indices], object),
        "area_m2": np.array(areas, np.float64),
    }
    with _fixed_date(pyogrio), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no CRS
        try:
            pyogrio.raw.write(
                target,
                geometry=np.array(geometries, object),
                field_data=list(columns.values()),
                fields=list(columns),
                geometry_type="Polygon",
                crs=crs.to_wkt() if crs else None,
                driver=DRIVERS[Path(target).suffix[1:]],
                layer=LAYER,
            )
            _, _, again, fields = pyogrio.raw.read(target)
        except (RuntimeError, ValueError) as fault:  # pyogrio's errors
            raise OSError(str(fault)) from fault
    if _checksum(again, *fields) != _checksum(geometries, *columns.values()):
        raise OSError("the polygons read back differ from those written")


@dataclass(frozen=True)
class Polygon:
    """Pixels of one class that are connected by edges."""

    index: int  # of the class
    rings: tuple[Ring, ...]  # the outer one first

    def m2(self, ground: GroundArea) -> float:
        """Return the area in square metres."""
        outer, *holes = (ground.of_ring(*ring.T) for ring in self.rings)
        return outer - sum(holes)

    def wkb(self, transform: Any) -> bytes:
        """Return well-known binary, little-endian, in map coordinates."""
        parts = [struct.pack("<BII", 1, 3, len(self.rings))]
        for ring in self.rings:
            corners = _transform(ring, transform).astype("<f8")
            parts += [struct.pack("<I", len(ring)), corners.tobytes()]
        return b"".join(parts)


def polygons_from_raster(path: Path, smallest: int = 0) -> Iterator[Polygon]:
    """Return all polygons of a class map.

    Args:
        path: The class map.
        smallest: Patches of fewer pixels are merged into their largest neighbour.
    """
    with no_place_is_fine(), rasterio.open(path) as dataset:
        band: Any = rasterio.band(dataset, 1)
        if smallest > 1:
            valid = dataset.read_masks(1) != 0  # nodata neither grows nor shrinks
            band = sieve(band, smallest, mask=valid)
            del valid
        # GDAL returns map coordinates for a file; the transform makes it do so for an array
        pixel_from_map = ~dataset.transform
        for shape, value in shapes(band, transform=dataset.transform):
            if int(value) != IGNORE:
                rings = (
                    _transform(np.array(ring), pixel_from_map) for ring in shape["coordinates"]
                )
                yield Polygon(int(value), tuple(np.rint(ring) for ring in rings))


def _transform(ring: Ring, transform: Any) -> Ring:
    x, y = ring.T
    return np.column_stack(
        (
            transform.a * x + transform.b * y + transform.c,
            transform.d * x + transform.e * y + transform.f,
        )
    )


def _checksum(geometries: Iterable[bytes], *fields: Iterable[Any]) -> tuple[int, int]:
    """Return the same for the same features in any order; FlatGeobuf reorders them."""
    sums = [
        crc32(repr([str(value) for value in values]).encode(), crc32(geometry))
        for geometry, *values in zip(geometries, *fields, strict=True)
    ]
    return len(sums), sum(sums)


@contextmanager
def _fixed_date(pyogrio: Any) -> Iterator[None]:
    """Write a fixed date into GeoPackages, so that equal maps give equal bytes."""
    option = "OGR_CURRENT_DATE"
    before = pyogrio.get_gdal_config_option(option)
    pyogrio.set_gdal_config_options({option: "1970-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({option: before})


def _pyogrio() -> Any:
    import_module("pyogrio.raw")
    return import_module("pyogrio")
