"""Polygons of a class map cover its pixels exactly, and none is cut."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform_geom
from support import RGBD, UTM, write_raster

from mfnet_runtime.errors import UsageError
from mfnet_runtime.raster import vectors
from mfnet_runtime.raster.coverage import simplified
from mfnet_runtime.raster.polygons import polygons_from_raster
from mfnet_runtime.raster.styles import class_style
from mfnet_runtime.raster.vectors import FORMATS, require_format, vectors_from_classmap
from mfnet_runtime.run.options import VectorOptions

pyogrio = pytest.importorskip("pyogrio.raw")

BLOCKS = {"tiled": True, "blockxsize": 16, "blockysize": 16, "nodata": 255}


def patches(height: int = 90, width: int = 70, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return overlapping rectangles, some of nodata, and single pixels."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((height, width), np.uint8)
    for value in (1, 2, 255, 3, 1, 0, 2) * 3:
        top, left = rng.integers(0, height), rng.integers(0, width)
        classes[top : top + 25, left : left + 30] = value
    return np.where(rng.random(classes.shape) < 0.02, np.uint8(3), classes)


def written(
    folder: Path,
    classes: npt.NDArray[np.uint8],
    format: str,
    smallest: int = 0,
    min_area: float = 0,
    **place: Any,
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Return the polygons burnt into an array, and their attributes."""
    raster = write_raster(folder / "a.tif", classes, **BLOCKS, **(place or UTM))
    target = folder / f"a.{format}"
    vectors_from_classmap(raster, target, RGBD, classes.size, smallest, min_area)
    meta, _, geometries, fields = pyogrio.read(target, layer=0)
    attributes = dict(zip(meta["fields"], fields, strict=True))
    burnt = np.full(classes.shape, 255, np.uint8)
    if len(geometries):
        from_wkb = [rings(geometry) for geometry in geometries]
        if format == "geojson":
            from_wkb = transform_geom("EPSG:4326", (place or UTM)["crs"], from_wkb)
        grid = (place or UTM).get("transform", Affine.identity())
        rasterize(zip(from_wkb, attributes["class"], strict=True), out=burnt, transform=grid)
    return burnt, {**attributes, "crs": meta["crs"]}


def rings(geometry: bytes) -> dict[str, Any]:
    """Convert a polygon from WKB to GeoJSON."""
    order, kind, count = np.frombuffer(geometry, "u1,<u4,<u4", 1)[0]
    assert (order, kind) == (1, 3)
    found, at = [], 9
    for _ in range(count):
        corners = int(np.frombuffer(geometry, "<u4", 1, at)[0])
        found.append(np.frombuffer(geometry, "<f8", 2 * corners, at + 4).reshape(-1, 2).tolist())
        at += 4 + 16 * corners
    return {"type": "Polygon", "coordinates": found}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("turn", [0, 33])
def test_polygons_are_the_class_map(tmp_path: Path, format: str, turn: float) -> None:
    classes = patches()
    place = {**UTM, "transform": UTM["transform"] @ Affine.rotation(turn)}
    burnt, found = written(tmp_path, classes, format, **place)
    np.testing.assert_array_equal(burnt, classes)
    assert found["crs"] == ("EPSG:4326" if format == "geojson" else "EPSG:32632")
    for index, name in enumerate(RGBD.names):
        mine = found["class"] == index
        assert set(found["name"][mine]) == {name}
        assert found["area_m2"][mine].sum() == pytest.approx(0.25 * (classes == index).sum())


def test_nothing_is_cut_at_a_border_of_tiles(tmp_path: Path) -> None:
    classes = np.full((100, 100), 2, np.uint8)
    classes[40:60, 40:60] = 1
    raster = write_raster(tmp_path / "a.tif", classes, **BLOCKS, **UTM)
    ring, whole = sorted(polygons_from_raster(raster), key=lambda polygon: -polygon.index)
    assert (len(ring.rings), len(whole.rings)) == (2, 1)
    assert {tuple(corner) for corner in whole.rings[0]} == {(40, 40), (40, 60), (60, 40), (60, 60)}
    assert [len(corners) for corners in ring.rings] == [5, 5]


def test_sieving_removes_small_patches_and_keeps_nodata(tmp_path: Path) -> None:
    classes = patches()
    burnt, found = written(tmp_path, classes, "gpkg", 12)
    np.testing.assert_array_equal(burnt == 255, classes == 255)
    assert (burnt != classes).any()
    # a small patch may stay only where no neighbour is larger, as in a corner of nodata
    plain, _ = written(tmp_path, classes, "fgb")
    assert np.count_nonzero(found["area_m2"] < 3) < 5
    np.testing.assert_array_equal(plain, classes)


def test_small_polygons_are_left_out(tmp_path: Path) -> None:
    classes = patches()
    burnt, found = written(tmp_path, classes, "gpkg", min_area=2)
    assert found["area_m2"].min() >= 2
    kept = burnt != 255
    np.testing.assert_array_equal(burnt[kept], classes[kept])
    assert 0 < np.count_nonzero(~kept & (classes != 255)) < 500


