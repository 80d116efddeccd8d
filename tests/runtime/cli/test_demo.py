"""The model and the scene that come with mfnet."""

from __future__ import annotations

from pathlib import Path

import pytest
import rasterio
from support import read

from mfnet_runtime.cli.main import main
from mfnet_runtime.demo import DATA, MODEL, SCENE
from mfnet_runtime.labels import IGNORE


def test_a_map_and_a_picture(tmp_path: Path) -> None:
    words = ["demo", "-o", str(tmp_path), "--stride", "128", "--backend", "onnxruntime"]
    assert main(words) == 0
    classes = read(tmp_path / "demo.tif")
    with rasterio.open(SCENE.image) as image, rasterio.open(tmp_path / "demo.tif") as found:
        assert (found.shape, found.crs, found.transform) == (
            image.shape,
            image.crs,
            image.transform,
        )
    shares = [(classes == index).mean() for index in range(4)]
    assert min(shares[0], shares[2], shares[3]) > 0.15, "ground, vegetation, water"
    picture = read(tmp_path / "demo.png", None)
    assert picture.shape[:2] == (3, classes.shape[0])
    shown = picture[:, :, -classes.shape[1] :]
    assert (shown[:, classes == IGNORE] == 255).all(), "expected white without data"


def test_it_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 2
    assert "no output folder" in capsys.readouterr().err


def test_what_comes_with_it_is_small_and_credited() -> None:
    assert MODEL.stat().st_size < 8e6
    assert sum((DATA / name).stat().st_size for name in ("image.tif", "dsm.tif")) < 3e6
    assert "CC BY 4.0" in (DATA / "SOURCE.txt").read_text()
