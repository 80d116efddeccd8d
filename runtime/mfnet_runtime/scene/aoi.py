"""Areas of interest: polygons from a box or a file, and which pixels of a scene lie inside.

A pixel lies inside if its centre does. A file cannot make GDAL open other files or URLs: GeoJSON
and KML are read by Python, and pyogrio opens GeoPackages and shapefiles alone.
"""

from __future__ import annotations

import io
import json
import re
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.crs import (
    ProjectionError,
    reproject_points,
    same_horizontally,
    short_name,
)
from mfnet_runtime.raster.grid import Grid
from mfnet_runtime.scene.normalize import BoolArray

Ring = npt.NDArray[np.float64]  # (n, 2): x and y, the last point equal to the first
Polygon = tuple[Ring, ...]  # outline and holes

RASTERIZING = Lock()  # meanwhile, rasterio changes the warnings filters of all threads
STEPS = 1 << 16  # corners of polygons are rounded to this fraction of a pixel
PARTS = 64  # edges longer than this fraction of their ring get more points before reprojection
MAX_BYTES = 512 << 20  # bytes; Python takes ten times as much to read them
SQLITE, GEOPACKAGE = b"SQLite format 3\0", b"GP"  # at byte 0, and the application at byte 68
SHAPEFILE = b"\0\0\x27\x0a"
FORMATS = "GeoJSON, KML, GeoPackage or shapefile"
WGS84 = "OGC:CRS84"  # of GeoJSON, RFC 7946, and of KML
NAMED_CRS = re.compile(
    r"(urn:ogc:def:crs:)?(EPSG|OGC|ESRI|IAU\w*):([\w.]*:)?\w+"
    r"|https?://www\.opengis\.net/def/crs/\w+/[\w.]+/\w+"
)


@dataclass(frozen=True)
class Area:
    """Polygons in one CRS."""

    name: str  # for messages
    polygons: tuple[Polygon, ...]
    crs: CRS | None  # None: the CRS of the image, whatever it is

    def __post_init__(self) -> None:
        rings = [ring for polygon in self.polygons for ring in polygon]
        if not rings:
            raise UsageError(f"{self.name}: holds no polygons")
        if not all(len(ring) >= 4 and np.isfinite(ring).all() for ring in rings):
            raise UsageError(
                f"{self.name}: a ring has fewer than 4 points or a coordinate that is not finite"
            )


def area_from_box(min_x: float, min_y: float, max_x: float, max_y: float) -> Area:
    """Make an area of a box in the coordinates of the image.

    Raises:
        UsageError: The box is empty.
    """
    name = f"--bbox {min_x:.10g} {min_y:.10g} {max_x:.10g} {max_y:.10g}"
    if not (min_x < max_x and min_y < max_y):
        raise UsageError(f"{name}: is empty; expected MINX MINY MAXX MAXY")
    corners = [(min_x, min_y), (max_x, min_y), (max_x, max_y), (min_x, max_y), (min_x, min_y)]
    return Area(name, ((np.array(corners, np.float64),),), None)


