"""Outputs of `mfnet-run` end to end: options, files, summary, tags, refusals."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from support import RGBD, read, results_in, write_scene

from mfnet_runtime.cli.main import main
from mfnet_runtime.files import sha256_from_file

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scenes"


def run(model: Path, *words: object) -> int:
    out = model.parent / "out"
    return main([str(word) for word in (model, model.parent / "scenes", "-o", out, *words)])


def test_all_outputs_of_a_scene(model: Path, folder: Path, capsys: Capture) -> None:
    write_scene(folder, height=90, width=80)
    words = "--confidence --probabilities --vectors gpkg --sieve 4 --dsm-range 90 140 --json"
    assert run(model, *words.split(), "--bbox", 500_005, 5_399_960, 500_035, 5_399_990) == 0
    said = capsys.readouterr().out
    (row,) = json.loads(said)["scenes"]
    out = model.parent / "out"
    names = {"output": "a.tif", "confidence": "a.confidence.tif"}
    names |= {"probabilities": "a.probabilities.tif", "vectors": "a.gpkg"}
    assert {kind: row[kind] for kind in names} == {kind: str(out / names[kind]) for kind in names}
    beside = ("a.tif.aux.xml", "a.qml", "a.confidence.qml")
    assert results_in(out) == sorted([*names.values(), *beside])

    classes, percent = read(out / "a.tif"), read(out / "a.confidence.tif")
    every = read(out / "a.probabilities.tif", None)
    for layer in (percent, *every):
        np.testing.assert_array_equal(layer == 255, classes == 255)
    inside = classes != 255
    assert inside.sum() == 60 * 60
    np.testing.assert_array_equal(every.max(axis=0)[inside], percent[inside])
    at_class = np.take_along_axis(every, np.minimum(classes, 3)[None].astype(int), axis=0)[0]
    np.testing.assert_array_equal(at_class[inside], percent[inside])

    pixels = {name: int((classes == index).sum()) for index, name in enumerate(RGBD.names)}
    assert row["class_pixels"] == pixels
    assert row["class_area_m2"] == {name: 0.25 * count for name, count in pixels.items()}
    assert row["area_from"] == "plane of EPSG:32632"
    assert sum(row["class_percent"].values()) == pytest.approx(100, abs=1e-3)


def test_tags_hold_the_provenance_but_no_folder(model: Path, folder: Path) -> None:
    write_scene(folder)
    area = folder.parent / "county.geojson"
    corners = [[11.0, 40], [9.0, 40], [9.0, 60], [11.0, 60], [11.0, 40]]
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    words = "--stride 8 --blend uniform --align --resampling nearest --image-range 0 200"
    assert (
        run(model, *words.split(), "--aoi", area, "--bands", "3,2,1", "--backend", "onnxruntime")
        == 0
    )
    with rasterio.open(folder.parent / "out" / "a.tif") as found:
        tags = found.tags()
    expected = {
        "MFNET_MODEL": "rgbd.onnx",
        "MFNET_MODEL_SHA256": sha256_from_file(model),
        "MFNET_STRIDE": "8",
        "MFNET_BLEND": "uniform",
        "MFNET_PRECISION": "fp32",
        "MFNET_PREPROCESS": "cpu",
        "MFNET_ALIGN": "nearest",
        "MFNET_AREAS": "county.geojson",
        "MFNET_BANDS": "3,2,1",
        "MFNET_IMAGE_RANGE": "0.0 200.0",
    }
    assert expected.items() <= tags.items()
    assert "ONNX Runtime" in tags["MFNET_BACKEND"]
    assert tags["MFNET_VERSION"][0].isdigit()
    assert float(tags["MFNET_DSM_LOW"]) < float(tags["MFNET_DSM_HIGH"])
    assert str(folder.parent) not in str(tags)


def test_class_areas_in_degrees_and_without_a_crs(
    model: Path, folder: Path, capsys: Capture
) -> None:
    degrees = {"crs": "EPSG:4326", "transform": from_origin(11, 48, 1e-5, 1e-5)}
    write_scene(folder, "degrees", place=degrees)
    write_scene(folder, "nowhere", place={"crs": None})
    assert run(model, "--json", "--vectors", "fgb") == 0
    there, nowhere = json.loads(capsys.readouterr().out)["scenes"]
    assert there["area_from"] == "ellipsoid of EPSG:4326"
    assert sum(there["class_area_m2"].values()) == pytest.approx(40 * 48 * 0.829, rel=1e-3)
    assert (nowhere["class_area_m2"], nowhere["area_from"]) == (None, None)
    assert sum(nowhere["class_percent"].values()) == pytest.approx(100, abs=1e-3)


def test_a_scene_without_polygons_fails_alone(model: Path, folder: Path, capsys: Capture) -> None:
    write_scene(folder, "a")
    write_scene(folder, "b", place={"crs": None})
    assert run(model, "--vectors", "fgb", "--min-area", 3) == 4
    assert "b.tif: the area of the image's pixels is unknown" in capsys.readouterr().err
    names = ["a.fgb", "a.qml", "a.tif", "a.tif.aux.xml"]
    assert results_in(model.parent / "out") == names


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--sieve 3", "add --vectors"),
        ("--vectors kml", "'kml' is not one of"),
        ("--vectors gpkg --sieve -1", "--sieve"),
        ("--vectors gpkg --min-area nan", "expected a number from 0 on"),
        ("--simplify 1", "add --vectors"),
        ("--probabilities --preprocess gpu", "preprocess gpu"),
    ],
)
def test_bad_options(model: Path, folder: Path, capsys: Capture, words: str, part: str) -> None:
    write_scene(folder)
    assert run(model, *words.split()) == 2
    assert part in capsys.readouterr().err
    assert results_in(model.parent / "out") == []


@pytest.mark.parametrize(("package", "words"), [("pyogrio", ""), ("shapely", "--simplify 1")])
def test_polygons_name_the_extra_they_need(
    model: Path,
    folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write_scene(folder)
    assert run(model, "--vectors", "gpkg", *words.split()) == 2
    assert "install it with: pip install 'mfnet[vector]'" in capsys.readouterr().err
    assert not (model.parent / "out").exists(), "found before any work"
    assert run(model) == 0, "nothing else needs it"


def test_two_scenes_never_write_one_file(model: Path, folder: Path, capsys: Capture) -> None:
    write_scene(folder, "a")
    write_scene(folder, "a.confidence")
    assert run(model, "--confidence") == 2
    assert "a.confidence.tif: two scenes would write it" in capsys.readouterr().err
    assert run(model) == 0


def test_a_name_that_is_too_long_fails_its_scene_only(
    model: Path, folder: Path, capsys: Capture
) -> None:
    write_scene(folder, "n" * 240)
    write_scene(folder, "a")
    assert run(model, "--probabilities") == 4
    assert "rename the scene" in capsys.readouterr().err
    assert "a.tif" in os.listdir(model.parent / "out")
