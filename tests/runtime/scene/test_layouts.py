"""Folders of published datasets, in miniature, as `mfnet-run` takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import UTM, write_raster, write_rgbd_model

from mfnet_runtime.cli.main import main
from mfnet_runtime.contract import ImageRule
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.discovery import scenes_from
from mfnet_runtime.scene.layouts import LAYOUTS, layout_in

RNG = np.random.default_rng(0)
INFRARED = ImageRule(("near infrared", "red", "green"))
Capture = pytest.CaptureFixture[str]


def write(path: Path, bands: int, kind: Any = np.uint8) -> None:
    place = UTM if path.suffix == ".tif" else {}
    write_raster(path, RNG.integers(1, 255, (bands, 40, 48)).astype(kind), **place)


def vaihingen(root: Path) -> list[str]:
    for area in (2, 30):  # 2 has no label
        write(root / f"top/top_mosaic_09cm_area{area}.tif", 3)
        write(root / f"dsm/dsm_09cm_matching_area{area}.tif", 1)
    names = ["top_mosaic_09cm_area2", "top_mosaic_09cm_area30"]
    write(root / f"gts_for_participants/{names[1]}.tif", 3)
    write(root / f"gts_eroded_for_participants/{names[1]}_noBoundary.tif", 3)
    return names


def potsdam(root: Path) -> list[str]:
    for tile, padded in (("2_10", "02_10"), ("6_7", "06_7")):
        write(root / f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif", 3)
        write(root / f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif", 4)
        write(root / f"1_DSM/dsm_potsdam_{padded}.tif", 1, np.float32)
        for approach in ("lastools.jpg", "ownapproach.jpg"):
            name = f"dsm_potsdam_{padded}_normalized_{approach}"
            write(root / "1_DSM_normalisation" / name, 1)
        write(root / f"5_Labels_for_participants/top_potsdam_{tile}_label.tif", 3)
    return ["top_potsdam_2_10_RGBIR", "top_potsdam_6_7_RGBIR"]


def mmhunan(root: Path) -> list[str]:
    for folder, bands in (("images_png", 3), ("dsm_pngs", 1)):
        write(root / folder / "639.png", bands)
    write(root / "masks_png/639.tif", 1)
    return ["639"]


BUILD = pytest.mark.parametrize("build", [vaihingen, potsdam, mmhunan])


@BUILD
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_as_distributed_runs(
    tmp_path: Path, capsys: Capture, build: Any, named: bool
) -> None:
    root = tmp_path / "data"
    names = build(root)
    image = INFRARED if build is vaihingen else ImageRule()
    model = write_rgbd_model(tmp_path / "rgbd.onnx", image=image)
    words = ["--dataset", build.__name__] if named else []
    code = main([str(model), str(root), "-o", str(tmp_path / "out"), "--json", *words])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert [row["scene"] for row in json.loads(out)["scenes"]] == names
    assert all(row["nodata_pixels"] == 0 for row in json.loads(out)["scenes"])
    assert f"read as the {build.__name__} dataset, without its labels" in err
    assert "the model expects" not in err


@pytest.mark.parametrize(
    ("build", "bands", "text"),
    [
        (
            vaihingen,
            ImageRule(),
            "red, green, blue, but the dataset has bands 1,2,3 near infrared,",
        ),
        (mmhunan, INFRARED, "near infrared, red, green, but the dataset has bands 1,2,3 red,"),
    ],
)
def test_bands_of_another_dataset_are_warned_of(
    tmp_path: Path, capsys: Capture, build: Any, bands: ImageRule, text: str
) -> None:
    build(tmp_path / "data")
    model = write_rgbd_model(tmp_path / "rgbd.onnx", image=bands)
    assert main([str(model), str(tmp_path / "data"), "--check"]) == 0
    assert text in " ".join(capsys.readouterr().out.split())


def test_what_is_no_dataset(tmp_path: Path) -> None:
    vaihingen(tmp_path)
    assert layout_in(tmp_path) is LAYOUTS["vaihingen"]
    assert layout_in(tmp_path / "top") is None
    (tmp_path / "image").mkdir()
    assert layout_in(tmp_path) is None
    with pytest.raises(UsageError, match=r"holds no images_png/\*\.png; expected the mmhunan"):
        scenes_from(tmp_path, layout=LAYOUTS["mmhunan"])
    with pytest.raises(UsageError, match="--dsm and --dsm-band do not go with"):
        scenes_from(tmp_path, tmp_path / "dsm", layout=LAYOUTS["vaihingen"])


def test_a_missing_dsm_fails_its_tile_alone(tmp_path: Path) -> None:
    names = vaihingen(tmp_path)
    (tmp_path / "dsm/dsm_09cm_matching_area2.tif").unlink()
    scenes = scenes_from(tmp_path, layout=LAYOUTS["vaihingen"])
    assert [(scene.name, Path(str(scene.dsm)).exists()) for scene in scenes] == [
        (names[0], False),
        (names[1], True),
    ]
