"""Square metres of pixels, against what is known of the Earth, and of classes and polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform
from support import UTM

from mfnet_runtime.raster.grid import Grid
from mfnet_runtime.raster.pixel_area import ClassAreas, GroundArea, ground_area, ground_size

WORLD = from_origin(-180, 90, 1, 1)
CLASSES = np.random.default_rng(0).integers(0, 6, (1, 60, 40), dtype=np.uint8)


def found(crs: Any, grid: Affine | None, height: int = 60) -> GroundArea:
    area = ground_area({"crs": crs, "transform": grid}, height)
    assert area is not None
    return area


def test_projected_pixels_have_the_area_of_the_plane() -> None:
    area = found(**{"crs": UTM["crs"], "grid": UTM["transform"]})
    np.testing.assert_allclose(np.diff(area.above), 0.25)
    turned = found("EPSG:32632", Affine.rotation(30) @ Affine.scale(2, -3))
    np.testing.assert_allclose(np.diff(turned.above), 6)
    assert turned.how == "plane of EPSG:32632"


def test_feet_are_not_metres() -> None:
    area = found("EPSG:2225", from_origin(0, 0, 1, 1))  # California, US survey feet
    np.testing.assert_allclose(np.diff(area.above), (1200 / 3937) ** 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("crs", "square_kilometres"),
    [("EPSG:4326", 510_065_621.7), ("+proj=longlat +R=6371000 +no_defs", 510_064_471.9)],
)
def test_degrees_cover_the_ellipsoid(crs: str, square_kilometres: float) -> None:
    area = found(crs, WORLD, 180)
    assert area.above[-1] * 360 / 1e6 == pytest.approx(square_kilometres, rel=1e-9)
    cells = np.diff(area.above)
    np.testing.assert_allclose(cells, cells[::-1], rtol=1e-9)


def test_degrees_agree_with_an_equal_area_projection() -> None:
    grid = from_origin(11.5, 48.2, 1e-3, 1e-3)
    cells = np.diff(found("EPSG:4258", grid).above)
    x, y = transform(
        "EPSG:4258", "EPSG:3035", [11.5, 11.501, 11.501, 11.5], [48.2] * 2 + [48.199] * 2
    )
    shoelace = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert cells[0] == pytest.approx(shoelace, rel=1e-5)


def test_grads_are_not_degrees() -> None:
    paris = found("EPSG:4807", from_origin(0, 50, 1e-2, 1e-2))
    degrees = found(
        "+proj=longlat +a=6378249.2 +b=6356515 +no_defs", from_origin(0, 45, 9e-3, 9e-3)
    )
    np.testing.assert_allclose(np.diff(paris.above), np.diff(degrees.above), rtol=1e-9)


@pytest.mark.parametrize(
    "place",
    [
        {},
        {"crs": None, "transform": WORLD},
        {"crs": CRS.from_epsg(4326), "transform": WORLD @ Affine.rotation(5)},
        {"crs": CRS.from_epsg(32632), "gcps": []},
    ],
)
def test_without_a_place_nothing_is_said(place: dict[str, Any]) -> None:
    assert ground_area(place, 60) is None


TURNED = from_origin(5e5, 5.4e6, 1, 1) @ Affine.rotation(30) @ Affine.scale(0.5, 0.25)
COS_50 = 0.6427876  # scale of Web Mercator at 50 degrees
SIZES = {
    "metres": ("EPSG:32632", from_origin(5e5, 5.4e6, 0.5, 0.25), (0.5, 0.25)),
    "turned": ("EPSG:32632", TURNED, (0.5, 0.25)),
    "US survey feet": ("EPSG:2225", from_origin(6e6, 2e6, 1, 2), (1200 / 3937, 2400 / 3937)),
    # a metre is 1/111320 of a degree along the equator, and 1/110574 along a meridian there
    "degrees": ("EPSG:4326", from_origin(9, 0, 1e-5, 1e-5), (1.11320, 1.10574)),
    "degrees at 60": ("EPSG:4326", from_origin(9, 60, 1e-5, 1e-5), (0.55800, 1.11412)),
    "grads": ("EPSG:4807", from_origin(0, 0, 1e-5, 1e-5), (0.9 * 1.11320, 0.9 * 1.10567)),
    "Web Mercator": (
        "EPSG:3857",
        from_origin(1e6, 6_446_276, 0.3, 0.3),
        (0.3 * COS_50, 0.3 * COS_50),
    ),
    "no domain": ("EPSG:4326", from_origin(9, 95, 1e-5, 1e-5), None),
    "no latitudes": ("EPSG:4978", from_origin(9, 5, 1, 1), None),
    "no CRS": (None, from_origin(9, 5, 1, 1), None),
    "no transform": ("EPSG:32632", Affine.identity(), None),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_size_of_pixels_on_the_ground(name: str) -> None:
    crs, transform, expected = SIZES[name]
    size = ground_size(Grid(60, 40, transform, CRS.from_user_input(crs) if crs else None))
    assert size == (expected if expected is None else pytest.approx(expected, rel=4e-3))
    if name in ("metres", "turned", "US survey feet"):  # exactly that of the plane
        assert size == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632"])
def test_classes_add_up_in_whatever_pieces(crs: str) -> None:
    ground = found(crs, from_origin(11, 48, 1e-3, 1e-3))
    whole, parts = ClassAreas(ground, 5), ClassAreas(ground, 5)
    whole.add(0, CLASSES)
    for start in (0, 20, 40):
        for columns in (slice(0, 7), slice(7, 40)):
            parts.add(start, CLASSES[:, start : start + 20, columns])
    cells = np.diff(ground.above)
    expected = [(cells * (CLASSES[0] == index).sum(axis=1)).sum() for index in range(5)]
    assert whole.m2 is not None
    np.testing.assert_allclose(whole.m2, expected, rtol=1e-12)
    assert whole.m2 == parts.m2


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632"])
def test_a_diagonal_halves_a_square(crs: str) -> None:
    area = found(crs, from_origin(11, 48, 1e-3, 1e-3))
    columns, rows = np.array([3, 3, 9, 3], float), np.array([2, 8, 8, 2], float)
    both = area.of_ring(np.array([3, 3, 9, 9, 3], float), np.array([2, 8, 8, 2, 2], float))
    assert area.of_ring(columns, rows) == pytest.approx(both / 2, rel=1e-4)
    assert area.side == pytest.approx(np.sqrt(np.diff(area.above).mean()))


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632"])
def test_a_ring_has_the_area_of_the_pixels_inside(crs: str) -> None:
    area = found(crs, from_origin(11, 48, 1e-3, 1e-3))
    cells = np.diff(area.above)
    # an L: rows 2..5 of columns 3..5, and rows 5..9 of columns 3..9
    columns = np.array([3, 3, 9, 9, 5, 5, 3], float)
    rows = np.array([2, 9, 9, 5, 5, 2, 2], float)
    expected = cells[2:5].sum() * 2 + cells[5:9].sum() * 6
    assert area.of_ring(columns, rows) == pytest.approx(expected, rel=1e-12)
    assert area.of_ring(columns[::-1], rows[::-1]) == pytest.approx(expected, rel=1e-12)
