"""Areas of interest: read from files, and which pixels lie inside."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform
from rasterio.windows import Window
from support import write_scene

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.raster.crs import same_horizontally
from mfnet_runtime.raster.grid import Grid
from mfnet_runtime.scene.aoi import Area, AreaMask, area_from_box, area_from_file
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader

UTM32 = CRS.from_epsg(32632)
PLACE = from_origin(500_000, 5_400_000, 0.5, 0.5)
GRID = Grid(600, 80, PLACE, UTM32)
IMAGE = Path("image.tif")


def mask_of(area: Area, grid: Grid = GRID) -> Any:
    """The mask of a whole image."""
    return AreaMask(area, IMAGE, grid).read(Window(0, 0, grid.width, grid.height))


def ring(*points: tuple[float, float]) -> Any:
    return np.array([*points, points[0]], np.float64)


def inside_ring(points: Any, x: Any, y: Any) -> Any:
    """By counting crossings of a ray, one edge after the other."""
    inside = np.zeros(x.shape, np.bool_)
    for (x0, y0), (x1, y1) in pairwise(points):
        if y0 == y1:
            continue
        crossed = (y0 > y) != (y1 > y)
        inside ^= crossed & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


def centres(grid: Grid) -> tuple[Any, Any]:
    """Map coordinates of pixels."""
    rows, columns = np.mgrid[0 : grid.height, 0 : grid.width] + 0.5
    x, y = grid.transform * (columns, rows)
    return x, y


OUTLINE = ring((500_003.1, 5_399_990.37), (500_037.4, 5_399_981.2), (500_030.9, 5_399_710.7))
HOLE = ring((500_015.2, 5_399_950.6), (500_031.3, 5_399_940.1), (500_026.1, 5_399_880.4))
TRIANGLE = Area("area.gpkg", ((OUTLINE, HOLE),), UTM32)


@pytest.mark.parametrize(
    "grid",
    [
        GRID,
        Grid(700, 300, PLACE * Affine.translation(0, 100) * Affine.rotation(-20), UTM32),
        Grid(400, 90, from_origin(500_000, 5_399_700, 0.5, -0.8), UTM32),  # south up
    ],
    ids=["north up", "turned", "south up"],
)
def test_pixels_whose_centre_is_inside(grid: Grid) -> None:
    x, y = centres(grid)
    expected = inside_ring(OUTLINE, x, y) & ~inside_ring(HOLE, x, y)
    found = mask_of(TRIANGLE, grid)
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


def test_parts_are_parts_of_the_whole() -> None:
    # edges that run exactly through centres of pixels
    box = area_from_box(500_002.25, 5_399_800.25, 500_030.25, 5_399_997.25)
    for area in (TRIANGLE, box):
        mask, whole = AreaMask(area, IMAGE, GRID), mask_of(area)
        for count in (1, 7, 300):
            for columns in (slice(0, 80), slice(13, 50)):
                width = columns.stop - columns.start
                for top in range(0, 600, count):
                    rows = min(count, 600 - top)
                    part = mask.read(Window(columns.start, top, width, rows))
                    np.testing.assert_array_equal(part, whole[top : top + rows, columns])


def test_a_box_is_in_the_images_coordinates() -> None:
    rows, columns = np.nonzero(mask_of(area_from_box(500_002, 5_399_990, 500_010, 5_399_995)))
    assert (rows.min(), rows.max()) == (10, 19)
    assert (columns.min(), columns.max()) == (4, 19)


def test_polygons_of_another_crs_are_bent() -> None:
    """A straight edge of 20 km in degrees is an arc in UTM, here 16 m high."""
    grid = Grid(120, 2000, from_origin(600_000, 5_540_000, 10, 10), UTM32)
    corners = [(10.4, 50.0), (10.68, 50.0), (10.68, 50.005), (10.4, 50.005)]
    mask = mask_of(Area("a.geojson", ((ring(*corners),),), CRS.from_epsg(4326)), grid)
    lon, lat = (
        np.reshape(axis, (120, 2000))
        for axis in transform(UTM32, "EPSG:4326", *(axis.ravel() for axis in centres(grid)))
    )
    expected = (lon > 10.4) & (lon < 10.68) & (lat > 50.0) & (lat < 50.005)
    assert expected.sum() > 40_000
    assert (mask != expected).mean() < 1e-5


def test_several_polygons_add_up() -> None:
    boxes = [
        area_from_box(500_000 + 10 * i, 5_399_990, 500_005 + 10 * i, 5_399_995) for i in (0, 1)
    ]
    both = Area("two", tuple(polygon for box in boxes for polygon in box.polygons), UTM32)
    np.testing.assert_array_equal(mask_of(both), mask_of(boxes[0]) | mask_of(boxes[1]))


@pytest.mark.parametrize(
    "box",
    [
        (500_041, 5_399_990, 500_050, 5_399_995),
        (499_990, 5_399_990, 500_000, 5_399_995),
        (500_000, 5_400_000, 500_010, 5_400_010),
        (500_000, 5_399_000, 500_010, 5_399_700),
    ],
)
def test_an_area_elsewhere_is_refused(box: tuple[float, float, float, float]) -> None:
    message = (
        r"image\.tif: --bbox .* does not touch it: the image is 80 x 600 px, .* columns -?\d+ to"
    )
    with pytest.raises(SceneError, match=message):
        AreaMask(area_from_box(*box), IMAGE, GRID)


def test_an_area_needs_a_place() -> None:
    with pytest.raises(
        SceneError, match=r"image\.tif: states no CRS, so area\.gpkg cannot be placed"
    ):
        AreaMask(TRIANGLE, IMAGE, Grid(600, 80, PLACE, None))
    with pytest.raises(SceneError, match="cannot be brought into its CRS"):
        AreaMask(Area("a", TRIANGLE.polygons, CRS.from_epsg(4326)), IMAGE, GRID)


def test_empty_areas() -> None:
    with pytest.raises(UsageError, match="--bbox 5 0 5 1: is empty"):
        area_from_box(5, 0, 5, 1)
    with pytest.raises(UsageError, match="holds no polygons"):
        Area("a.gpkg", (), UTM32)
    with pytest.raises(UsageError, match="fewer than 4 points"):
        Area("a.gpkg", ((ring((0, 0), (1, 1)),),), UTM32)
    with pytest.raises(UsageError, match="not finite"):
        Area("a.gpkg", ((ring((0, 0), (1, 1), (np.nan, 2)),),), UTM32)


def test_pixels_outside_are_read_but_not_wanted(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, dsm_profile={"nodata": -9999.0})
    left = [[500_000, 5_399_980], [500_004, 5_399_980], [500_004, 5_400_000], [500_000, 5_400_000]]
    area = {
        "type": "Polygon",
        "coordinates": [[*left, left[0]]],
        "crs": {"properties": {"name": "EPSG:32632"}},
    }
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    box = (500_002, 5_399_990, 500_010, 5_399_995)
    read = ReadOptions(bbox=box, aoi=tmp_path / "area.geojson")
    with SceneReader(scene) as plain, SceneReader(scene, options=read) as reader:
        whole, rows = plain.read(0, 40), reader.read(0, 40)
        assert whole.inside is None
        assert whole.wanted.all()
        np.testing.assert_array_equal(rows.image, whole.image)
        assert rows.image_valid.all()
        for one, all_heights in zip(reader.heights(), plain.heights(), strict=True):
            np.testing.assert_array_equal(one, all_heights)
    expected = np.zeros((40, 48), np.bool_)
    expected[10:20, 4:8] = True  # in both
    np.testing.assert_array_equal(rows.wanted, expected)


SQUARE = [[0.0, 0.0], [4.1, 0.0], [4.1, 4.0], [0.0, 0.0]]
INNER = [[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [1.0, 1.0]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE, INNER]}
MULTI = {"type": "MultiPolygon", "coordinates": [[SQUARE], [INNER]]}


def feature(geometry: Any) -> Any:
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def write_geojson(folder: Path, data: Any, **more: Any) -> Path:
    path = folder / "a b#c.geojson"
    path.write_text(json.dumps({**data, **more}), encoding="utf-8-sig")
    return path


def write_geopackage(folder: Path, data: Any, layers: str = "a", crs: Any = "EPSG:32632") -> Path:
    raw = pytest.importorskip("pyogrio.raw", reason="pyogrio is not installed")
    _, _, geometries, _ = raw.read(write_geojson(folder, data))
    path = folder / "a b#c.gpkg"
    given = {"field_data": [], "fields": [], "geometry_type": "Unknown", "crs": crs}
    for layer in layers:
        raw.write(path, geometry=geometries, layer=layer, **given)
    return path


@pytest.mark.parametrize("write", [write_geojson, write_geopackage])
@pytest.mark.parametrize(
    ("data", "polygons"),
    [
        (POLYGON, [[SQUARE, INNER]]),
        (MULTI, [[SQUARE], [INNER]]),
        (
            {"type": "FeatureCollection", "features": [feature(MULTI), feature(None)]},
            [[SQUARE], [INNER]],
        ),
        ({"type": "GeometryCollection", "geometries": [POLYGON]}, [[SQUARE, INNER]]),
        ({"type": "Polygon", "coordinates": [[[*point, 9.0] for point in SQUARE]]}, [[SQUARE]]),
    ],
)
def test_polygons_of_a_file(tmp_path: Path, write: Any, data: Any, polygons: Any) -> None:
    path = write(tmp_path, data)
    area = area_from_file(path)
    assert [[ring.tolist() for ring in polygon] for polygon in area.polygons] == polygons
    assert area.crs == CRS.from_user_input("OGC:CRS84" if write is write_geojson else "EPSG:32632")
    assert area.name == str(path)


def write_shapefile(folder: Path, data: Any, crs: Any = "EPSG:32632") -> Path:
    raw = pytest.importorskip("pyogrio.raw", reason="pyogrio is not installed")
    _, _, geometries, _ = raw.read(write_geojson(folder, data))
    path = folder / "a b#c.shp"
    given = {"field_data": [], "fields": [], "geometry_type": "Polygon", "crs": crs}
    raw.write(path, geometry=geometries, **given)
    return path


@pytest.mark.parametrize("code", ["EPSG:32632", "EPSG:3006"])
def test_polygons_of_a_shapefile(tmp_path: Path, code: str) -> None:
    """It states its CRS as ESRI WKT, and turns rings around."""
    features = {"type": "FeatureCollection", "features": [feature(MULTI), feature(None)]}
    area = area_from_file(write_shapefile(tmp_path, features, code))
    rings = [[sorted(ring.tolist()) for ring in polygon] for polygon in area.polygons]
    assert sorted(rings) in ([[sorted(SQUARE), sorted(INNER)]], [[sorted(SQUARE)], [sorted(INNER)]])
    assert same_horizontally(area.crs, CRS.from_string(code))


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_shapefiles_without_an_area(tmp_path: Path) -> None:
    path = write_shapefile(tmp_path, POLYGON, None)
    with pytest.raises(UsageError, match=r"c\.shp: no area can be read from it \(states no CRS\)"):
        area_from_file(path)
    path.with_suffix(".shx").unlink()
    with pytest.raises(UsageError, match=r"c\.shp: no area can be read from it .*\.shx"):
        area_from_file(path)


KML = """<?xml version="1.0" encoding="{}"?>
<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Placemark><name>Fläche</name>
<Point><coordinates>1,2,0</coordinates></Point></Placemark><Folder><Placemark><MultiGeometry>
<Polygon><tessellate>1</tessellate><outerBoundaryIs><LinearRing><coordinates>
  0,0,5 4.1,0,5 4.1,4,5
  0,0,5 </coordinates></LinearRing></outerBoundaryIs><innerBoundaryIs><LinearRing><coordinates>
  1,1 2,1 2,2 1,1</coordinates></LinearRing></innerBoundaryIs></Polygon>
