"""`mfnet-run` on scenes that are not as they should be: other grids, layouts, ranges, areas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import Resampling, reproject
from support import (
    SHARED,
    UTM,
    read,
    results_in,
    rgbd_classes,
    write_raster,
    write_rgbd_model,
    write_scene,
)

from mfnet_runtime.cli.main import main
from mfnet_runtime.contract import ImageRule

Capture = pytest.CaptureFixture[str]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def summary(capsys: Capture, *words: object) -> Any:
    """The scenes' part of the JSON of a run that went well."""
    code = run(*words, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)["scenes"]


AUTZEN = SHARED / "data" / "autzen"


@pytest.mark.skipif(not AUTZEN.is_dir(), reason="../shared/data/autzen is not here")
def test_one_foot_image_with_a_two_foot_dsm(tmp_path: Path, capsys: Capture) -> None:
    """Classes of part of it, against GDAL's warper and plain numpy."""
    image, dsm = AUTZEN / "image_1ft_jpeg.tif", AUTZEN / "dsm" / "west.tif"
    model = write_rgbd_model(tmp_path / "rgbd.onnx", 256)
    words = [model, image, "--dsm", dsm, "-o", tmp_path / "out", "--stride", 256]
    assert run(*words) == 4
    refused = f"{dsm}: is 1104 x 2192 px, image_1ft_jpeg.tif is 3248 x 4385 px; warp it while "
    assert f"{refused}reading (--align)" in capsys.readouterr().err
    with rasterio.open(image) as source, rasterio.open(dsm) as heights:
        part = rasterio.windows.Window(1500, 2000, 700, 600)
        box = rasterio.windows.bounds(part, source.transform)
        warped = np.full((source.height, source.width), np.nan, np.float32)
        reproject(
            rasterio.band(heights, 1),
            warped,
            dst_transform=source.transform,
            dst_crs=source.crs,
            dst_nodata=np.nan,
            resampling=Resampling.bilinear,
            tolerance=1e-9,
        )
        pixels = source.read(window=part)
    code = run(*words, "--align", "--bbox", *box, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    (row,) = json.loads(out)["scenes"]
    line = "DSM of 1104 x 2192 px of 2 foot (EPSG:2994) aligned to 3248 x 4385 px of 1 foot"
    assert f"image_1ft_jpeg: {line} (EPSG:2994), bilinear; it covers 68.0%" in err
    assert row["alignment"]["dsm_pixels_per_image_pixel"] == 0.5
    assert row["alignment"]["height_unit"] is None
    assert row["dsm_low"] == pytest.approx(np.nanmin(warped), abs=1e-3)
    assert row["dsm_high"] == pytest.approx(np.nanmax(warped), abs=1e-3)
    assert row["skipped_windows"] > 0.8 * row["windows"]
    scaled = (warped - np.nanmin(warped)) / (np.nanmax(warped) - np.nanmin(warped))
    there = scaled[part.row_off : part.row_off + 600, part.col_off : part.col_off + 700]
    expected = np.where(np.isnan(there), 255, rgbd_classes(pixels, np.nan_to_num(there)))
    found = read(Path(row["output"]))
    inside = found[2000:2600, 1500:2200]
    assert (inside != expected).mean() < 1e-4  # two bands may be that close
    assert row["valid_pixels"] == (inside != 255).sum() > 100_000
    assert (found != 255).sum() == row["valid_pixels"]


def test_a_scene_on_one_grid_is_the_same_aligned(
    tmp_path: Path, model: Path, capsys: Capture
) -> None:
    """Where image and DSM are on one grid, --align changes nothing."""
    write_scene(tmp_path / "scenes", label=True)
    for words in ((), ("--align", "--resampling", "cubic")):
        out = tmp_path / f"out{len(words)}"
        (row,) = summary(capsys, model, tmp_path / "scenes", "-o", out, *words)
        np.testing.assert_array_equal(
            read(out / "a.tif"), read(tmp_path / "scenes" / "label" / "a.tif")
        )
        assert (row["alignment"] is None) == (not words)


def test_inside_an_area_all_is_as_without_it(tmp_path: Path, model: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path / "scenes", height=300, width=260)
    words = [model, tmp_path / "scenes", "--stride", 16, "-o"]
    (plain,) = summary(capsys, *words, tmp_path / "whole")
    with rasterio.open(scene.image) as source:
        corners = [source.transform @ at for at in [(40, 60), (150, 75), (90, 200), (40, 60)]]
    area = {"type": "Polygon", "coordinates": [corners]}
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({**area, "crs": crs}))
    (row,) = summary(capsys, *words, tmp_path / "part", "--aoi", path)
    inside = rasterio.features.rasterize([area], (300, 260), transform=source.transform) > 0
    whole, part = read(tmp_path / "whole" / "a.tif"), read(tmp_path / "part" / "a.tif")
    np.testing.assert_array_equal(part, np.where(inside, whole, 255))
    assert row["valid_pixels"] == inside.sum()
    assert row["areas"] == [str(path)]
    assert plain["areas"] == []
    assert plain["skipped_windows"] == 0
    assert row["skipped_windows"] > 0.4 * row["windows"]
    assert (row["dsm_low"], row["dsm_high"]) == (plain["dsm_low"], plain["dsm_high"])


