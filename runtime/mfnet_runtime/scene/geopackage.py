"""Polygons of a GeoPackage: an SQLite file whose geometries are WKB behind a short header.

After OGC 12-128r19 (GeoPackage 1.4) and OGC 06-103r4 (WKB); no library but Python's own.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS

from mfnet_runtime.scene.aoi import Polygon

POLYGON, MULTI_POLYGON, COLLECTION = 3, 6, 7
SECONDS = 60.0  # for all of a file: a view can be a query without end
MAX_BYTES = 1 << 30  # of geometries; a country's municipalities are a tenth of that
ENVELOPES = (0, 32, 48, 48, 64)  # bytes, by the code in the header's flags


def polygons_from_geopackage(path: Path) -> tuple[list[Polygon], CRS]:
    """All polygons of the one layer of a file, and their CRS.

    Raises:
        ValueError: says what is wrong, without the file's name.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            end = time.monotonic() + SECONDS
            file.set_progress_handler(lambda: time.monotonic() > end, 100_000)
            file.execute("PRAGMA trusted_schema = OFF")  # functions in views that do more than read
            file.execute("PRAGMA cell_size_check = ON")
            return _from_database(file)
    except sqlite3.OperationalError as fault:
        late = "interrupted" in str(fault)
        raise ValueError(f"not read after {SECONDS:g} s" if late else str(fault)) from fault
    except (sqlite3.Error, MemoryError, OverflowError) as fault:
        raise ValueError(str(fault) or "too large") from fault


def _from_database(file: sqlite3.Connection) -> tuple[list[Polygon], CRS]:
    layers = file.execute(
        "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns ORDER BY table_name "
        "LIMIT 100"
    ).fetchall()
    if len(layers) != 1:
        names = ", ".join(str(name) for name, _, _ in layers) or "none"
        raise ValueError(f"has {len(layers)} layers ({names}); put the one wanted into its own")
    ((table, column, srs_id),) = layers
    crs = _crs(file, srs_id)
    polygons: list[Polygon] = []
    read = 0
    for (blob,) in file.execute(f"SELECT {_quoted(column)} FROM {_quoted(table)}"):
        if blob is None:
            continue
        read += len(blob)
        if read > MAX_BYTES:
            raise ValueError(f"its geometries have more than {MAX_BYTES >> 20} MiB")
        polygons += _polygons_from_blob(blob)
    return polygons, crs


def _crs(file: sqlite3.Connection, srs_id: int) -> CRS:
    row = file.execute(
        "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys "
        "WHERE srs_id = ?",
        (srs_id,),
    ).fetchone()
    if row is None or srs_id in (-1, 0):
        raise ValueError("states no CRS")
    organization, code, definition = row
    if str(organization).upper() == "EPSG":
        return CRS.from_epsg(code)
    return CRS.from_wkt(definition)


def _quoted(name: Any) -> str:
    return '"' + str(name).replace('"', '""') + '"'


def _polygons_from_blob(blob: Any) -> list[Polygon]:
    """A feature's geometry: magic, version, flags, CRS, envelope, WKB."""
    if not isinstance(blob, bytes) or blob[:2] != b"GP":
        raise ValueError("geometry is not GeoPackage's")
    flags = blob[3]
    if flags & 0b10000:  # empty
        return []
    envelope = (flags >> 1) & 0b111
    if envelope >= len(ENVELOPES):
        raise ValueError("geometry header is damaged")
    try:
        polygons, _ = _polygons_from_wkb(blob, 8 + ENVELOPES[envelope])
    except (struct.error, IndexError) as fault:
        raise ValueError("geometry is cut off") from fault
    return polygons


def _polygons_from_wkb(data: bytes, at: int) -> tuple[list[Polygon], int]:
    """Polygons of the geometry at byte `at`, and the byte after it."""
    order = "<" if data[at] else ">"
    code, count = struct.unpack_from(f"{order}II", data, at + 1)
    kind, axes = code % 1000, {0: 2, 1: 3, 2: 3, 3: 4}.get(code // 1000)  # XY, XYZ, XYM, XYZM
    if kind not in (POLYGON, MULTI_POLYGON, COLLECTION) or axes is None:
        raise ValueError(f"holds geometry of WKB type {code}, not polygons")
    at += 9
    if kind != POLYGON:
        polygons = []
        for _ in range(count):
            part, at = _polygons_from_wkb(data, at)
            polygons += part
        return polygons, at
    rings = []
    for _ in range(count):
        (points,) = struct.unpack_from(f"{order}I", data, at)
        at += 4
        if at + points * axes * 8 > len(data):
            raise ValueError("geometry is cut off")
        flat = np.frombuffer(data, f"{order}f8", points * axes, at)
        rings.append(flat.reshape(points, axes)[:, :2].astype(np.float64))
        at += points * axes * 8
    return ([tuple(rings)] if rings else []), at
