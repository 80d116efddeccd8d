"""Areas of interest: which pixels lie inside, in any parts, any CRS, on turned images."""

from __future__ import annotations

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
from mfnet_runtime.raster.grid import Grid
from mfnet_runtime.scene.aoi import Area, AreaMask, area_from_box
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader

UTM32 = CRS.from_epsg(32632)
PLACE = from_origin(500_000, 5_400_000, 0.5, 0.5)
GRID = Grid(600, 80, PLACE, UTM32)
IMAGE = Path("image.tif")


def rows_of(mask: AreaMask, start: int, stop: int) -> Any:
    """Full rows."""
    return mask.read(Window(0, start, mask.grid.width, stop - start))


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
    found = rows_of(AreaMask(TRIANGLE, IMAGE, grid), 0, grid.height)
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


def test_rows_do_not_depend_on_how_many_are_read() -> None:
    # edges that run exactly through centres of pixels
    box = area_from_box(500_002.25, 5_399_800.25, 500_030.25, 5_399_997.25)
    for area in (TRIANGLE, box):
        mask = AreaMask(area, IMAGE, GRID)
        whole = rows_of(mask, 0, 600)
        for count in (1, 7, 300):
            parts = [rows_of(mask, top, min(top + count, 600)) for top in range(0, 600, count)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_box_is_in_the_images_coordinates() -> None:
    found = AreaMask(area_from_box(500_002, 5_399_990, 500_010, 5_399_995), IMAGE, GRID)
    rows, columns = np.nonzero(rows_of(found, 0, 600))
    assert (rows.min(), rows.max()) == (10, 19)
    assert (columns.min(), columns.max()) == (4, 19)


def test_polygons_of_another_crs_are_bent() -> None:
    """A straight edge of 20 km in degrees is an arc in UTM, here 16 m high."""
    grid = Grid(120, 2000, from_origin(600_000, 5_540_000, 10, 10), UTM32)
    corners = [(10.4, 50.0), (10.68, 50.0), (10.68, 50.005), (10.4, 50.005)]
    found = AreaMask(Area("a.geojson", ((ring(*corners),),), CRS.from_epsg(4326)), IMAGE, grid)
    lon, lat = (
        np.reshape(axis, (120, 2000))
        for axis in transform(UTM32, "EPSG:4326", *(axis.ravel() for axis in centres(grid)))
    )
    expected = (lon > 10.4) & (lon < 10.68) & (lat > 50.0) & (lat < 50.005)
    mask = rows_of(found, 0, 120)
    assert expected.sum() > 40_000
    assert (mask != expected).mean() < 1e-5


def test_several_polygons_add_up() -> None:
    boxes = [
        area_from_box(500_000 + 10 * i, 5_399_990, 500_005 + 10 * i, 5_399_995) for i in (0, 1)
    ]
    both = Area("two", tuple(polygon for box in boxes for polygon in box.polygons), UTM32)
    parts = [rows_of(AreaMask(box, IMAGE, GRID), 0, 600) for box in boxes]
    np.testing.assert_array_equal(rows_of(AreaMask(both, IMAGE, GRID), 0, 600), parts[0] | parts[1])


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
    message = r"image\.tif: --bbox .* does not touch it: the image is 80 x 600 px, .* rows -?\d+ to"
    with pytest.raises(SceneError, match=message):
        AreaMask(area_from_box(*box), IMAGE, GRID)


def test_an_area_needs_a_place() -> None:
    with pytest.raises(SceneError, match=r"image\.tif: states no CRS, so area\.gpkg has no place"):
        AreaMask(TRIANGLE, IMAGE, Grid(600, 80, PLACE, None))
    with pytest.raises(SceneError, match="has no place in its CRS"):
        AreaMask(Area("a", TRIANGLE.polygons, CRS.from_epsg(4326)), IMAGE, GRID)


def test_empty_areas() -> None:
    with pytest.raises(UsageError, match="--bbox 5 0 5 1: is empty"):
        area_from_box(5, 0, 5, 1)
    with pytest.raises(UsageError, match="no polygons in it"):
        Area("a.gpkg", (), UTM32)
    with pytest.raises(UsageError, match="fewer than 4 points"):
        Area("a.gpkg", ((ring((0, 0), (1, 1)),),), UTM32)
    with pytest.raises(UsageError, match="not finite"):
        Area("a.gpkg", ((ring((0, 0), (1, 1), (np.nan, 2)),),), UTM32)


def test_pixels_outside_are_looked_at_but_not_wanted(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, dsm_profile={"nodata": -9999.0})
    area = area_from_box(500_002, 5_399_990, 500_010, 5_399_995)
    other = area_from_box(500_000, 5_399_980, 500_004, 5_400_000)
    with (
        SceneReader(scene) as plain,
        SceneReader(scene, options=ReadOptions(areas=(area, other))) as reader,
    ):
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
