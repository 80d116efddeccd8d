"""`mfnet-export --for deepness`, loaded and called as Deepness does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from plans import write_attention
from support import read, write_rgbd_model, write_scene

from mfnet_export.cli import main
from mfnet_runtime.contract import DsmRule, ImageRule

if TYPE_CHECKING:
    from export.conftest import Made

SHARE = np.float32(1 / 255)


def write(onnx_file: Path, folder: Path, *words: str) -> int:
    return main(["--onnx", str(onnx_file), "--for", "deepness", "-o", str(folder), *words])


class Segmentor:
    """The parts of Deepness that read the file: its loader, one tile, and the choice of a class."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()  # "unsupported number of inputs"
        (output,) = self.session.get_outputs()
        _, self.bands, *self.tile = self.input.shape
        assert self.input.type == "tensor(float)"
        assert len(output.shape) == 4
        assert output.shape[2] == output.shape[3]
        texts = self.session.get_modelmeta().custom_metadata_map
        self.facts: dict[str, Any] = {name: json.loads(text) for name, text in texts.items()}

    def classes(self, tiles: np.ndarray) -> np.ndarray:
        """Classes (tile, row, column) of tiles (tile, row, column, band)."""
        values = np.transpose(np.float32(tiles * 1.0 / 255.0), (0, 3, 1, 2))
        (result,) = self.session.run(None, {self.input.name: values})
        assert np.abs(result.sum(1) - 1).max() < 1e-5
        result[result < self.facts["seg_thresh"]] = 0.0
        return np.asarray(result.argmax(1))


def test_gives_the_classes_of_the_file_with_two_inputs(made: Made, tmp_path: Path) -> None:
    assert write(made.onnx, tmp_path, "--pixel-size", "0.09") == 0
    plugin = Segmentor(tmp_path / "deepness" / "best.onnx")
    assert (plugin.bands, plugin.tile) == (4, [64, 64])
    assert plugin.facts == {
        "model_type": "Segmentor",
        "class_names": {"0": "ground", "1": "tree", "2": "car"},
        "resolution": 9.0,
        "tile_size": 64,
        "tiles_size": 64,
        "tiles_overlap": 25,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 4), np.uint8)
    stack = np.transpose(tiles, (0, 3, 1, 2)) * SHARE
    own = onnxruntime.InferenceSession(made.onnx, providers=["CPUExecutionProvider"])
    (logits,) = own.run(None, {"image": stack[:, :3], "dsm": stack[:, 3:]})
    ranked = np.sort(logits, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 1e-4  # its 1/255 may differ in the last bit
    assert clear.mean() > 0.99
    assert (plugin.classes(tiles) == logits.argmax(1))[clear].all()


def test_the_full_scale_of_the_contract_holds(tmp_path: Path) -> None:
    model = write_rgbd_model(tmp_path / "m.onnx", image=ImageRule(full_scale=1020), pixel_size=0.5)
    assert write(model, tmp_path) == 0
    plugin = Segmentor(tmp_path / "deepness" / "m.onnx")
    assert plugin.facts["resolution"] == 50
    tile = np.full((1, 32, 32, 4), 100, np.uint16)  # the heights are the brightest, ...
    assert (plugin.classes(tile) == 3).all()
    tile[..., 1] = 404  # ... as scaled, up to 400
    assert (plugin.classes(tile) == 1).all()


def test_weights_beside_the_file_are_found(tmp_path: Path) -> None:
    model = write_attention(tmp_path / "m.onnx", "fp32", beside=True)
    assert write(model, tmp_path, "--pixel-size", "1") == 0
    assert sorted(path.name for path in (tmp_path / "deepness").iterdir()) == [
        "m.onnx",
        "m.onnx.data",
    ]
    Segmentor(tmp_path / "deepness" / "m.onnx")


@pytest.mark.skipif(not shutil.which("gdal_merge.py"), reason="no GDAL commands")
@pytest.mark.parametrize("rule", [DsmRule(), DsmRule("range", 100, 120)])
def test_the_printed_commands_stack_the_bands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: DsmRule
) -> None:
    scene = write_scene(tmp_path)
    model = write_rgbd_model(tmp_path / "m.onnx", dsm=rule, pixel_size=0.5)
    assert write(model, tmp_path, "--json") == 0
    steps = json.loads(capsys.readouterr().out)["interfaces"][0]["next"]
    heights = read(scene.dsm)
    low, high = (heights.min(), heights.max()) if rule.name == "scene_minmax" else (100, 120)
    files = {"heights.tif": scene.dsm, "ortho.tif": scene.image, "LOW": low, "HIGH": high}
    for step in steps[:2]:
        words = [str(files.get(word, word)) for word in step.partition("  #")[0].split()]
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    stack = read(tmp_path / "stack.tif", None)
    assert (stack[:3] == read(scene.image, None)).all()
    scaled = np.clip((heights - low) / (high - low) * 255, 0, 255)
    assert np.abs(stack[3] - scaled).max() <= 0.51
    info = subprocess.run(["gdalinfo", tmp_path / "stack.tif"], capture_output=True, text=True)
    assert "Alpha" not in info.stdout


@pytest.mark.parametrize(
    ("changes", "words", "text"),
    [
        ({}, [], "--pixel-size"),
        ({"pixel_size": 0.5}, ["--pixel-size", "0.2"], "states pixels of 0.5 m"),
        ({"precision": "fp16"}, ["--pixel-size", "1"], "FP32 or INT8"),
    ],
)
def test_refusals(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    words: list[str],
    text: str,
) -> None:
    model = write_rgbd_model(tmp_path / "m.onnx", **changes)
    assert write(model, tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [model]


def test_the_file_is_old_enough_for_older_engines(tmp_path: Path) -> None:
    model = write_rgbd_model(tmp_path / "m.onnx", pixel_size=1)  # IR 10
    assert write(model, tmp_path) == 0
    assert onnx.load(tmp_path / "deepness" / "m.onnx").ir_version == 9
