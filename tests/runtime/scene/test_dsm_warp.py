"""A DSM on another grid comes onto the image's: against GDAL's warper, and bit by bit in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject, transform
from rasterio.windows import Window
from support import SHARED, read, write_raster

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.dsm_warp import AlignedHeights
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.scene.reprojection import Grid, LatticeMap, map_between
from mfnet_runtime.scene.resampling import KERNELS, block_means

RNG = np.random.default_rng(0)
UTM32 = CRS.from_epsg(32632)
PLACE = from_origin(500_000, 5_400_000, 2.0, 2.0)  # of the DSM, 2 m
HOLE = -9999.0


def rows_of(heights: AlignedHeights, start: int, stop: int) -> Any:
    """Full rows."""
    return heights.read(Window(0, start, heights.grid.width, stop - start))


def heights_with_holes(shape: tuple[int, int] = (120, 140)) -> Any:
    """Hills with noise, two holes and scattered ones."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    heights = 200 + 20 * np.sin(rows / 9) * np.cos(columns / 13) + RNG.normal(0, 1, shape)
    heights[20:30, 40:60] = heights[70, 70] = HOLE
    heights[RNG.random(shape) < 0.02] = HOLE
    return heights.astype(np.float32)


def write_dsm(folder: Path, heights: Any = None, **profile: Any) -> Path:
    heights = heights_with_holes() if heights is None else heights
    facts = {"nodata": HOLE, "crs": UTM32, "transform": PLACE, **profile}
    return write_raster(folder / "dsm.tif", heights, **facts)


def other_grids() -> dict[str, Grid]:
    """Image grids that lie on the DSM, not all of them whole."""
    x, y = transform(UTM32, "EPSG:2154", [500_010], [5_399_990])
    lon, lat = transform(UTM32, "EPSG:4326", [500_010], [5_399_990])
    return {
        "finer": Grid(90, 100, PLACE * Affine.translation(5, 7) * Affine.scale(0.5), UTM32),
        "shifted": Grid(70, 80, PLACE * Affine.translation(5.3, -7.8), UTM32),
        "coarser": Grid(40, 50, PLACE * Affine.translation(3, 4) * Affine.scale(2.4), UTM32),
        "much coarser": Grid(9, 10, PLACE * Affine.translation(3, 4) * Affine.scale(12), UTM32),
        "south up": Grid(60, 60, PLACE * Affine.translation(9, 90) * Affine.scale(1, -1), UTM32),
        "turned": Grid(
            80,
            80,
            PLACE * Affine.translation(60, 10) * Affine.rotation(33) * Affine.scale(0.8),
            UTM32,
        ),
        "other CRS": Grid(100, 110, from_origin(x[0], y[0], 1.5, 1.5), CRS.from_epsg(2154)),
        "degrees": Grid(100, 110, from_origin(lon[0], lat[0], 2e-5, 1.4e-5), CRS.from_epsg(4326)),
    }


def aligned(path: Path, grid: Grid, resampling: str) -> AlignedHeights:
    dataset = open_raster(path)
    dsm = Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)
    return AlignedHeights(HeightBand(path, dataset), dsm, grid, resampling)


def warped(path: Path, grid: Grid, resampling: str) -> Any:
    """By GDAL, in one piece and with exact coordinates."""
    result = np.full((grid.height, grid.width), HOLE, np.float32)
    with rasterio.open(path) as dsm:
        reproject(
            rasterio.band(dsm, 1),
            result,
            dst_transform=grid.transform,
            dst_crs=grid.crs,
            dst_nodata=HOLE,
            resampling=Resampling[resampling],
            tolerance=1e-9,
        )
    return result