def test_an_area_elsewhere_fails_its_scene_only(
    tmp_path: Path, model: Path, capsys: Capture
) -> None:
    write_scene(tmp_path / "scenes", "a")
    there = {**UTM, "transform": UTM["transform"] @ Affine.translation(5000, 0)}
    write_scene(tmp_path / "scenes", "b", place=there)
    box = ("--bbox", 500_001, 5_399_985, 500_009, 5_399_999)
    assert run(model, tmp_path / "scenes", "-o", tmp_path / "out", *box) == 4
    err = capsys.readouterr().err
    assert f"error: {tmp_path}/scenes/image/b.tif: --bbox 500001 5399985 500009 5399999 does" in err
    assert "1 of 2 scenes failed; the others are valid" in err
    assert results_in(tmp_path / "out") == ["a.qml", "a.tif", "a.tif.aux.xml"]


def test_heights_in_a_band_by_a_table(tmp_path: Path, model: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path, label=True)
    stack = np.concatenate([read(scene.image, None).astype(np.float32), read(scene.dsm, None)])
    write_raster(tmp_path / "stack.tif", stack, **UTM)
    (tmp_path / "pairs.csv").write_text("image,dsm,name\nstack.tif,,town\n")
    (row,) = summary(capsys, model, tmp_path / "pairs.csv", "-o", tmp_path / "out", "--dsm-band", 4)
    assert row["scene"] == "town"
    assert scene.label is not None
    np.testing.assert_array_equal(read(tmp_path / "out" / "town.tif"), read(scene.label))


def test_pairs_side_by_side(tmp_path: Path, model: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path, label=True)
    flat = tmp_path / "flat"
    flat.mkdir()
    scene.image.rename(flat / "town.tif")
    scene.dsm.rename(flat / "town_dsm.tif")
    (row,) = summary(capsys, model, flat, "-o", tmp_path / "out")
    assert scene.label is not None
    np.testing.assert_array_equal(read(Path(row["output"])), read(scene.label))


def test_a_range_of_heights(tmp_path: Path, model: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path / "scenes")
    words = (model, tmp_path / "scenes", "-o", tmp_path / "out", "--dsm-range", 90, 500)
    (row,) = summary(capsys, *words)
    assert (row["dsm_low"], row["dsm_high"]) == (90, 500)
    expected = rgbd_classes(read(scene.image, None), (read(scene.dsm) - 90) / 410)
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.tif"), expected)