def area_from_file(path: Path) -> Area:
    """Read all polygons of a file of one of `FORMATS`.

    Raises:
        UsageError: The file is missing, of another format, without polygons, or holds other
            geometry.
        ModuleNotFoundError: GeoPackages and shapefiles need the extra `vector`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: is no regular file; expected {FORMATS}")
        with path.open("rb") as file:
            header = file.read(70)
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read ({fault.strerror})") from fault
    try:
        package = header.startswith(SQLITE) and header[68:] == GEOPACKAGE
        suffix = path.suffix.lower()
        if package or (header.startswith(SHAPEFILE) and suffix == ".shp"):
            data, crs = _read_layer(path)
        elif suffix == ".kml":
            data, crs = _read_kml(path), CRS.from_string(WGS84)
        else:
            data, crs = _read_geojson(path)
        return Area(str(path), tuple(_polygons(data)), crs)
    except (ValueError, TypeError, KeyError, RuntimeError, ElementTree.ParseError) as fault:
        raise UsageError(
            f"{path}: no area can be read from it ({fault}); expected polygons as {FORMATS}, which "
            "ogr2ogr writes"
        ) from fault


class AreaMask:
    """The pixels of a scene that lie in an area.

    Args:
        area: The area.
        path: Path of the image, for messages.
        grid: Grid of the image.

    Raises:
        SceneError: The area does not touch the image, or cannot be brought into its CRS.
    """

    def __init__(self, area: Area, path: RasterPath, grid: Grid) -> None:
        if area.crs is not None and not grid.crs:
            raise SceneError(f"{path}: states no CRS, so {area.name} cannot be placed on it")
        try:
            self._polygons = [_on_pixels(polygon, area.crs, grid) for polygon in area.polygons]
        except ProjectionError as fault:
            raise SceneError(
                f"{path}: {area.name} cannot be brought into its CRS, {short_name(grid.crs)} "
                f"({fault})"
            ) from fault
        # an outline encloses its holes
        low = np.array([outline.min(axis=0) for outline, *_ in self._polygons])
        high = np.array([outline.max(axis=0) for outline, *_ in self._polygons])
        self._tops, self._bottoms = low[:, 1], high[:, 1]
        (left, top), (right, bottom) = low.min(axis=0), high.max(axis=0)
        if top >= grid.height or bottom <= 0 or left >= grid.width or right <= 0:
            raise SceneError(
                f"{path}: {area.name} does not touch it: the image is {grid.width} x {grid.height} "
                f"px, the area would be columns {left:.0f} to {right:.0f} and rows {top:.0f} to "
                f"{bottom:.0f} of it"
            )

    def read(self, window: Window) -> BoolArray:
        """Return a mask (row, column) of a window: True inside the area."""
        corner, shape = (window.col_off, window.row_off), (window.height, window.width)
        near = (self._tops < window.row_off + window.height) & (self._bottoms > window.row_off)
        shapes = [
            {"type": "Polygon", "coordinates": [(ring - corner).tolist() for ring in polygon]}
            for polygon, touches in zip(self._polygons, near, strict=True)
            if touches
        ]
        if not shapes:
            return np.zeros(shape, np.bool_)
        with RASTERIZING:
            return np.asarray(rasterize(shapes, shape, dtype=np.uint8) > 0)


def _on_pixels(polygon: Polygon, crs: CRS | None, grid: Grid) -> Polygon:
    """Convert rings to (column, row) of the image."""
    rings = []
    for ring in polygon:
        x, y = ring.T
        if crs is not None and not same_horizontally(crs, grid.crs):
            x, y = reproject_points(crs, grid.crs, *_densified(ring).T)
        rows, columns = grid.pixel_coordinates(x, y)
        # exact in every window, so that a pixel on an edge does not depend on what is read
        rings.append(np.rint(np.stack([columns, rows], axis=1) * STEPS) / STEPS)
    return tuple(rings)


def _densified(ring: Ring) -> Ring:
    """Put points into long edges, because straight lines do not stay straight."""
    longest = float(np.ptp(ring, axis=0).max()) / PARTS
    if longest == 0:
        return ring
    pieces = []
    for start, stop in pairwise(ring):
        count = int(np.ceil(np.abs(stop - start).max() / longest)) or 1
        pieces.append(start + (stop - start) * (np.arange(count) / count)[:, None])
    return np.concatenate([*pieces, ring[-1:]])


def _read_layer(path: Path) -> tuple[Any, CRS]:
    """Read the one layer of a GeoPackage or shapefile as GeoJSON, in the layer's own CRS."""
    pyogrio: Any = import_module("pyogrio")
    raw: Any = import_module("pyogrio.raw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what GDAL finds odd
        layers = [name for name, kind in pyogrio.list_layers(path.absolute()) if kind is not None]
        if len(layers) != 1:
            names = ", ".join(layers[:100]) or "none"
            raise ValueError(f"has {len(layers)} layers ({names}); keep the one wanted")
        facts = pyogrio.read_info(path.absolute(), layer=layers[0])
        if not facts["crs"]:
            raise ValueError("states no CRS")
        column = (facts["geometry_name"] or "OGR_GEOMETRY").replace('"', '""')
        _, _, geometries, _ = raw.read(
            path.absolute(), layer=layers[0], columns=[], where=f'"{column}" IS NOT NULL'
        )
        if any(geometry is None for geometry in geometries):  # GDAL could not read it
            raise ValueError("has a damaged geometry")
        converted = io.BytesIO()
        raw.write(
            converted,
            geometry=geometries,
            field_data=[],
            fields=[],
            geometry_type="Unknown",
            crs=facts["crs"],
            driver="GeoJSON",
            COORDINATE_PRECISION=17,
        )
    return json.loads(converted.getvalue()), CRS.from_user_input(facts["crs"])


def _read_kml(path: Path) -> dict[str, Any]:
    """Read the polygons of all folders as GeoJSON; other geometry, such as labels, is left out."""
    polygons = []
    for polygon in ElementTree.fromstring(_content(path)).iterfind(".//{*}Polygon"):
        rings = polygon.findall("{*}outerBoundaryIs") + polygon.findall("{*}innerBoundaryIs")
        texts = [ring.findtext(".//{*}coordinates") or "" for ring in rings]
        polygons.append([[point.split(",") for point in text.split()] for text in texts])
    return {"type": "MultiPolygon", "coordinates": polygons}


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"is of {size >> 20} MiB; at most {MAX_BYTES >> 20} are read")
    return path.read_bytes()


def _read_geojson(path: Path) -> tuple[Any, CRS]:
    data = json.loads(_content(path))
    if not isinstance(data, dict):
        raise ValueError("is no GeoJSON object")
    stated = data.get("crs")  # of GeoJSON 2008; GDAL still writes it
    name = str(stated["properties"]["name"]) if stated else WGS84
    if not NAMED_CRS.fullmatch(name):  # GDAL would take it for a file or a URL
        raise ValueError(f"CRS {name[:80]!r} is no name such as urn:ogc:def:crs:EPSG::25832")
    try:
        return data, CRS.from_string(name)
    except CRSError as fault:
        raise ValueError(str(fault)) from fault


def _polygons(data: dict[str, Any]) -> Iterator[Polygon]:
    """Walk through a GeoJSON object. Third coordinates are left out."""
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
    elif kind in ("Polygon", "MultiPolygon"):
        parts = data["coordinates"] if kind == "MultiPolygon" else [data["coordinates"]]
        for rings in parts:
            if rings:
                yield tuple(np.array([point[:2] for point in ring], np.float64) for ring in rings)
    else:
        raise ValueError(f"holds {kind}, not polygons")
