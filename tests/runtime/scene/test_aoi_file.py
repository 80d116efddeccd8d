"""Polygons from GeoJSON and GeoPackage files, and what is said of files that hold none."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

import mfnet_runtime.scene.geopackage
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.aoi_file import area_from_file

SQUARE = [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 0.0]]
HOLE = [[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [1.0, 1.0]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
MULTI = {"type": "MultiPolygon", "coordinates": [[SQUARE], [HOLE]]}


def feature(geometry: Any) -> Any:
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def wkb(rings: list[Any], kind: int = 3, order: str = "<") -> bytes:
    """A polygon; points have as many coordinates as they have."""
    parts = [struct.pack(f"{order}BII", order == "<", kind, len(rings))]
    for ring in rings:
        parts.append(struct.pack(f"{order}I", len(ring)))
        parts += [struct.pack(f"{order}{len(point)}d", *point) for point in ring]
    return b"".join(parts)


def blob(geometry: bytes, envelope: int = 0, empty: bool = False) -> bytes:
    """A GeoPackage geometry."""
    bounds = bytes((0, 32, 48, 48, 64)[envelope])
    return b"GP\0" + bytes([1 | envelope << 1 | empty << 4]) + bytes(4) + bounds + geometry


def write_geopackage(
    path: Path, blobs: list[bytes | None], epsg: int = 32632, layers: tuple[str, ...] = ('a"b',)
) -> Path:
    """As OGC 12-128 asks; the tables that readers of polygons need."""
    wkt = CRS.from_epsg(epsg).to_wkt()
    with closing(sqlite3.connect(path)) as file:
        file.executescript(
            "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY;"
            "CREATE TABLE gpkg_spatial_ref_sys (srs_name, srs_id, organization,"
            " organization_coordsys_id, definition);"
            "CREATE TABLE gpkg_geometry_columns (table_name, column_name, geometry_type_name,"
            " srs_id, z, m);"
        )
        row = ("a", 7, "epsg", epsg, wkt)
        file.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?)", row)
        own = ("a", 8, "none", 0, wkt)
        file.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?)", own)
        for layer in layers:
            quoted = '"' + layer.replace('"', '""') + '"'
            file.execute(f"CREATE TABLE {quoted} (fid INTEGER PRIMARY KEY, geom BLOB)")
            file.executemany(f"INSERT INTO {quoted} (geom) VALUES (?)", [(one,) for one in blobs])
            srs = (layer, 8 if epsg == 2994 else 7)
            file.execute(
                "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', ?, 0, 0)", srs
            )
        file.commit()
    return path


@pytest.mark.parametrize(
    ("data", "polygons"),
    [
        (POLYGON, [[SQUARE, HOLE]]),
        (MULTI, [[SQUARE], [HOLE]]),
        (feature(POLYGON), [[SQUARE, HOLE]]),
        (
            {"type": "FeatureCollection", "features": [feature(MULTI), feature(None)]},
            [[SQUARE], [HOLE]],
        ),
        ({"type": "GeometryCollection", "geometries": [POLYGON]}, [[SQUARE, HOLE]]),
        (
            {"type": "Polygon", "coordinates": [[[*point, 9.0] for point in SQUARE]]},
            [[SQUARE]],
        ),
    ],
)
def test_geojson(tmp_path: Path, data: Any, polygons: Any) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(data), encoding="utf-8-sig")
    area = area_from_file(path)
    assert [[ring.tolist() for ring in polygon] for polygon in area.polygons] == polygons
    assert area.crs == CRS.from_user_input("OGC:CRS84")
    assert area.name == str(path)


def test_geojson_with_a_crs_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "area.json"
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    path.write_text(json.dumps({**POLYGON, "crs": crs}))
    assert area_from_file(path).crs == CRS.from_epsg(32632)


@pytest.mark.parametrize("envelope", range(5))
@pytest.mark.parametrize("order", ["<", ">"])
def test_geopackage(tmp_path: Path, envelope: int, order: str) -> None:
    blobs = [blob(wkb([SQUARE, HOLE], order=order), envelope), None, blob(b"", empty=True)]
    area = area_from_file(write_geopackage(tmp_path / "area.gpkg", blobs))
    (polygon,) = area.polygons
    assert [ring.tolist() for ring in polygon] == [SQUARE, HOLE]
    assert area.crs == CRS.from_epsg(32632)


@pytest.mark.parametrize(("kind", "extra"), [(1003, 1), (2003, 1), (3003, 2)])
def test_geopackage_with_heights_or_measures(tmp_path: Path, kind: int, extra: int) -> None:
    rings = [[[*point, *[9.0] * extra] for point in SQUARE]]
    area = area_from_file(write_geopackage(tmp_path / "a.gpkg", [blob(wkb(rings, kind))]))
    assert area.polygons[0][0].tolist() == SQUARE


@pytest.mark.parametrize("kind", [6, 7])
def test_geopackage_of_many_polygons(tmp_path: Path, kind: int) -> None:
    many = struct.pack("<BII", 1, kind, 2) + wkb([SQUARE]) + wkb([HOLE], order=">")
    area = area_from_file(write_geopackage(tmp_path / "a.gpkg", [blob(many)]))
    assert [polygon[0].tolist() for polygon in area.polygons] == [SQUARE, HOLE]


def test_geopackage_with_a_crs_of_its_own(tmp_path: Path) -> None:
    area = area_from_file(write_geopackage(tmp_path / "a.gpkg", [blob(wkb([SQUARE]))], epsg=2994))
    assert area.crs == CRS.from_epsg(2994)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no area can be read from it"),
        ("[1, 2]", "not a GeoJSON object"),
        ('{"type": "Polygon"}', "'coordinates'"),
        ('{"type": "Point", "coordinates": [1, 2]}', "holds Point"),
        ('{"type": "Polygon", "coordinates": []}', "no polygons in it"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}', "fewer than 4 points"),
        ('{"type": "Polygon", "coordinates": [[[0, "x"]]]}', "no area can be read"),
        ('{"type": "FeatureCollection", "features": []}', "no polygons in it"),
        ("[" * 100_000, "no area can be read"),
        (
            '{"type": "Polygon", "coordinates": [], "crs": {"properties": {"name": "EPSG:0"}}}',
            "EPSG codes",
        ),
        ("\udcff", "no area can be read"),
    ],
)
def test_geojson_without_an_area(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "area.geojson"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=message) as raised:
        area_from_file(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("blobs", "layers", "message"),
    [
        ([blob(struct.pack("<BIdd", 1, 1, 0, 0))], ("a",), "WKB type 1, not polygons"),
        ([blob(wkb([SQUARE])[:-9])], ("a",), "cut off"),
        ([blob(wkb([SQUARE]))[:10]], ("a",), "cut off"),
        ([b"XX" + blob(wkb([SQUARE]))[2:]], ("a",), "not GeoPackage's"),
        ([blob(struct.pack("<BII", 1, 3, 1 << 31))], ("a",), "cut off"),
        ([blob(wkb([SQUARE]))], ("a", "b"), r"has 2 layers \(a, b\)"),
        ([], (), r"has 0 layers \(none\)"),
        ([None], ("a",), "no polygons in it"),
    ],
)
def test_geopackage_without_an_area(
    tmp_path: Path, blobs: list[bytes | None], layers: tuple[str, ...], message: str
) -> None:
    path = write_geopackage(tmp_path / "area.gpkg", blobs, layers=layers)
    with pytest.raises(UsageError, match=message) as raised:
        area_from_file(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_other_databases_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "other.gpkg"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE a (b)")
    with pytest.raises(UsageError, match="no such table"):
        area_from_file(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UsageError, match="no area can be read"):
        area_from_file(path)
    with pytest.raises(UsageError, match="cannot be read"):
        area_from_file(tmp_path / "none.gpkg")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 200), st.integers(0, 255))
def test_damaged_geometry_is_polygons_or_a_fault(tmp_path: Path, at: int, value: int) -> None:
    data = bytearray(blob(struct.pack("<BII", 1, 6, 1) + wkb([SQUARE, HOLE]), 1))
    data[at % len(data)] = value
    path = tmp_path / "a.gpkg"
    path.unlink(missing_ok=True)
    write_geopackage(path, [bytes(data)])
    try:
        area = area_from_file(path)
    except UsageError:
        return
    assert all(np.isfinite(ring).all() for polygon in area.polygons for ring in polygon)


@pytest.mark.parametrize(
    "name", ["EPSG:32632", "urn:ogc:def:crs:EPSG:9.8.15:32632", "ESRI:102100", "OGC:CRS84",
             "http://www.opengis.net/def/crs/EPSG/0/32632"],
)  # fmt: skip
def test_names_of_crs(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({**POLYGON, "crs": {"properties": {"name": name}}}))
    assert area_from_file(path).crs


@pytest.mark.parametrize("name", ["{}/crs.wkt", "crs.wkt", "http://127.0.0.1/crs", "/vsicurl/a"])
def test_a_crs_is_no_file_and_no_url(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL would open either."""
    (tmp_path / "crs.wkt").write_text(CRS.from_epsg(32632).to_wkt())
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.geojson"
    crs = {"properties": {"name": name.format(tmp_path)}}
    path.write_text(json.dumps({**POLYGON, "crs": crs}))
    with pytest.raises(UsageError, match=r"a\.geojson: no area .*is not named as by urn:ogc"):
        area_from_file(path)


