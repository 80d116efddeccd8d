"""Images read at another pixel size: the values, their validity, and what lies where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import from_origin
from rasterio.warp import reproject
from rasterio.windows import Window
from support import UTM, LocalScene, read, write_raster, write_scene

from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.scene import resampling
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneData, SceneReader
from mfnet_runtime.scene.resampling import Axis

RNG = np.random.default_rng(0)
SHAPE = (67, 83)
SIZES = (0.2, 0.37, 0.5, 0.8, 1.0, 1.7)  # metres; the images have 0.5


def opened(scene: Scene, size: float, **more: Any) -> SceneReader:
    return SceneReader(scene, options=ReadOptions(resample_to=size, **more))


def whole(scene: Scene, size: float, **more: Any) -> SceneData:
    with opened(scene, size, **more) as reader:
        return reader.read(0, reader.height)


def scene_of(folder: Path, pixels: Any, heights: Any = None, **profile: Any) -> LocalScene:
    heights = np.ones(pixels.shape[-2:], np.float32) if heights is None else heights
    image = write_raster(folder / "image.tif", pixels, **{**UTM, **profile})
    return LocalScene("a", image, write_raster(folder / "dsm.tif", heights, **UTM))


@pytest.mark.parametrize(("stored", "size"), [(20, 10), (21, 8), (8, 21), (7, 7), (90, 31)])
def test_every_pixel_of_the_image_is_in_one_that_is_read(stored: int, size: int) -> None:
    axis = Axis(stored, size)
    nearest = axis.nearest(range(stored))
    centres = (np.arange(stored) + 0.5) * size / stored
    np.testing.assert_array_equal(nearest, np.floor(centres + 1e-9))
    for start in range(size):
        for stop in range(start + 1, size + 1):
            inside = np.flatnonzero((nearest >= start) & (nearest < stop))
            assert list(axis.covered(range(start, stop))) == inside.tolist()


@pytest.mark.parametrize("size", SIZES)
def test_values_are_those_of_gdal(tmp_path: Path, size: float) -> None:
    """Averages of larger pixels, linear interpolation between smaller ones."""
    pixels = RNG.integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    place = {"crs": "EPSG:32632", "transform": UTM["transform"] @ Affine.rotation(20)}
    scene = scene_of(tmp_path, pixels, **place)
    heights = RNG.uniform(100, 130, SHAPE).astype(np.float32)
    write_raster(scene.dsm, heights, **place)
    with opened(scene, size) as reader:
        found, grid = reader.read(0, reader.height), reader.grid
    assert found.image_valid.all()
    assert found.dsm_valid.all()
    assert abs(grid.height - SHAPE[0] * 0.5 / size) <= 0.5
    corner = grid.transform @ (grid.width, grid.height)
    assert corner == pytest.approx(place["transform"] @ SHAPE[::-1], abs=1e-6)
    if size == 0.5:
        np.testing.assert_array_equal(found.image, pixels)
        np.testing.assert_array_equal(found.dsm, heights)
        return
    method = Resampling.average if size > 0.5 else Resampling.bilinear
    for mine, source in ((found.image, pixels.astype(np.float32)), (found.dsm, heights)):
        expected = np.empty(mine.shape, np.float32)
        reproject(
            source,
            expected,
            src_transform=place["transform"],
            dst_transform=grid.transform,
            src_crs="EPSG:32632",
            dst_crs="EPSG:32632",
            resampling=method,
        )
        np.testing.assert_allclose(mine, expected, atol=0.15)


def no_data(kind: str, folder: Path, pixels: Any, empty: Any) -> tuple[LocalScene, dict[str, Any]]:
    """A scene whose empty pixels hold what its kind of mask does not count, and its options."""
    holed, profile, options = pixels.copy(), {}, {}
    if kind == "declared":
        profile = {"nodata": 0}
        holed[:, empty] = 0
    elif kind == "asked for":
        options = {"nodata_image": 255.0}
        holed[:, empty] = 255
    elif kind == "with a tolerance":
        profile, options = {"nodata": 0}, {"nodata_tolerance": 15.0}
        holed[:, empty] = RNG.integers(0, 15, (3, empty.sum()), dtype=np.uint8)
    elif kind == "NaN":
        holed = holed.astype(np.float32)
        holed[1, empty] = np.nan
    elif kind == "alpha":
        holed[:, empty] = 250
        holed = np.concatenate([holed, np.where(empty, 0, 255).astype(np.uint8)[None]])
    elif kind == "mask":
        holed[:, empty] = 250
    scene = scene_of(folder, holed, **profile)
    with rasterio.open(scene.image, "r+") as target:
        if kind == "alpha":
            target.colorinterp = [ColorInterp[name] for name in ("red", "green", "blue", "alpha")]
        if kind == "mask":
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                target.write_mask(~empty)
    return scene, options


KINDS = ["declared", "asked for", "with a tolerance", "NaN", "alpha", "mask"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.3, 1.0, 1.7])
def test_pixels_without_data_are_never_mixed_in(tmp_path: Path, kind: str, size: float) -> None:
    empty = RNG.random(SHAPE) < 0.4
    empty[:30, :40] = True
    pixels = np.broadcast_to(np.array([100, 60, 20], np.uint8)[:, None, None], (3, *SHAPE))
    scene, options = no_data(kind, tmp_path, pixels, empty)
    with opened(scene, size, **options) as reader:
        found = reader.read(0, reader.height)
        rows, columns = reader.scaling.rows, reader.scaling.columns
        known = reader.wanted_in_image(Window(0, 0, SHAPE[1], SHAPE[0]))
    np.testing.assert_array_equal(known, ~empty)
    colours = found.image[:, found.image_valid]
    np.testing.assert_allclose(colours, pixels[:, :1, :1].reshape(3, 1) + 0 * colours, rtol=1e-6)
    back = found.image_valid[rows.nearest(range(SHAPE[0]))][:, columns.nearest(range(SHAPE[1]))]
    assert back[~empty].all(), "each pixel with data lies in one with data"
    assert not back[:25, :35].any()


@pytest.mark.parametrize("size", SIZES)
def test_a_pixel_is_the_same_in_whatever_window(
    tmp_path: Path, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = RNG.integers(0, 60_000, (3, *SHAPE), dtype=np.uint16)
    pixels[:, RNG.random(SHAPE) < 0.2] = 0
    scene = scene_of(tmp_path, pixels, RNG.uniform(0, 9, SHAPE).astype(np.float32), nodata=0)
    x, y = UTM["transform"] @ (20, 30)
    box = (x, y - 10, x + 15, y)
    options = ReadOptions(resample_to=size, bbox=box)
    with SceneReader(scene, 65535.0, options) as reader:
        all_of_it = reader.read(0, reader.height)
        monkeypatch.setattr(resampling, "PIECE", 700)
        for _ in range(20):
            top, bottom = sorted(RNG.choice(reader.height + 1, 2, replace=False))
            left, right = sorted(RNG.choice(reader.width + 1, 2, replace=False))
            part = reader.read(int(top), int(bottom), range(int(left), int(right)))
            at = (slice(top, bottom), slice(left, right))
            np.testing.assert_array_equal(part.image, all_of_it.image[(slice(None), *at)])
            assert part.inside is not None
            assert all_of_it.inside is not None
            for name in ("dsm", "image_valid", "dsm_valid", "inside"):
                np.testing.assert_array_equal(getattr(part, name), getattr(all_of_it, name)[at])


def test_pixels_are_square_on_the_ground_after_reading_degrees(tmp_path: Path) -> None:
    """At 60 degrees north, a degree of longitude is half as long as one of latitude."""
    place = {"crs": "EPSG:4326", "transform": from_origin(9, 60, 2e-5, 1e-5)}
    scene = write_scene(tmp_path, "a", 100, 80, place=place)  # pixels of 1.12 x 1.11 m
    with opened(scene, 2.23) as reader:
        assert (reader.height, reader.width) == (50, 40)
        np.testing.assert_array_equal(
            reader.read(0, 50).image, read(scene.image, None).reshape(3, 50, 2, 40, 2).mean((2, 4))
        )


def test_a_dsm_on_another_grid_is_warped_to_what_is_read(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, "a", 60, 80)
    coarse = from_origin(500000.0, 5400000.0, 2.0, 2.0)
    rows, columns = np.mgrid[:15, :20].astype(np.float32) + np.float32(0.5)
    write_raster(scene.dsm, rows + 3 * columns, crs="EPSG:32632", transform=coarse)
    with pytest.raises(SceneError, match="--align"):
        whole(scene, 1.0)
    found = whole(scene, 1.0, align=True)
    rows, columns = (np.mgrid[:30, :40] + 0.5) / 2
    inner = slice(2, -2), slice(2, -2)
    np.testing.assert_allclose(found.dsm[inner], (rows + 3 * columns)[inner], atol=0.01)


def test_published_datasets_state_their_pixel_size(tmp_path: Path) -> None:
    """And match pixel by pixel, whatever the place of the DSM."""
    scene = write_scene(tmp_path)
    heights = read(scene.dsm)
    write_raster(scene.dsm, heights)
    found = whole(scene, 0.1, use_place=False, pixel_size=0.05)
    pixels = read(scene.image, None).reshape(3, 20, 2, 24, 2)
    np.testing.assert_array_equal(found.image, pixels.mean((2, 4)))
    np.testing.assert_allclose(found.dsm, heights.reshape(20, 2, 24, 2).mean((1, 3)), rtol=1e-6)


def by_points(scene: LocalScene) -> None:
    points = [GroundControlPoint(row, col, col, row) for row, col in ((0, 0), (0, 9), (9, 0))]
    write_raster(scene.image, read(scene.image, None), gcps=points, crs="EPSG:32632")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (by_points, {}, r"a\.tif: cannot be read at 1 m, .* with gdalwarp"),
        (lambda scene: write_raster(scene.image, read(scene.image, None)), {}, "cannot be read at"),
        (lambda scene: None, {"use_place": False}, "cannot be read at 1 m"),
        (lambda scene: None, {"max_pixels": 1919}, "1920|more than 1919"),
        (
            lambda scene: None,
            {"resample_to": 0.1, "max_pixels": 1920},
            "read as 240 x 200 px at 0.1 m, more than 1920 together; .* --max-pixels 48000",
        ),
    ],
)
def test_what_cannot_be_resampled(
    tmp_path: Path, change: Any, options: dict[str, Any], message: str
) -> None:
    scene = write_scene(tmp_path)
    change(scene)
    with pytest.raises(SceneError, match=message):
        SceneReader(scene, options=ReadOptions(**{"resample_to": 1.0, **options}))


def test_the_size_of_a_model() -> None:
    classes, asked = ClassTable.numbered(2), ReadOptions(resample_to="model")
    assert asked.for_model(Contract(32, classes, pixel_size=0.25)).resample_to == 0.25
    assert ReadOptions(resample_to=2.0).for_model(Contract(32, classes)).resample_to == 2.0
    with pytest.raises(UsageError, match="the model does not state the pixel size"):
        asked.for_model(Contract(32, classes))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="expected metres"):
            ReadOptions(resample_to=wrong)
