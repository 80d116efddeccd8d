"""A DSM on another grid is warped to the image's grid; no height mixes with what is no height."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform
from rasterio.windows import Window
from support import SHARED, LocalScene, read, write_raster

import mfnet_runtime.scene.dsm_warp as dsm_warp
from mfnet_runtime.errors import ResourceError, SceneError, UsageError
from mfnet_runtime.raster.grid import Grid
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import RESAMPLINGS, ReadOptions
from mfnet_runtime.scene.reader import SceneReader

RNG = np.random.default_rng(0)
UTM32, LAMBERT = CRS.from_epsg(32632), CRS.from_epsg(2154)
PLACE = from_origin(500_000, 5_400_000, 2.0, 2.0)  # of the DSM, 2 m
HOLE = -9999.0
SHAPE = (120, 140)


def image_grids() -> dict[str, Grid]:
    """Grids of images that lie on the DSM, not all of them entirely."""
    (x,), (y,) = transform(UTM32, LAMBERT, [500_010], [5_399_990])
    (lon,), (lat,) = transform(UTM32, "EPSG:4326", [500_010], [5_399_990])
    turned = PLACE * Affine.translation(60, 10) * Affine.rotation(33) * Affine.scale(0.8)
    return {
        "finer": Grid(90, 100, PLACE * Affine.translation(5, 7) * Affine.scale(0.5), UTM32),
        "shifted": Grid(70, 80, PLACE * Affine.translation(5.3, -7.8), UTM32),
        "coarser": Grid(40, 50, PLACE * Affine.translation(3, 4) * Affine.scale(2.4), UTM32),
        "south up": Grid(60, 60, PLACE * Affine.translation(9, 90) * Affine.scale(1, -1), UTM32),
        "turned": Grid(80, 80, turned, UTM32),
        "other CRS": Grid(100, 110, from_origin(x, y, 1.5, 1.5), LAMBERT),
        "degrees": Grid(100, 110, from_origin(lon, lat, 2e-5, 1.4e-5), CRS.from_epsg(4326)),
        "unknown CRS": Grid(90, 100, PLACE * Affine.translation(5, 7) * Affine.scale(0.5), None),
    }


GRIDS = image_grids()
FINER = GRIDS["finer"]


def hills(holes: bool = True) -> Any:
    """Heights from 100 to 200 m with noise, a large hole and scattered ones."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    heights = 150 + 40 * np.sin(rows / 9) * np.cos(columns / 13) + RNG.uniform(-10, 10, SHAPE)
    if holes:
        heights[20:30, 40:60] = HOLE
        heights[RNG.random(SHAPE) < 0.02] = HOLE
    return heights.astype(np.float32)


def scene(folder: Path, grid: Grid, heights: Any = None, **profile: Any) -> LocalScene:
    """An image on a grid, and a DSM."""
    heights = hills() if heights is None else heights
    pixels = RNG.integers(1, 255, (3, grid.height, grid.width), dtype=np.uint8)
    place = {"nodata": HOLE, "crs": UTM32, "transform": PLACE}
    return LocalScene(
        "a",
        write_raster(folder / "image.tif", pixels, crs=grid.crs, transform=grid.transform),
        write_raster(folder / "dsm.tif", heights, **place | profile),
    )


def opened(made: Scene, resampling: str = "bilinear", **more: Any) -> SceneReader:
    work = more.pop("work", None)
    return SceneReader(
        made, options=ReadOptions(align=True, resampling=resampling, **more), work=work
    )


def warped(made: Scene, resampling: str = "bilinear", **more: Any) -> tuple[Any, Any]:
    """All heights of a scene and their validity."""
    with opened(made, resampling, **more) as reader:
        data = reader.read(0, reader.height)
    return data.dsm, data.dsm_valid


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("name", GRIDS)
def test_every_pixel_gets_the_height_of_its_place(
    tmp_path: Path, name: str, resampling: str
) -> None:
    """A plane stays the plane."""
    grid = GRIDS[name]
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    made = scene(tmp_path, grid, (300 + 2 * rows - columns).astype(np.float32))
    heights, valid = warped(made, resampling)
    x, y = grid.map_coordinates(*(np.mgrid[: grid.height, : grid.width] + 0.5))
    if grid.crs and grid.crs != UTM32:
        x, y = (np.reshape(at, x.shape) for at in transform(grid.crs, UTM32, x.ravel(), y.ravel()))
    columns, rows = (x - 500_000) / 2, (5_400_000 - y) / 2
    inside = (rows > 2.5) & (rows < 117.5) & (columns > 2.5) & (columns < 137.5)
    outside = (rows < -2) | (rows > 122) | (columns < -2) | (columns > 142)
    assert valid[inside].all()
    assert not valid[outside].any()
    steps = resampling == "nearest" or (resampling == "average" and name != "coarser")
    off = np.abs(heights - (300 + 2 * rows - columns))[inside]
    assert off.max() < (1.6 if steps else 0.3 if resampling == "average" else 0.06)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("name", ["finer", "coarser"])