<Polygon><outerBoundaryIs><LinearRing><coordinates>1,1 2,1 2,2 1,1</coordinates></LinearRing>
</outerBoundaryIs></Polygon></MultiGeometry></Placemark></Folder></Document></kml>"""


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-8-sig", "ISO-8859-1", "UTF-16"])
def test_polygons_of_kml(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "area.KML"
    path.write_text(KML.format(encoding.removesuffix("-sig")), encoding=encoding)
    area = area_from_file(path)
    polygons = [[ring.tolist() for ring in polygon] for polygon in area.polygons]
    assert polygons == [[SQUARE, INNER], [INNER]]
    assert area.crs == CRS.from_string("OGC:CRS84")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no element found"),
        ("<kml><Placemark/></kml>", "holds no polygons"),
        ("<kml><Polygon><outerBoundaryIs/></Polygon></kml>", "fewer than 4 points"),
        ("<OGRVRTDataSource/>", "holds no polygons"),
    ],
)
def test_kml_without_an_area(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "area.kml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        area_from_file(path)


def test_geopackage_needs_pyogrio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_geopackage(tmp_path, POLYGON)
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(ModuleNotFoundError, match="pyogrio"):
        area_from_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no area can be read from it"),
        ("[1, 2]", "is no GeoJSON object"),
        ('{"type": "Polygon"}', "'coordinates'"),
        ('{"type": "Point", "coordinates": [1, 2]}', "holds Point"),
        ('{"type": "Polygon", "coordinates": []}', "holds no polygons"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}', "fewer than 4 points"),
        ('{"type": "Polygon", "coordinates": [[[0, "x"]]]}', "no area can be read"),
        ("[" * 100_000, "no area can be read"),
        (
            '{"type": "Polygon", "coordinates": [], "crs": {"properties": {"name": "EPSG:0"}}}',
            "EPSG codes",
        ),
        ('{"type": "Polygon", "coordinates": [], "crs": {"type": "link"}}', "no area can be read"),
        ("\udcff", "no area can be read"),
        ("<OGRVRTDataSource/>", "no area can be read"),
        ("SQLite format 3\0" + "x" * 90, "no area can be read"),
        ("SQLite format 3\0" + "\0" * 52 + "GPKG" + "\0" * 90, "no area can be read"),
    ],
)
def test_files_without_an_area(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "area.geojson"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=message) as raised:
        area_from_file(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, {}, "holds Point, not polygons"),
        (POLYGON, {"layers": "ab"}, r"has 2 layers \(a, b\)"),
        (POLYGON, {"crs": None}, "states no CRS"),
        (feature(None), {}, "holds no polygons"),
    ],
)
def test_geopackages_without_an_area(tmp_path: Path, data: Any, more: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        area_from_file(write_geopackage(tmp_path, data, **more))


@pytest.mark.parametrize("length", [3, 20, 100])
def test_a_damaged_geometry_is_not_left_out(tmp_path: Path, length: int) -> None:
    path = write_geopackage(tmp_path, {"type": "FeatureCollection", "features": [feature(POLYGON)]})
    with closing(sqlite3.connect(path)) as file:
        triggers = file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            file.execute(f'DROP TRIGGER "{name}"')
        file.execute("UPDATE a SET geom = substr(geom, 1, ?) WHERE fid = 1", (length,))
        file.commit()
    with pytest.raises(UsageError, match=r"\.gpkg: no area can be read"):
        area_from_file(path)


@pytest.mark.parametrize(
    "name", ["EPSG:32632", "urn:ogc:def:crs:EPSG:9.8.15:32632", "ESRI:102100", "OGC:CRS84",
             "http://www.opengis.net/def/crs/EPSG/0/32632"],
)  # fmt: skip
def test_names_of_crs(tmp_path: Path, name: str) -> None:
    assert area_from_file(write_geojson(tmp_path, POLYGON, crs={"properties": {"name": name}})).crs


@pytest.mark.parametrize("name", ["{}/crs.wkt", "crs.wkt", "http://127.0.0.1/crs", "/vsicurl/a"])
def test_a_crs_is_no_file_and_no_url(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL would open either."""
    (tmp_path / "crs.wkt").write_text(CRS.from_epsg(32632).to_wkt())
    monkeypatch.chdir(tmp_path)
    crs = {"properties": {"name": name.format(tmp_path)}}
    with pytest.raises(UsageError, match=r"\.geojson: no area .*is no name such as urn:ogc"):
        area_from_file(write_geojson(tmp_path, POLYGON, crs=crs))


def test_no_regular_files_and_long_ones(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.geojson")
    with pytest.raises(UsageError, match=r"pipe\.geojson: is no regular file"):
        area_from_file(tmp_path / "pipe.geojson")
    with pytest.raises(UsageError, match="cannot be read"):
        area_from_file(tmp_path / "none.gpkg")
    (tmp_path / "long.geojson").touch()
    os.truncate(tmp_path / "long.geojson", 1 << 32)
    with pytest.raises(UsageError, match="is of 4096 MiB; at most 512 are read"):
        area_from_file(tmp_path / "long.geojson")