@pytest.mark.parametrize("place", other_grids())
@pytest.mark.parametrize("resampling", KERNELS)
def test_rows_do_not_depend_on_how_many_are_read(
    tmp_path: Path, place: str, resampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = other_grids()[place]
    heights = aligned(write_dsm(tmp_path), grid, resampling)
    whole, known = rows_of(heights, 0, grid.height)
    assert known.any()
    assert not known.all()
    for count in (1, 7):
        parts = [
            rows_of(heights, start, min(start + count, grid.height))
            for start in range(0, grid.height, count)
        ]
        np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), whole)
        np.testing.assert_array_equal(np.concatenate([there for _, there in parts]), known)
    # nor on the pieces of the DSM that are read for them
    monkeypatch.setattr("mfnet_runtime.scene.dsm_warp.TILE", 33)
    monkeypatch.setattr("mfnet_runtime.scene.dsm_warp.PIECE", 500)
    pieces, there = rows_of(heights, 0, grid.height)
    np.testing.assert_array_equal(pieces, whole)
    np.testing.assert_array_equal(there, known)


@pytest.mark.parametrize("place", ["finer", "shifted", "south up", "other CRS", "degrees"])
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
def test_heights_are_those_of_gdals_warper(tmp_path: Path, place: str, resampling: str) -> None:
    grid = other_grids()[place]
    path = write_dsm(tmp_path)
    found, known = rows_of(aligned(path, grid, resampling), 0, grid.height)
    expected = warped(path, grid, resampling)
    np.testing.assert_array_equal(known, expected != HOLE)
    off = np.abs(found - expected)[known]
    assert off.mean() < 0.002  # metres, of 50
    assert np.quantile(off, 0.99) < 0.01


@pytest.mark.parametrize("scale", [1.7, 3.0])
def test_heights_under_coarser_pixels_all_count(tmp_path: Path, scale: float) -> None:
    """As GDAL widens its kernel; it does so by the piece, so the image must lie inside the DSM."""
    grid = Grid(30, 40, PLACE * Affine.translation(6, 7) * Affine.scale(scale), UTM32)
    path = write_dsm(tmp_path)
    found, known = rows_of(aligned(path, grid, "bilinear"), 0, 30)
    expected = warped(path, grid, "bilinear")
    np.testing.assert_array_equal(known, expected != HOLE)
    np.testing.assert_allclose(found[known], expected[known], atol=1e-3)


def test_average_of_whole_pixels_is_gdals(tmp_path: Path) -> None:
    grid = Grid(30, 35, PLACE * Affine.scale(4), UTM32)
    path = write_dsm(tmp_path)
    found, known = rows_of(aligned(path, grid, "average"), 0, grid.height)
    expected = warped(path, grid, "average")
    assert known.mean() > 0.9
    np.testing.assert_allclose(found[known], expected[known], atol=1e-4)
    shares = (read(path) != HOLE).reshape(30, 4, 35, 4).mean(axis=(1, 3))
    np.testing.assert_array_equal(known, shares >= 0.5)


