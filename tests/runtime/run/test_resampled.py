"""Runs at another pixel size than the image's: outputs are on the image's grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from runs import Spec, digests, interrupt, records, run, write_scenes
from support import UTM, read, write_raster, write_rgbd_model, write_scene

from mfnet_bench.cli import main as bench
from mfnet_runtime.cli.main import main
from mfnet_runtime.scene.discovery import Scene

Capture = pytest.CaptureFixture[str]
SIZES = ((76, 84),)  # rows and columns


def enlarged(scene: Scene, folder: Path, factor: int) -> Scene:
    """Write a scene again, each of its pixels as several smaller ones."""
    parts: dict[str, Any] = {}
    for part in ("image", "dsm", "label"):
        source = getattr(scene, part)
        if source is None:
            continue
        with rasterio.open(source) as dataset:
            profile = {"crs": dataset.crs, "transform": dataset.transform, "nodata": dataset.nodata}
        profile["transform"] = profile["transform"] @ profile["transform"].scale(1 / factor)
        pixels = read(source, None).repeat(factor, 1).repeat(factor, 2)
        parts[part] = write_raster(folder / part / f"{scene.name}.tif", pixels, **profile)
    return Scene(scene.name, **parts)


def maps(folder: Path, *words: Any, code: int = 0, pixel_size: float | None = 0.5) -> Path:
    """Run the tiny model over the scenes of a folder; returns the folder of the outputs."""
    model = write_rgbd_model(folder / "rgbd.onnx", pixel_size=pixel_size)
    out = folder / "maps"
    command = [model, folder, "-o", out, "--confidence", "--probabilities", *words, "--json"]
    assert main([str(word) for word in command]) == code
    return out


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("size", ["model", "0.5"])
def test_smaller_pixels_give_the_classes_of_the_larger(
    tmp_path: Path, capsys: Capture, factor: int, size: str
) -> None:
    scene = write_scene(tmp_path / "large", "a", 100, 75)
    with rasterio.open(scene.dsm, "r+") as dsm:
        dsm.nodata = -1
        dsm.write(np.full((20, 30), -1, np.float32), 1, window=Window(10, 15, 30, 20))
    small = enlarged(scene, tmp_path / "small", factor)
    expected = maps(tmp_path / "large")
    capsys.readouterr()
    found = maps(tmp_path / "small", "--resample-to", size)
    out, err = capsys.readouterr()
    for name in ("a.tif", "a.confidence.tif", "a.probabilities.tif"):
        wanted = read(expected / name, None).repeat(factor, 1).repeat(factor, 2)
        np.testing.assert_array_equal(read(found / name, None), wanted)
        with rasterio.open(found / name) as written, rasterio.open(small.image) as image:
            assert (written.transform, written.crs) == (image.transform, image.crs)
            assert written.tags()["MFNET_RESAMPLED_TO"] == "0.5 m"
    (row,) = json.loads(out)["scenes"]
    assert row["resampled"] == {"height": 100, "width": 75, "pixel_size": [0.5, 0.5]}
    assert row["nodata_pixels"] == 600 * factor**2
    assert sum(row["class_area_m2"].values()) == (7500 - 600) * 0.25
    assert f"the image, {75 * factor} x {100 * factor} px of" in err
    assert "is read as 75 x 100 px of 0.5 metre" in err
    assert "warning" not in err


@pytest.mark.parametrize("size", [0.3, 0.8, 1.3])
def test_exactly_the_pixels_with_data_inside_of_the_area_get_a_class(
    tmp_path: Path, size: float
) -> None:
    scene = write_scene(tmp_path, "a", 110, 120)
    pixels, rng = np.maximum(read(scene.image, None), 1), np.random.default_rng(0)
    empty = rng.random((110, 120)) < 0.3
    empty[:50, :60] = True
    pixels[:, empty] = 0
    write_raster(scene.image, pixels, nodata=0, **UTM)
    left, top = UTM["transform"] @ (20.2, 31.4)
    box = (left, top - 30, left + 40, top)
    found = maps(tmp_path, "--resample-to", size, "--bbox", *box, pixel_size=None)
    rows, columns = np.mgrid[:110, :120] + 0.5
    inside = (columns > 20.2) & (columns < 100.2) & (rows > 31.4) & (rows < 91.4)
    for name in ("a.tif", "a.confidence.tif", "a.probabilities.tif"):
        np.testing.assert_array_equal(read(found / name) != 255, inside & ~empty)


@pytest.fixture(scope="module", params=[0.22, 0.85, 1.1])
def resampled(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Any]:
    """A run in one block, and the digests of what it wrote."""
    folder = tmp_path_factory.mktemp("resampled")
    scenes = str(write_scenes(folder / "scenes", SIZES))
    box = (500_003, 5_399_970, 500_036, 5_399_997)
    spec = Spec(scenes, str(folder / "out"), rows=1000, read={"resample_to": request.param})
    spec = spec.again(options={"block": None}, resume=False, read={**spec.read, "bbox": box})
    run(spec)
    return spec, digests(Path(spec.out))


@pytest.mark.parametrize(("rows", "columns"), [(24, 48), (43, 19), (33, 1000)])
def test_same_bytes_in_blocks_of_any_size(
    resampled: tuple[Spec, Any], tmp_path: Path, rows: int, columns: int
) -> None:
    spec, whole = resampled
    cut = spec.again(out=str(tmp_path), rows=rows, options={"block": columns}, resume=False)
    outcomes = run(cut)
    assert all(outcome.row["blocks"] > 1 for outcome in outcomes)
    assert digests(tmp_path) == whole
    names = {one["name"] for record in records(cut, "scene") for one in record["inputs"]}
    assert names == {"a.tif"}


def test_same_bytes_after_an_interrupt(resampled: tuple[Spec, Any], tmp_path: Path) -> None:
    spec, whole = resampled
    cut = spec.again(out=str(tmp_path), rows=24, options={"block": 19}, resume=False)
    again = interrupt(cut)
    outcomes = run(again)
    assert outcomes[0].row["blocks"] < len(records(cut, "block"))
    assert digests(tmp_path) == whole
    with pytest.raises(Exception, match="resample_to was"):
        run(again.again(read={**spec.read, "resample_to": 0.7}))


def test_a_scene_smaller_than_a_window_is_refused(tmp_path: Path, capsys: Capture) -> None:
    write_scene(tmp_path, "a", 100, 80)
    maps(tmp_path, "--resample-to", 1.6, code=4)
    assert "would be read as 25 x 31 px, less than a window of 32 px" in capsys.readouterr().err
    maps(tmp_path, "--resample-to", "model", code=2, pixel_size=None)
    assert "the model does not state the pixel size" in capsys.readouterr().err
    maps(tmp_path, "--resample-to", "large", code=2)
    assert "expected metres on the ground, or model" in capsys.readouterr().err


def test_what_is_read_is_said_before(tmp_path: Path, capsys: Capture) -> None:
    write_scene(tmp_path, "a", 100, 80)
    model = write_rgbd_model(tmp_path / "rgbd.onnx", pixel_size=1.0)
    words = [str(model), str(tmp_path), "--resample-to", "model"]
    assert main([*words, "--dry-run"]) == 0
    assert "a: 80 x 100 px read as 40 x 50 px, 6 windows" in capsys.readouterr().out
    assert main([*words, "--check", "--json"]) == 0
    (scene,) = json.loads(capsys.readouterr().out)["scenes"]
    assert (scene["verdict"], scene["windows"], scene["classified"]) == ("ok", 6, 1)
    texts = " ".join(one["text"] for one in scene["findings"])
    assert "the image is read at the model's pixel size, 1 m" in texts
    assert "is read as 40 x 50 px of 1 metre (EPSG:32632)" in texts
    assert main([*words[:3], "1.6", "--check"]) == 4
    assert "less than a window of 32 px" in capsys.readouterr().out.replace("\n" + " " * 12, " ")


def test_labels_are_read_at_the_same_pixels(tmp_path: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path / "large", "a", 100, 75, label=True)
    enlarged(scene, tmp_path / "small", 2)
    model = write_rgbd_model(tmp_path / "rgbd.onnx", pixel_size=0.5)
    other = write_rgbd_model(tmp_path / "other.onnx", pixel_size=0.25)
    words = ["miou", str(model), str(tmp_path / "small"), "--resample-to", "model", "--json"]
    assert bench(words) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["mean_iou"] == 1
    assert bench([*words[:2], str(other), *words[2:]]) == 3
    assert "give one for both with --resample-to" in capsys.readouterr().err