def test_a_pipe_is_no_area(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.geojson")
    with pytest.raises(UsageError, match=r"pipe\.geojson: is no regular file"):
        area_from_file(tmp_path / "pipe.geojson")


def test_a_longer_file_than_fits_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.geojson"
    path.touch()
    os.truncate(path, 1 << 32)
    with pytest.raises(UsageError, match="4096 MiB, of which at most 512 are read"):
        area_from_file(path)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} AS geom FROM n"


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ("NULL", r"not read after 0\.5 s"),
        ("x'{}'", "its geometries have more than 1 MiB"),
        ("zeroblob(2000000)", "its geometries have more than 1 MiB"),
    ],
)
def test_a_view_without_end(
    tmp_path: Path, geometry: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mfnet_runtime.scene.geopackage, "SECONDS", 0.5)
    monkeypatch.setattr(mfnet_runtime.scene.geopackage, "MAX_BYTES", 1 << 20)
    path = write_geopackage(tmp_path / "a.gpkg", [blob(wkb([SQUARE]))], layers=("real",))
    with closing(sqlite3.connect(path)) as file:
        made = geometry.format(blob(wkb([SQUARE])).hex())
        file.execute(f"CREATE VIEW endless AS {ENDLESS.format(made)}")
        file.execute("UPDATE gpkg_geometry_columns SET table_name = 'endless'")
        file.commit()
    with pytest.raises(UsageError, match=message):
        area_from_file(path)