@pytest.mark.parametrize("words", [("--image-range", 0, 4080), ("--image-percentiles", 0, 100)])
def test_dark_images_are_warned_about_and_mended(
    tmp_path: Path, capsys: Capture, words: tuple[Any, ...]
) -> None:
    """12 bits in 16, 255 of which are 4080."""
    model = write_rgbd_model(tmp_path / "rgbd.onnx", image=ImageRule(full_scale=65535.0))
    scene = write_scene(tmp_path / "plain", label=True)
    pixels = read(scene.image, None).astype(np.uint16) * 16
    pixels[:, 0, 0], pixels[:, 0, 1] = 0, 4080
    image = write_raster(tmp_path / "scenes" / "image" / "a.tif", pixels, **UTM)
    (tmp_path / "scenes" / "dsm").mkdir()
    scene.dsm.rename(tmp_path / "scenes" / "dsm" / "a.tif")
    run_words = (model, tmp_path / "scenes", "-o", tmp_path / "out")
    assert run(*run_words, "--json") == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["scenes"]
    warning = (
        f"{image}: nearly all pixel values lie in 0 .. 3200, which is dark in the model's range"
    )
    assert err.count(f"warning: a: {warning}") == 1
    assert row["warnings"][0].startswith(warning)
    (row,) = summary(capsys, *run_words, *words)
    assert row["warnings"] == []
    assert row["image_range"] == [0, 4080]
    assert scene.label is not None
    expected = read(scene.label)
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.tif")[1:], expected[1:])


def test_values_without_data_asked_for(tmp_path: Path, model: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path / "scenes")
    pixels, heights = read(scene.image, None), read(scene.dsm)
    pixels[:, 3:6, 4:9] = 255
    heights[20:22, 30:33] = 0
    write_raster(scene.image, pixels, **UTM)
    write_raster(scene.dsm, heights, **UTM)
    words = (model, tmp_path / "scenes", "-o", tmp_path / "out")
    (plain,) = summary(capsys, *words)
    assert (plain["nodata_pixels"], plain["dsm_low"]) == (0, 0)
    (row,) = summary(capsys, *words, "--nodata-image", 255, "--nodata-dsm", 0)
    assert row["nodata_pixels"] == 15 + 6
    assert row["dsm_low"] >= 100
    found = read(tmp_path / "out" / "a.tif")
    assert (found[3:6, 4:9] == 255).all()
    assert (found[20:22, 30:33] == 255).all()


def test_infrared_flagged_as_alpha(tmp_path: Path, model: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path / "scenes", label=True)
    infrared = np.zeros((1, 40, 48), np.uint8)
    write_raster(scene.image, np.concatenate([read(scene.image, None), infrared]), **UTM)
    with rasterio.open(scene.image, "r+") as target:
        target.colorinterp = [*target.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    words = (model, tmp_path / "scenes", "-o", tmp_path / "out")
    (row,) = summary(capsys, *words)
    assert row["valid_pixels"] == 0
    (row,) = summary(capsys, *words, "--ignore-alpha")
    assert scene.label is not None
    np.testing.assert_array_equal(read(Path(row["output"])), read(scene.label))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resampling", "cubic"], "--resampling says how to align; add --align"),
        (["--dsm-range", 5, 5], "--dsm-range 5 5: the first must be the smaller"),
        (["--bbox", 1, 1, 0, 2], "--bbox 1 1 0 2: is empty"),
        (["--aoi", "none.gpkg"], "none.gpkg: cannot be read"),
        (["--image-range", 0, 1, "--image-percentiles", 2, 98], "exclude each other"),
        (["--bands", "1,2"], "expected three band numbers"),
    ],
)
def test_words_that_make_no_sense(
    tmp_path: Path, model: Path, capsys: Capture, words: list[Any], message: str
) -> None:
    write_scene(tmp_path / "scenes")
    assert run(model, tmp_path / "scenes", "-o", tmp_path / "out", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
