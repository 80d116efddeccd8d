"""Reading scenes: what is masked, what is refused, and that refusals name file and remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.transform import from_origin
from support import UTM, LocalScene, write_raster, write_scene

from mfnet_runtime.errors import SceneError
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader, open_raster


def scene_of(
    folder: Path, image: Any, dsm: Any, image_profile: Any = UTM, dsm_profile: Any = UTM
) -> LocalScene:
    """A scene of given arrays."""
    return LocalScene(
        "a",
        write_raster(folder / "image" / "a.tif", image, **image_profile),
        write_raster(folder / "dsm" / "a.tif", dsm, **dsm_profile),
    )


def plain(bands: int = 3, dtype: Any = np.uint8) -> Any:
    """A small image without any hole."""
    return np.full((bands, 8, 9), 100, dtype)


HEIGHTS = np.linspace(100, 130, 72, dtype=np.float32).reshape(8, 9)


def test_rows_come_as_stored(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, height=40, width=48)
    with SceneReader(scene) as reader:
        assert (reader.height, reader.width) == (40, 48)
        rows = reader.read(10, 30)
        assert rows.image.shape == (3, 20, 48)
        assert rows.image.dtype == np.uint8
        assert rows.dsm.shape == (20, 48)
        assert rows.image_valid.all()
        assert rows.dsm_valid.all()
        part = reader.read(10, 30, range(5, 9))
        assert part.image.shape == (3, 20, 4)
        assert part.transform == UTM["transform"] * rasterio.Affine.translation(5, 10)
        assert part.crs == rasterio.CRS.from_epsg(32632)
        whole = np.concatenate([piece for piece, _ in reader.heights()])
    with rasterio.open(scene.dsm) as source:
        np.testing.assert_array_equal(whole, source.read(1))


@pytest.mark.parametrize("hole", [-9999.0, np.nan, np.inf, -3.4e38, -32768.0])
@pytest.mark.parametrize("declared", [True, False])
def test_holes_in_the_dsm(tmp_path: Path, hole: float, declared: bool) -> None:
    heights = HEIGHTS.copy()
    heights[2, 3] = hole
    profile = {**UTM, "nodata": hole} if declared else UTM
    with SceneReader(scene_of(tmp_path, plain(), heights, dsm_profile=profile)) as reader:
        valid = reader.read(0, 8).dsm_valid
    assert not valid[2, 3]
    assert valid.sum() == 71


def test_image_nodata_masks_where_all_bands_have_it(tmp_path: Path) -> None:
    image = plain()
    image[:, 0, 0] = 0
    image[1, 5, 5] = 0  # one dark band is a colour, not a hole
    scene = scene_of(tmp_path, image, HEIGHTS, image_profile={**UTM, "nodata": 0})
    with SceneReader(scene) as reader:
        valid = reader.read(0, 8).image_valid
    assert not valid[0, 0]
    assert valid.sum() == 71


@pytest.mark.parametrize(("bands", "nodata"), [([0, 1, 2], 0), ([0, 1, 2], -9999), ([0], -9999)])
def test_nodata_counts_in_the_chosen_bands(tmp_path: Path, bands: list[int], nodata: float) -> None:
    """One band suffices if the value is no possible colour."""
    image = np.full((5, 8, 9), 100, np.float32)  # bands 4 and 5 always have data
    image[bands, 2, 3] = nodata
    scene = scene_of(tmp_path, image, HEIGHTS, image_profile={**UTM, "nodata": nodata})
    with SceneReader(scene, options=ReadOptions((1, 2, 3))) as reader:
        valid = reader.read(0, 8).image_valid
    assert not valid[2, 3]
    assert valid.sum() == 71


POINTS = [
    rasterio.control.GroundControlPoint(row, column, 500000 + column, 5400000 - row)
    for row, column in [(0, 0), (0, 9), (8, 0)]
]
RATIONAL = RPC(0, 1, 50, 1, [1.0] * 20, [1.0] * 20, 0, 1, 9, 1, [1.0] * 20, [1.0] * 20, 0, 1)


def test_ground_control_points_go_on(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, plain(), HEIGHTS, {"gcps": POINTS, "crs": UTM["crs"]}, {})
    with SceneReader(scene) as reader:
        profile = reader.profile
    assert len(profile["gcps"]) == 3
    assert profile["crs"] == rasterio.CRS.from_epsg(32632)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"gcps": POINTS, "crs": UTM["crs"]}, r"ground control points.* gdalwarp -r cubic a\.tif"),
        ({"rpcs": RATIONAL}, r"RPCs.* gdalwarp -rpc -r cubic a\.tif a_warped\.tif"),
    ],
)
def test_points_do_not_align(tmp_path: Path, profile: dict[str, Any], message: str) -> None:
    options = ReadOptions(align=True)
    scene = scene_of(tmp_path, plain(), HEIGHTS, profile)
    with pytest.raises(SceneError, match=rf"image/a\.tif: is placed by {message}"):
        SceneReader(scene, options=options)
    scene = scene_of(tmp_path, plain(), HEIGHTS, UTM, profile)
    with pytest.raises(SceneError, match=rf"dsm/a\.tif: is placed by {message}"):
        SceneReader(scene, options=options)


def test_a_band_with_heights_is_aligned_whatever_its_place(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", plain(4), gcps=POINTS, crs=UTM["crs"])
    with SceneReader(Scene("a", path, path, dsm_band=4), options=ReadOptions(align=True)) as reader:
        assert reader.alignment is not None
        assert reader.alignment.resampling is None


def test_alpha_masks_unless_told_otherwise(tmp_path: Path) -> None:
    image = plain(4)
    image[3] = 255
    image[3, 4, 4] = 0
    scene = scene_of(tmp_path, image, HEIGHTS)
    with rasterio.open(scene.image, "r+") as target:
        target.colorinterp = [*target.colorinterp[:3], ColorInterp.alpha]
    with SceneReader(scene) as reader:
        assert reader.image.bands == [1, 2, 3]
        assert not reader.read(0, 8).image_valid[4, 4]
    with SceneReader(scene, options=ReadOptions((1, 2, 3), ignore_alpha=True)) as reader:
        assert reader.read(0, 8).image_valid.all()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_plain_pictures_have_no_place(tmp_path: Path, suffix: str) -> None:
    image = write_raster(tmp_path / "image" / f"a{suffix}", plain())
    dsm = write_raster(tmp_path / "dsm" / "a.png", np.full((8, 9), 100, np.uint8))
    with SceneReader(Scene("a", image, dsm)) as reader:
        assert reader.profile == {"crs": None, "transform": None}


@pytest.mark.parametrize(
    ("image", "dsm", "image_profile", "dsm_profile", "message"),
    [
        (
            plain(4),
            HEIGHTS,
            {**UTM, "alpha": "unspecified"},  # GDAL takes a fourth band for alpha
            UTM,
            r"image.*has 4 bands .* --bands 1,2,3",
        ),
        (plain(1), HEIGHTS, UTM, UTM, r"image.*has 1 bands"),
        (plain(), np.stack([HEIGHTS] * 2), UTM, UTM, r"dsm.*DSM has 2 bands, expected 1"),
        (plain(), HEIGHTS[:7], UTM, UTM, r"dsm.*is 9 x 7 px, a.tif is 9 x 8 px; .*gdalwarp"),
        (
            plain(),
            HEIGHTS,
            UTM,
            {**UTM, "transform": from_origin(500000.25, 5400000, 0.5, 0.5)},
            r"dsm.*lies up to 0.50 px off the grid",
        ),
        (plain(), HEIGHTS, UTM, {**UTM, "crs": "EPSG:32633"}, r"dsm.*CRS is .*32633.*gdalwarp"),
        (plain(dtype=np.float32) * -1, HEIGHTS, UTM, UTM, r"image.*pixel values reach -100"),
        (plain().astype(np.complex64), HEIGHTS, UTM, UTM, r"image.*band 1 holds complex"),
        (plain(), HEIGHTS.astype(np.complex64), UTM, UTM, r"dsm.*band 1 holds complex"),
        (
            plain(),
            HEIGHTS,
            {**UTM, "transform": rasterio.Affine(0, 0, 5e5, 0, 0, 5e6)},
            UTM,
            r"image.*geotransform is singular",
        ),
        (plain(dtype=np.uint16) * 50, HEIGHTS, UTM, UTM, r"image.*pixel values reach 5000"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, image: Any, dsm: Any, image_profile: Any, dsm_profile: Any, message: str
) -> None:
    scene = scene_of(tmp_path, image, dsm, image_profile, dsm_profile)
    with pytest.raises(SceneError, match=message), SceneReader(scene) as reader:
        reader.read(0, 8)


def test_palette_indices_are_no_heights(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, plain(), np.zeros((8, 9), np.uint8))
    with rasterio.open(scene.dsm, "r+") as target:
        target.write_colormap(1, {0: (255, 0, 0, 255)})
    with pytest.raises(SceneError, match=r"dsm/a\.tif: band 1 holds palette indices"):
        SceneReader(scene)


def test_dsm_with_a_height_datum_is_the_same_grid(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, plain(), HEIGHTS, dsm_profile={**UTM, "crs": "EPSG:32632+5773"})
    with SceneReader(scene) as reader:
        assert reader.read(0, 8).dsm_valid.all()


def test_missing_dsm_is_named(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    scene.dsm.unlink()
    with pytest.raises(SceneError, match=r"dsm/a\.tif: scene 'a' has no dsm there"):
        SceneReader(scene)


@pytest.mark.parametrize("content", [b"", b"II*\x00", b"not a raster at all"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.tif"
    path.write_bytes(content)
    with pytest.raises(SceneError, match=r"bad\.tif: cannot be opened .*gdalinfo"):
        open_raster(path)


def test_truncated_data_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 300, 300), dtype=np.uint8)
    heights = np.zeros((300, 300), np.float32)
    scene = scene_of(tmp_path, noise, heights)
    scene.image.write_bytes(scene.image.read_bytes()[:100_000])
    with pytest.raises(SceneError, match=r"image/a\.tif"), SceneReader(scene) as reader:
        reader.read(0, 300)


def test_gdals_cache_is_a_few_rows_of_blocks(tmp_path: Path) -> None:
    """Of a large scene GDAL would keep 5% of all memory: peak memory would grow with height."""
    probe = """
import resource, sys
import subprocess
import sys
from pathlib import Path
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.scene.discovery import Scene

with SceneReader(Scene("a", Path(sys.argv[1]), Path(sys.argv[2]))) as reader, reader.small_cache():
    reader.read(0, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, reader.height, 64):
        reader.read(start, min(start + 64, reader.height))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    shape = (30_000, 1000)
    image = write_raster(tmp_path / "i.tif", np.zeros((3, *shape), np.uint8), compress="lzw")
    dsm = write_raster(tmp_path / "d.tif", np.zeros(shape, np.float32), compress="lzw")
    words = [sys.executable, "-W", "ignore", "-c", probe, str(image), str(dsm)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 << 10  # KiB; all blocks are 210 MB