def test_geopackages_hold_the_style_that_qgis_looks_for(tmp_path: Path) -> None:
    written(tmp_path, patches(), "gpkg")
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
        where = "f_table_schema = '' AND f_table_name = 'classes' AND f_geometry_column = 'geom'"
        rows = database.execute(
            f"SELECT styleQML FROM layer_styles WHERE {where} AND useAsDefault = 1"
        )
        assert rows.fetchall() == [(class_style(RGBD),)]


@pytest.mark.parametrize("tolerance", [0.5, 2])
def test_simplified_polygons_share_their_borders(tmp_path: Path, tolerance: float) -> None:
    """A tolerance of 0.5 pixels leaves every step of the border."""
    shapely = pytest.importorskip("shapely")
    classes = patches()
    raster = write_raster(tmp_path / "a.tif", classes, **BLOCKS, **UTM)
    steps = list(polygons_from_raster(raster))
    smooth = simplified(steps, tolerance)
    assert [one.index for one in smooth] == [one.index for one in steps]
    shapes = [shapely.Polygon(one.rings[0], one.rings[1:]) for one in smooth]
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes), "no gap, no overlap, common corners"
    burnt = rasterize(
        [(shape, one.index) for shape, one in zip(shapes, smooth, strict=True)],
        out_shape=classes.shape,
        fill=255,
    )
    changed = np.count_nonzero(burnt != classes)
    corners = [sum(len(ring) for one in some for ring in one.rings) for some in (steps, smooth)]
    if tolerance < 1:
        assert changed == 0
    else:
        assert 0 < changed < 0.02 * classes.size
        assert corners[1] < 0.9 * corners[0]


@pytest.mark.parametrize(
    "place", [UTM, {"crs": "EPSG:4326", "transform": Affine(7e-6, 0, 11, 0, -4.5e-6, 48)}]
)
def test_areas_are_those_of_simplified_polygons(tmp_path: Path, place: dict[str, Any]) -> None:
    shapely = pytest.importorskip("shapely")
    raster = write_raster(tmp_path / "a.tif", patches(), **BLOCKS, **place)
    vectors_from_classmap(raster, tmp_path / "a.gpkg", RGBD, 1, 4, simplify=1.0)
    _, _, geometries, fields = pyogrio.read(tmp_path / "a.gpkg", layer=0)
    pixel = 0.25 if place is UTM else 0.5222 * 0.5005  # m2, at 48 degrees north
    in_pixels = shapely.area(shapely.from_wkb(geometries)) / abs(place["transform"].determinant)
    np.testing.assert_allclose(fields[2], in_pixels * pixel, rtol=1e-6 if place is UTM else 1e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_a_scene_without_a_class_has_no_polygons(tmp_path: Path, format: str) -> None:
    _, found = written(tmp_path, np.full((9, 9), 255, np.uint8), format)
    assert len(found.get("class", ())) == 0


def test_degrees_and_no_crs_at_all(tmp_path: Path) -> None:
    classes = patches()
    degrees = {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 11, 0, -1e-5, 48)}
    burnt, found = written(tmp_path, classes, "gpkg", **degrees)
    np.testing.assert_array_equal(burnt, classes)
    assert found["area_m2"].sum() == pytest.approx(0.829 * (classes != 255).sum(), rel=1e-3)
    (tmp_path / "a.gpkg").unlink()
    burnt, found = written(tmp_path, classes, "gpkg", crs=None)
    np.testing.assert_array_equal(burnt, classes)
    assert np.isnan(found["area_m2"]).all()
    assert found["crs"] is None


@pytest.mark.parametrize("format", FORMATS)
def test_a_large_map_is_vectorised_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    written(tmp_path, patches(), format, 3, 1)
    target = tmp_path / f"a.{format}"
    here = target.read_bytes()
    target.unlink()
    monkeypatch.setattr(vectors, "PIXELS_HERE", 0)
    monkeypatch.setattr(vectors, "write_vectors", None)
    written(tmp_path, patches(), format, 3, 1)
    assert target.read_bytes() == here


def test_polygons_lost_on_the_way_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = pyogrio.read
    monkeypatch.setattr(
        pyogrio,
        "read",
        lambda path, layer: (
            *sound(path)[:2],
            *(part[1:] for part in sound(path)[2:3]),
            [f[1:] for f in sound(path)[3]],
        ),
    )
    with pytest.raises(OSError, match="read back differ"):
        vectors_from_classmap(
            write_raster(tmp_path / "a.tif", patches(), **BLOCKS, **UTM),
            tmp_path / "a.fgb",
            RGBD,
            1,
        )


def test_a_missing_folder(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "a.tif", patches(), **BLOCKS, **UTM)
    with pytest.raises(OSError, match="absent"):
        vectors_from_classmap(raster, tmp_path / "absent" / "a.gpkg", RGBD, 1)


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyogrio as package

    require_format("fgb")
    monkeypatch.setattr(package, "list_drivers", lambda: {"GPKG": "r"})
    with pytest.raises(UsageError, match="does not write GPKG"):
        require_format("gpkg")


@pytest.mark.parametrize(
    "words",
    [
        {"vectors": "kml"},
        {"sieve": -1},
        {"min_area": -0.1},
        {"min_area": float("nan")},
        {"simplify": float("inf")},
        {"vectors": None, "sieve": 3},
    ],
)
def test_bad_options_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        VectorOptions(**{"vectors": "gpkg", **words})
