"""Polygons of a class map as a file, through pyogrio (the extra `vector`)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import rasterio
from rasterio.crs import CRS

from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.coverage import coverage_package, simplified
from mfnet_runtime.raster.crs import ProjectionError, reproject_points
from mfnet_runtime.raster.open import no_place_is_fine
from mfnet_runtime.raster.pixel_area import ground_area
from mfnet_runtime.raster.polygons import (
    Polygon,
    polygons_from_raster,
    transformed,
    wkb,
    wkb_checksum,
)
from mfnet_runtime.raster.styles import class_style
from mfnet_runtime.subprocesses import call_in_subprocess

LAYER = "classes"
WGS84 = CRS.from_epsg(4326)
DECIMALS = 8  # of GeoJSON's degrees: a millimetre
PIXELS_HERE = 1 << 26  # larger maps take long enough (5 s) to need an interruptible process


@dataclass(frozen=True)
class Format:
    """A format of polygons; its name is the suffix of the file."""

    driver: str
    options: Mapping[str, str] = field(default_factory=dict)  # of the layer
    beside: tuple[str, ...] = ()  # suffixes of files that belong to it
    needs_crs: bool = False


FORMATS = {
    "gpkg": Format("GPKG"),
    "fgb": Format("FlatGeobuf"),
    "geojson": Format("GeoJSON", needs_crs=True),
    "shp": Format(
        "ESRI Shapefile",
        {"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": "1970-01-01"},
        (".shx", ".dbf", ".prj", ".cpg"),
        needs_crs=True,
    ),
}


def require_format(name: str, simplify: bool = False) -> None:
    """Refuse polygons that could not be simplified or written after the run.

    Raises:
        ModuleNotFoundError: the extra is not installed.
        UsageError: its GDAL does not write that format.
    """
    driver = FORMATS[name].driver
    if simplify:
        coverage_package()
    if "w" not in _pyogrio().list_drivers().get(driver, ""):
        raise UsageError(f"--vectors {name}: pyogrio's GDAL does not write {driver}")


def vectors_from_classmap(
    classmap: Path,
    target: Path,
    classes: ClassTable,
    pixels: int,
    smallest: int = 0,
    min_area: float = 0.0,
    simplify: float = 0.0,
) -> None:
    """Write the polygons of a class map, with `class`, `name` and `area_m2`.

    Args:
        classmap: Written by this package.
        target: A new file; its suffix is a key of `FORMATS`.
        classes: Their names and colours.
        pixels: Of the class map; a large one is vectorised in a process of its own.
        smallest: Patches of fewer pixels are merged into their largest neighbour.
        min_area: Smaller polygons are left out, m2.
        simplify: Tolerance of `simplified`, metres; the area of pixels is known. 0: as the pixels.

    Raises:
        OSError: it cannot be written, or it reads back differently.
    """
    table = json.dumps(classes.to_json())
    arguments = (str(classmap), str(target), table, str(smallest), str(min_area), str(simplify))
    if pixels > PIXELS_HERE:
        call_in_subprocess(__name__, "write_vectors", *arguments)
    else:
        write_vectors(*arguments)


def write_vectors(
    classmap: str, target: str, table: str, smallest: str, min_area: str, simplify: str
) -> None:
    """`vectors_from_classmap` in this process; the classes as JSON."""
    classes = ClassTable.from_json(json.loads(table))
    with no_place_is_fine(), rasterio.open(classmap) as dataset:
        crs, transform = dataset.crs, dataset.transform
        ground = ground_area({"crs": crs, "transform": transform}, dataset.height)
    polygons = [
        polygon
        for polygon in polygons_from_raster(Path(classmap), int(smallest))
        if not ground or polygon.m2(ground) >= float(min_area)
    ]
    if ground and float(simplify):
        polygons = simplified(polygons, float(simplify) / ground.side)
    areas = [polygon.m2(ground) if ground else np.nan for polygon in polygons]
    columns = {
        "class": np.array([polygon.index for polygon in polygons], np.int32),
        "name": np.array([classes.names[polygon.index] for polygon in polygons], object),
        "area_m2": np.round(areas, 4),  # so that the formats that are text keep it
    }
    kind = FORMATS[Path(target).suffix[1:]]
    to_degrees = kind.driver == "GeoJSON"
    geometries = _geometries(polygons, transform, crs if to_degrees else None)
    pyogrio = _pyogrio()
    with _fixed_date(pyogrio), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no CRS
        try:
            pyogrio.raw.write(
                target,
                geometry=np.array(geometries, object),
                field_data=list(columns.values()),
                fields=list(columns),
                geometry_type="Polygon",
                crs=(WGS84 if to_degrees else crs).to_wkt() if crs else None,
                driver=kind.driver,
                layer=LAYER,
                layer_options=kind.options,
            )
            if kind.driver == "GPKG":
                _write_style(pyogrio, target, class_style(classes))
            _, _, again, fields = pyogrio.raw.read(target, layer=0)
            same = _checksum(again, *fields) == _checksum(geometries, *columns.values())
        except (RuntimeError, ValueError) as fault:  # pyogrio's errors
            raise OSError(str(fault)) from fault
    if not same:
        raise OSError("the polygons read back differ from those written")


def _geometries(polygons: Sequence[Polygon], transform: Any, to_degrees_from: Any) -> list[bytes]:
    """Return polygons in map coordinates, or in degrees of WGS 84 from a CRS, as WKB."""
    rings = [transformed(ring, transform) for polygon in polygons for ring in polygon.rings]
    if to_degrees_from and rings:
        try:
            degrees = reproject_points(to_degrees_from, WGS84, *np.concatenate(rings).T)
        except ProjectionError as fault:
            raise OSError(f"no coordinates in WGS 84: {fault}; use --vectors gpkg") from fault
        ends = np.cumsum([len(ring) for ring in rings])[:-1]
        rings = np.split(np.round(degrees, DECIMALS).T, ends)
    each = iter(rings)
    return [wkb([next(each) for _ in polygon.rings]) for polygon in polygons]


def _write_style(pyogrio: Any, target: str, style: str) -> None:
    """Add the table in which QGIS looks for the default style of a layer."""
    texts = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": LAYER,
        "f_geometry_column": "geom",
        "styleName": LAYER,
        "styleQML": style,
        "styleSLD": "",
        "description": "",
        "owner": "",
        "ui": "",
        "update_time": "1970-01-01T00:00:00.000Z",
    }
    columns = {name: np.array([text], object) for name, text in texts.items()}
    columns["useAsDefault"] = np.array([True])
    pyogrio.raw.write(
        target,
        geometry=None,
        field_data=list(columns.values()),
        fields=list(columns),
        driver="GPKG",
        layer="layer_styles",
        layer_options={"FID": "id"},
    )


def _checksum(geometries: Iterable[bytes], *fields: Iterable[Any]) -> tuple[int, int]:
    """Return the same for the same features in any order; FlatGeobuf reorders them."""
    sums = [
        crc32(repr([str(value) for value in values]).encode(), wkb_checksum(geometry))
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
