"""A class map's polygons as GeoPackage or FlatGeobuf, through pyogrio (the extra `vector`)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import rasterio

from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.open import no_place_is_fine
from mfnet_runtime.raster.pixel_area import ground_area
from mfnet_runtime.raster.polygons import VectorOptions, polygons_from_raster
from mfnet_runtime.subprocesses import call_apart

DRIVERS = {"gpkg": "GPKG", "fgb": "FlatGeobuf"}
LAYER = "classes"
PIXELS_HERE = 1 << 26  # more take so long that they get a process of their own: some 5 s


def require_vectors(options: VectorOptions) -> None:
    """Refuse before any work what could not be written after it.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        UsageError: its GDAL does not write that format.
    """
    driver = DRIVERS[options.format]
    if "w" not in _pyogrio().list_drivers().get(driver, ""):
        raise UsageError(f"--vectors {options.format}: pyogrio's GDAL does not write {driver}")


def vectors_from_classmap(
    classmap: Path, target: Path, classes: ClassTable, options: VectorOptions, pixels: int
) -> None:
    """Write the polygons of a class map, with `class`, `name` and `area_m2`.

    Args:
        classmap: Written by this package.
        target: A new file.
        classes: Names.
        options: Format, sieve, smallest area.
        pixels: Of the class map.

    Raises:
        OSError: it cannot be written, or what was read back differs.
    """
    words = (
        str(classmap),
        str(target),
        json.dumps(classes.to_json()),
        json.dumps(asdict(options)),
    )
    if pixels > PIXELS_HERE:
        call_apart(__name__, "write_vectors", *words)
    else:
        write_vectors(*words)


def write_vectors(classmap: str, target: str, classes: str, options: str) -> None:
    """`vectors_from_classmap` in this process; classes and options as JSON."""
    table, asked = ClassTable.from_json(json.loads(classes)), VectorOptions(**json.loads(options))
    with no_place_is_fine(), rasterio.open(classmap) as dataset:
        crs, transform = dataset.crs, dataset.transform
        ground = ground_area({"crs": crs, "transform": transform}, dataset.height)
    indices, areas, geometries = [], [], []
    for polygon in polygons_from_raster(Path(classmap), asked.sieve):
        area = polygon.m2(ground) if ground else np.nan
        if area < asked.min_area:
            continue
        indices.append(polygon.index)
        areas.append(area)
        geometries.append(polygon.wkb(transform))
    pyogrio = _pyogrio()
    names = np.array(table.names, object)
    columns = {
        "class": np.array(indices, np.int32),
        "name": names[indices] if indices else np.array([], object),
        "area_m2": np.array(areas, np.float64),
    }
    with _undated(pyogrio), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no CRS
        try:
            pyogrio.raw.write(
                target,
                geometry=np.array(geometries, object),
                field_data=list(columns.values()),
                fields=list(columns),
                geometry_type="Polygon",
                crs=crs.to_wkt() if crs else None,
                driver=DRIVERS[asked.format],
                layer=LAYER,
            )
            _, _, again, fields = pyogrio.raw.read(target)
        except (RuntimeError, ValueError) as fault:  # whatever pyogrio calls it
            raise OSError(str(fault)) from fault
    if _checksum(again, *fields) != _checksum(geometries, *columns.values()):
        raise OSError("the polygons read back differ from those written")


def _checksum(geometries: Iterable[bytes], *fields: Iterable[Any]) -> tuple[int, int]:
    """The same for the same features in whatever order; FlatGeobuf has its own."""
    sums = [
        crc32(repr([str(value) for value in values]).encode(), crc32(geometry))
        for geometry, *values in zip(geometries, *fields, strict=True)
    ]
    return len(sums), sum(sums)


@contextmanager
def _undated(pyogrio: Any) -> Iterator[None]:
    """GeoPackages state when they were written; ours are the same bytes for the same map."""
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
