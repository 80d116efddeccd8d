"""Reads the polygons of a GeoJSON or GeoPackage file; other files are not opened."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.aoi import Area, Polygon
from mfnet_runtime.scene.geopackage import polygons_from_geopackage

GEOPACKAGE = b"SQLite format 3\0"
MAX_GEOJSON = 512 << 20  # bytes; Python takes some ten times that to read it
WGS84 = "OGC:CRS84"  # of GeoJSON, RFC 7946
NAMED_CRS = re.compile(
    r"(urn:ogc:def:crs:)?(EPSG|OGC|ESRI|IAU\w*):([\w.]*:)?\w+"
    r"|https?://www\.opengis\.net/def/crs/\w+/[\w.]+/\w+"
)


def area_from_file(path: Path) -> Area:
    """All polygons of a file.

    Raises:
        UsageError: missing, of another format, without polygons, or with other geometry.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: is no regular file; expected GeoJSON or GeoPackage")
        with path.open("rb") as file:
            start = file.read(len(GEOPACKAGE))
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read ({fault.strerror})") from fault
    try:
        if start == GEOPACKAGE:
            polygons, crs = polygons_from_geopackage(path)
        else:
            polygons, crs = _from_geojson(_json(path))
    except (ValueError, TypeError, KeyError, RecursionError, CRSError) as fault:
        raise UsageError(
            f"{path}: no area can be read from it ({fault}); expected polygons as GeoJSON or "
            "GeoPackage, which ogr2ogr writes"
        ) from fault
    return Area(str(path), tuple(polygons), crs)


def _json(path: Path) -> Any:
    size = path.stat().st_size
    if size > MAX_GEOJSON:
        raise ValueError(f"{size >> 20} MiB, of which at most {MAX_GEOJSON >> 20} are read")
    return json.loads(path.read_text(encoding="utf-8-sig"))


def _from_geojson(data: Any) -> tuple[list[Polygon], CRS]:
    if not isinstance(data, dict):
        raise ValueError("not a GeoJSON object")
    stated = data.get("crs")  # of GeoJSON 2008; GDAL still writes it
    name = str(stated["properties"]["name"]) if stated else WGS84
    if not NAMED_CRS.fullmatch(name):  # GDAL would take it for a file or a URL
        raise ValueError(f"CRS {name[:80]!r} is not named as by urn:ogc:def:crs:EPSG::25832")
    return list(_polygons(data)), CRS.from_string(name)


def _polygons(data: dict[str, Any]) -> Iterator[Polygon]:
    kind = data["type"]
    if kind == "FeatureCollection":
        for feature in data["features"]:
            yield from _polygons(feature)
    elif kind == "Feature":
        if data["geometry"] is not None:
            yield from _polygons(data["geometry"])
    elif kind == "GeometryCollection":
        for geometry in data["geometries"]:
            yield from _polygons(geometry)
    elif kind == "Polygon":
        yield from _rings(data["coordinates"])
    elif kind == "MultiPolygon":
        for coordinates in data["coordinates"]:
            yield from _rings(coordinates)
    else:
        raise ValueError(f"holds {kind}")


def _rings(coordinates: Any) -> Iterator[Polygon]:
    """One polygon; none where it is empty. A third coordinate is left out."""
    rings = tuple(np.array([point[:2] for point in ring], np.float64) for ring in coordinates)
    if rings:
        yield rings