def test_no_height_mixes_with_nodata(tmp_path: Path, name: str, resampling: str) -> None:
    """However the file states it, or does not; holes keep the shape that nearest gives them."""
    grid, heights = GRIDS[name], hills()
    expected, known = warped(scene(tmp_path, grid, heights), resampling)
    if resampling != "average":
        np.testing.assert_array_equal(known, warped(scene(tmp_path, grid, heights), "nearest")[1])
    if resampling != "cubic":  # which may overshoot
        assert 100 <= expected[known].min() < expected[known].max() <= 200
    there = heights != HOLE

    def same(made: Scene, **more: Any) -> None:
        found, valid = warped(made, resampling, **more)
        np.testing.assert_array_equal(valid, known)
        np.testing.assert_array_equal(found[valid], expected[known])

    for silent in (np.nan, np.inf, -3.4e38):
        same(scene(tmp_path, grid, np.where(there, heights, np.float32(silent)), nodata=None))
    asked = scene(tmp_path, grid, np.where(there, heights, np.float32(123)), nodata=None)
    same(asked, nodata_dsm=123.0)
    with rasterio.open(asked.dsm, "r+") as dsm:
        dsm.write_mask(there)
    same(asked)


def test_packed_heights_are_unpacked_before(tmp_path: Path) -> None:
    packed = RNG.integers(0, 5000, SHAPE, dtype=np.int16)
    plain = warped(scene(tmp_path, FINER, packed * np.float32(0.01) + np.float32(100)))
    made = scene(tmp_path, FINER, packed)
    with rasterio.open(made.dsm, "r+") as dsm:
        dsm.scales, dsm.offsets = (0.01,), (100.0,)
    for one, other in zip(warped(made), plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average"])
def test_all_heights_under_a_coarse_pixel_count(tmp_path: Path, resampling: str) -> None:
    noise = RNG.normal(150, 4, (480, 480)).astype(np.float32)
    grid = Grid(40, 40, PLACE * Affine.scale(12), UTM32)
    heights, valid = warped(scene(tmp_path, grid, noise), resampling)
    assert valid.all()
    assert heights.std() < 1
    assert abs(heights.mean() - 150) < 0.1


def test_heights_do_not_depend_on_how_far_the_image_reaches(tmp_path: Path) -> None:
    """GDAL by itself takes its kernel's width from the overlap."""
    grid = GRIDS["coarser"]
    wide = Grid(120, 150, grid.transform * Affine.translation(-60, -50), UTM32)
    heights = hills()
    expected, known = warped(scene(tmp_path, grid, heights))
    found, valid = (part[50:90, 60:110] for part in warped(scene(tmp_path, wide, heights)))
    np.testing.assert_array_equal(valid, known)
    np.testing.assert_allclose(found[known], expected[known], atol=1e-3)


@pytest.mark.parametrize("name", ["shifted", "other CRS"])
def test_parts_are_parts_of_the_whole(tmp_path: Path, name: str) -> None:
    made = scene(tmp_path, GRIDS[name])
    with opened(made) as reader:
        whole = reader.read(0, reader.height)
        part = reader.read(20, 60, range(30, 70))
        sample = reader.sample(Window(30, 20, 40, 40))
        pieces = list(reader.heights())
    np.testing.assert_array_equal(part.dsm, whole.dsm[20:60, 30:70])
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in pieces]), whole.dsm)
    np.testing.assert_array_equal(sample.image, part.image)
    assert (sample.dsm_valid != part.dsm_valid).mean() < 0.01
    both = sample.dsm_valid & part.dsm_valid
    np.testing.assert_allclose(sample.dsm[both], part.dsm[both], atol=0.5)  # of hills with noise


def test_the_first_read_may_be_in_another_thread(tmp_path: Path) -> None:
    with opened(scene(tmp_path, FINER)) as reader, ThreadPoolExecutor(1) as pool:
        part = pool.submit(reader.read, 0, 10).result()
        np.testing.assert_array_equal(part.dsm, reader.read(0, 10).dsm)


def test_a_sample_beside_the_dsm_has_no_heights(tmp_path: Path) -> None:
    far = Grid(400, 400, PLACE, UTM32)
    with opened(scene(tmp_path, far)) as reader:
        assert not reader.sample(Window(300, 300, 50, 50)).dsm_valid.any()


def test_the_warped_dsm_is_kept_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    made = scene(tmp_path, FINER)
    with opened(made, work=work) as reader:
        assert list(work.iterdir()) == []  # no work before heights are read
        first = reader.read(0, 90)
        assert 0 < (work / "dsm.tif").stat().st_size < reader.disk
    assert [path.name for path in work.iterdir()] == ["dsm.tif"]
    monkeypatch.setattr(dsm_warp, "_write", None)
    np.testing.assert_array_equal(warped(made, work=work)[0], first.dsm)