@pytest.mark.parametrize("resampling", KERNELS)
@pytest.mark.parametrize("undeclared", [HOLE, np.nan, np.inf, -3.4e38])
def test_undeclared_holes_do_not_bleed(tmp_path: Path, resampling: str, undeclared: float) -> None:
    grid = other_grids()["finer"]
    heights = heights_with_holes()
    declared = aligned(write_dsm(tmp_path / "a", heights), grid, resampling)
    heights = np.where(heights == HOLE, np.float32(undeclared), heights)
    silent = aligned(write_dsm(tmp_path / "b", heights, nodata=None), grid, resampling)
    for one, other in zip(rows_of(declared, 0, 90), rows_of(silent, 0, 90), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_mask_band_does_not_bleed(tmp_path: Path) -> None:
    grid = other_grids()["shifted"]
    heights = heights_with_holes()
    expected = rows_of(aligned(write_dsm(tmp_path / "a", heights), grid, "cubic"), 0, 70)
    path = write_dsm(tmp_path / "b", np.where(heights == HOLE, 5000.0, heights), nodata=None)
    with rasterio.open(path, "r+") as dsm:
        dsm.write_mask(heights != HOLE)
    for one, other in zip(rows_of(aligned(path, grid, "cubic"), 0, 70), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_far_finer_dsm_is_averaged_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one pixel in 144 is taken: noise goes down by more than the square root of 16."""
    sides = []

    def recorded(values: Any, valid: Any, side: int) -> Any:
        sides.append(side)
        return block_means(values, valid, side)

    monkeypatch.setattr("mfnet_runtime.scene.dsm_warp.block_means", recorded)
    noise = RNG.normal(100, 4, (480, 480)).astype(np.float32)
    path = write_dsm(tmp_path, noise)
    grid = Grid(40, 40, PLACE * Affine.scale(12), UTM32)
    for resampling in ("bilinear", "average"):
        found, known = rows_of(aligned(path, grid, resampling), 0, 40)
        assert known.all()
        assert found.std() < 1
        assert abs(float(found.mean()) - 100) < 0.1
    rows_of(aligned(path, grid, "nearest"), 0, 40)
    assert sides == [6, 3]  # leaves the kernels some pixels to weigh


def test_coordinates_between_nodes_are_exact_enough() -> None:
    image = Grid(20_000, 30_000, from_origin(500_000, 5_400_000, 0.2, 0.2), UTM32)
    dsm = Grid(8000, 8000, from_origin(600_000, 6_900_000, 0.5, 0.5), CRS.from_epsg(2154))
    found = map_between(image, dsm)
    assert isinstance(found, LatticeMap)
    assert found.error < 1e-3
    rows, columns = RNG.uniform(0, 20_000, 50), RNG.uniform(0, 30_000, 50)
    x, y = transform(image.crs, dsm.crs, 500_000 + 0.2 * columns, 5_400_000 - 0.2 * rows)
    down, across = found(rows, columns)
    np.testing.assert_allclose(down, (6_900_000 - np.array(y)) / 0.5, atol=1e-3)
    np.testing.assert_allclose(across, (np.array(x) - 600_000) / 0.5, atol=1e-3)


def test_nodes_are_put_as_close_as_it_takes() -> None:
    image = Grid(2000, 1500, from_origin(2, 60, 0.01, 0.01), CRS.from_epsg(4326))
    found = map_between(image, Grid(9000, 9000, from_origin(0, 7e6, 100, 100), UTM32))
    assert isinstance(found, LatticeMap)
    assert found.error < 0.01
    assert len(found.y) > 65


def test_equal_places_are_equal_numbers() -> None:
    """Centres on the edges of pixels, for which rounding would decide whose they are."""
    image = Grid(500, 500, from_origin(500_000.1, 5_400_000.3, 0.18, 0.18), UTM32)
    dsm = Grid(1100, 1100, from_origin(499_996.77, 5_400_003.63, 0.09, 0.09), UTM32)
    at = np.arange(500.0) + 0.5
    for axis in map_between(image, dsm)(at[:, None], at[None]):
        np.testing.assert_array_equal(axis.ravel(), 2 * at + 37)


def scene(folder: Path, grid: Grid, **dsm: Any) -> Scene:
    """An image on that grid over the DSM."""
    pixels = RNG.integers(1, 255, (3, grid.height, grid.width), dtype=np.uint8)
    image = write_raster(folder / "image.tif", pixels, crs=grid.crs, transform=grid.transform)
    return Scene("a", image, write_dsm(folder, **dsm))


def test_another_grid_is_refused_unless_it_is_to_be_aligned(tmp_path: Path) -> None:
    grid = other_grids()["finer"]
    made = scene(tmp_path, grid)
    message = r"dsm\.tif: is 120 x 140 px, image\.tif is 90 x 100 px; .*mfnet-run --align"
    with pytest.raises(SceneError, match=message):
        SceneReader(made)
    with SceneReader(made, options=ReadOptions(align="cubic")) as reader:
        rows = reader.read(10, 30)
        pieces = list(reader.heights())
    expected, known = rows_of(aligned(made.dsm, grid, "cubic"), 10, 30)
    np.testing.assert_array_equal(rows.dsm, expected)
    np.testing.assert_array_equal(rows.dsm_valid, known)
    assert sum(len(piece) for piece, _ in pieces) == 90


def test_the_same_grid_is_read_as_it_is(tmp_path: Path) -> None:
    made = scene(tmp_path, Grid(120, 140, PLACE, UTM32))
    with (
        SceneReader(made) as plain,
        SceneReader(made, options=ReadOptions(align="bilinear")) as reader,
    ):
        np.testing.assert_array_equal(reader.read(0, 120).dsm, plain.read(0, 120).dsm)
        assert plain.alignment is None
        assert reader.alignment is not None
        assert reader.alignment.to_json()["resampling"] is None
        assert "DSM is on the image's grid, 120 x 140 px of 2 metre" in reader.alignment.sentence()


def test_the_report_names_both_grids(tmp_path: Path) -> None:
    made = scene(tmp_path, other_grids()["shifted"], crs=CRS.from_user_input("EPSG:32632+5773"))
    with rasterio.open(made.dsm, "r+") as dsm:
        dsm.units = ["ft"]
    with SceneReader(made, options=ReadOptions(align="bilinear")) as reader:
        report = reader.alignment
    assert report is not None
    facts = report.to_json()
    assert facts["image"]["height"] == 70
    assert facts["image"]["crs"] == "EPSG:32632"
    assert facts["dsm"]["width"] == 140
    assert facts["dsm"]["pixel_size"] == [2.0, 2.0]
    assert facts["dsm"]["datum"].startswith("World Geodetic System 1984")
    assert facts["image_corner_on_dsm"] == [-7.8, 5.3]
    assert facts["overlap"] == pytest.approx(62.2 / 70, abs=0.005)
    assert facts["height_unit"] == "ft"
    assert facts["height_datum"] == "EGM96 geoid"
    assert report.sentence().startswith("DSM of 120 x 140 px of 2 metre (")
    assert "bilinear; it covers 88.7% of the image; heights in ft above EGM96" in report.sentence()


def test_another_datum_is_named(tmp_path: Path) -> None:
    made = scene(tmp_path, other_grids()["other CRS"])
    with SceneReader(made, options=ReadOptions(align="bilinear")) as reader:
        report = reader.alignment
    assert report is not None
    assert "; datum Reseau Geodesique Francais 1993" in report.sentence()
    assert 0 < report.to_json()["place_error_px"] < 0.01


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(50, 60, PLACE * Affine.translation(500, 0), UTM32), "does not touch the image"),
        (Grid(50, 60, PLACE * Affine.translation(-61, 0), UTM32), "on its rows 0 to 50 and"),
        (Grid(50, 60, PLACE * Affine.scale(300), UTM32), "an image pixel is 300 DSM pixels wide"),
        (Grid(50, 60, Affine.identity(), UTM32), r"image\.tif: its geotransform gives it no place"),
        (
            Grid(50, 60, from_origin(-170, 89.9, 5, 3), CRS.from_epsg(4326)),
            r"dsm\.tif: the image's CRS, EPSG:4326, has no place in the DSM's",
        ),
    ],
)
def test_what_cannot_be_aligned(tmp_path: Path, grid: Grid, message: str) -> None:
    made = scene(tmp_path, grid)
    with pytest.raises(SceneError, match=message):
        SceneReader(made, options=ReadOptions(align="bilinear"))


def test_no_resampling_of_that_name() -> None:
    with pytest.raises(UsageError, match="there are bilinear, nearest, cubic, average"):
        ReadOptions(align="lanczos")


AUTZEN = SHARED / "data" / "autzen"


@pytest.mark.skipif(not AUTZEN.is_dir(), reason="../shared/data/autzen is not here")
@pytest.mark.parametrize("resampling", KERNELS)
def test_two_foot_heights_under_a_one_foot_image(resampling: str) -> None:
    made = Scene("a", AUTZEN / "image_1ft_jpeg.tif", AUTZEN / "dsm" / "west.tif")
    with SceneReader(made, options=ReadOptions(align=resampling)) as reader:
        found = reader.read(1000, 1600)
        report = reader.alignment
        grid = Grid(
            600,
            3248,
            reader.profile["transform"] * Affine.translation(0, 1000),
            reader.profile["crs"],
        )
    expected = warped(made.dsm, grid, resampling)
    np.testing.assert_array_equal(found.dsm_valid, expected != HOLE)
    np.testing.assert_allclose(found.dsm[found.dsm_valid], expected[found.dsm_valid], atol=1e-3)
    assert report is not None
    assert report.finer == 0.5
    assert report.overlap == pytest.approx(1104 / 1624, abs=0.003)
