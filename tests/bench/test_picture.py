"""`mfnet-bench picture`: panels, colours, decimation, and files it cannot use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from support import UTM, write_raster

from mfnet.synthetic import TOWN, write_town
from mfnet_bench.cli import main
from mfnet_bench.picture import PANEL, View, class_rgb, photo_rgb, read_view
from mfnet_runtime.labels import IGNORE


@pytest.fixture
def town(tmp_path: Path) -> dict[str, str]:
    """Image, DSM, class map (as the runtime tags it) and label of one small scene."""
    write_town(tmp_path, {"a": 1}, (96, 64), nodata=["a"])
    paths = {part: str(tmp_path / part / "a.tif") for part in ("image", "dsm", "label")}
    paths["map"] = str(tmp_path / "map.tif")
    Path(paths["map"]).write_bytes(Path(paths["label"]).read_bytes())
    with rasterio.open(paths["map"], "r+") as raster:
        raster.update_tags(MFNET_CLASSES=json.dumps(TOWN.to_json()))
    return paths


def size_of(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_three_or_four_panels(town: dict[str, str], tmp_path: Path) -> None:
    three, four = tmp_path / "3.png", tmp_path / "4.png"
    command = [town["image"], town["dsm"], town["map"]]
    assert main(["picture", *command, "-o", str(three)]) == 0
    assert main(["picture", *command, town["label"], "-o", str(four)]) == 0
    assert size_of(four)[0] > 1.25 * size_of(three)[0]
    assert size_of(four)[1] == size_of(three)[1]


def test_another_format_if_it_is_allowed(town: dict[str, str], tmp_path: Path) -> None:
    grid = tmp_path / "heights.asc"
    header = "ncols 64\nnrows 96\nxllcorner 0\nyllcorner 0\ncellsize 1\n"
    grid.write_text(header + "\n".join([" ".join(map(str, range(64)))] * 96))
    words = ["picture", town["image"], str(grid), town["map"], "-o", str(tmp_path / "a.png")]
    assert main(words) == 4
    assert main([*words, "--allow-driver", "AAIGrid"]) == 0
    assert size_of(tmp_path / "a.png") > (0, 0)


def test_without_names_there_is_no_legend(town: dict[str, str], tmp_path: Path) -> None:
    named, nameless = tmp_path / "named.png", tmp_path / "nameless.png"
    for source, out in ((town["map"], named), (town["label"], nameless)):
        assert main(["picture", town["image"], town["dsm"], source, "-o", str(out)]) == 0
    assert size_of(nameless)[1] < size_of(named)[1]


@pytest.mark.parametrize("tag", ["{", "[3]", "[]"])
def test_a_damaged_class_table_is_named(
    town: dict[str, str], tmp_path: Path, tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with rasterio.open(town["map"], "r+") as raster:
        raster.update_tags(MFNET_CLASSES=tag)
    out = str(tmp_path / "x.png")
    assert main(["picture", town["image"], town["dsm"], town["map"], "-o", out]) == 4
    assert "MFNET_CLASSES" in capsys.readouterr().err


def test_unreadable_and_unwritable_files(
    town: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "none" / "x.png")
    assert main(["picture", town["image"], town["dsm"], town["map"], "-o", out]) == 5
    Path(town["dsm"]).write_text("not a raster")
    assert main(["picture", town["image"], town["dsm"], town["map"], "-o", out]) == 4
    assert town["dsm"] in capsys.readouterr().err


def test_large_scenes_are_decimated(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "large.tif", np.full((30, 2100), 3, np.uint8), **UTM)
    view = read_view(path, Resampling.nearest, 1)
    assert view.values.shape == (1, 10, PANEL)
    assert view.pixel == pytest.approx(1.5)


def view(values: Any, valid: Any = None, palette: Any = None) -> View:
    array = np.asarray(values)
    known = np.ones(array.shape[1:], np.bool_) if valid is None else np.asarray(valid)
    return View(array, known, 1.0, palette, None)


def test_class_colours() -> None:
    index = np.array([[[0, 5, IGNORE, 200]]], np.uint8)
    shown = class_rgb(view(index), TOWN, None)[0]
    assert tuple(shown[0]) == TOWN.colours[0]
    assert tuple(shown[1]) == TOWN.colours[5]
    assert tuple(shown[2]) == (255, 255, 255)
    own = class_rgb(view(index, palette={0: (1, 2, 3, 255)}), None, None)[0]
    assert tuple(own[0]) == (1, 2, 3)


def test_images_of_any_depth_and_band_count() -> None:
    deep = np.arange(3 * 16, dtype=np.uint16).reshape(3, 4, 4) * 100
    shown = photo_rgb(view(deep))
    assert shown.shape == (4, 4, 3)
    assert shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, 255)
    grey = photo_rgb(view(np.full((1, 2, 2), 7, np.uint8), [[True, False], [True, True]]))
    assert grey[0].tolist() == [[7, 7, 7], [255, 255, 255]]