def test_a_warp_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    checksums = count()
    crc32 = "mfnet_runtime.scene.dsm_warp.zlib.crc32"
    monkeypatch.setattr(crc32, lambda data, start: next(checksums))
    with pytest.raises(ResourceError, match=r"work: the DSM warped .* read back differ"):
        warped(scene(tmp_path, FINER), work=work)
    assert list(work.iterdir()) == []


def test_another_grid_is_refused_unless_it_is_to_be_aligned(tmp_path: Path) -> None:
    message = r"dsm\.tif: is 140 x 120 px, image\.tif is 100 x 90 px; .*--align"
    with pytest.raises(SceneError, match=message):
        SceneReader(scene(tmp_path, FINER))


def test_the_same_grid_is_read_as_it_is(tmp_path: Path) -> None:
    made = scene(tmp_path, Grid(*SHAPE, PLACE, UTM32))
    heights, valid = warped(made)
    np.testing.assert_array_equal(heights[valid], read(made.dsm)[valid])
    with SceneReader(made) as plain, opened(made) as reader:
        assert plain.alignment is None
        assert plain.disk == reader.disk == 0
        assert reader.alignment is not None
        assert reader.alignment.to_json()["resampling"] is None
        assert "DSM is on the image's grid, 140 x 120 px of 2 metre" in reader.alignment.sentence()


def test_the_report_names_both_grids(tmp_path: Path) -> None:
    made = scene(tmp_path, GRIDS["shifted"], crs=CRS.from_user_input("EPSG:32632+5773"))
    with rasterio.open(made.dsm, "r+") as dsm:
        dsm.units = ["ft"]
    with opened(made) as reader:
        report = reader.alignment
    assert report is not None
    facts = report.to_json()
    assert (facts["image"]["height"], facts["image"]["crs"]) == (70, "EPSG:32632")
    assert (facts["dsm"]["width"], facts["dsm"]["pixel_size"]) == (140, [2.0, 2.0])
    assert facts["dsm"]["datum"].startswith("World Geodetic System 1984")
    assert facts["image_corner_on_dsm"] == [-7.8, 5.3]
    assert facts["overlap"] == pytest.approx(62.2 / 70, abs=0.005)
    assert (facts["height_unit"], facts["height_datum"]) == ("ft", "EGM96 geoid")
    assert report.sentence().startswith("DSM of 140 x 120 px of 2 metre (")
    assert "bilinear; it covers 88.7% of the image; heights in ft above EGM96" in report.sentence()
    with opened(scene(tmp_path, GRIDS["other CRS"])) as reader:
        assert reader.alignment is not None
        assert "; datum Reseau Geodesique Francais 1993" in reader.alignment.sentence()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(50, 60, PLACE * Affine.translation(500, 0), UTM32), "does not touch the image"),
        (Grid(50, 60, PLACE * Affine.translation(-61, 0), UTM32), "on its columns -61 to -1 and"),
        (Grid(50, 60, PLACE * Affine.scale(300), UTM32), "an image pixel is 300 DSM pixels wide"),
        (Grid(50, 60, Affine.identity(), UTM32), r"image\.tif: has no usable geotransform"),
        (
            Grid(50, 60, from_origin(-170, 89.9, 5, 3), CRS.from_epsg(4326)),
            r"dsm\.tif: no transformation from the image's CRS, EPSG:4326, to the DSM's",
        ),
    ],
)
def test_what_cannot_be_aligned(tmp_path: Path, grid: Grid, message: str) -> None:
    with pytest.raises(SceneError, match=message):
        opened(scene(tmp_path, grid))


def test_no_resampling_of_that_name() -> None:
    with pytest.raises(UsageError, match="there are bilinear, nearest, cubic, average"):
        ReadOptions(align=True, resampling="lanczos")


AUTZEN = SHARED / "data" / "autzen"


@pytest.mark.skipif(not AUTZEN.is_dir(), reason="../shared/data/autzen is not here")
def test_two_foot_heights_under_a_one_foot_image() -> None:
    made = LocalScene("a", AUTZEN / "image_1ft_jpeg.tif", AUTZEN / "dsm" / "west.tif")
    heights, valid = warped(made, "nearest")
    stored = np.repeat(np.repeat(read(made.dsm), 2, axis=0), 2, axis=1)
    expected = np.full(heights.shape, HOLE, np.float32)
    expected[: len(stored), : stored.shape[1]] = stored[: len(heights)]
    np.testing.assert_array_equal(valid, expected != HOLE)
    np.testing.assert_array_equal(heights[valid], expected[valid])
