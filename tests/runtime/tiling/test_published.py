"""The published protocol, by one option: the class maps of the paper's test code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import rasterio
from onnx import helper, numpy_helper
from support import RGBD, read, write_rgbd_model, write_scene

from mfnet_runtime.cli.main import main
from mfnet_runtime.contract import DsmRule

Array = npt.NDArray[Any]


def visited(height: int, width: int, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """Where the published loop goes, in its order, the border again and again."""
    for row in range(0, height, stride):
        for column in range(0, width, stride):
            yield min(row, height - window), min(column, width - window)


@pytest.fixture
def wide_model(tmp_path: Path) -> Path:
    """One convolution: a window's border is padded with zeros, so that windows matter."""
    path = write_rgbd_model(tmp_path / "wide.onnx", 64)
    model = onnx.load(path)
    weights = np.random.default_rng(0).normal(0, 0.2, (4, 4, 17, 17)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    model.graph.node[0].output[0] = "bands"
    names = ["bands", "weights"]
    model.graph.node.append(helper.make_node("Conv", names, ["logits"], pads=[8, 8, 8, 8]))
    onnx.save(model, path)
    return path


def published_mean(model: Path, image: Array, dsm: Array, stride: int) -> Array:
    """Mean logits by the published loop from rasters on, every visit inferred."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    image = 1 / 255 * image.astype(np.float32)
    dsm = (dsm - dsm.min()) / (dsm.max() - dsm.min())
    total = np.zeros((len(RGBD), *dsm.shape))
    visits = np.zeros(dsm.shape)
    for row, column in visited(len(dsm), len(dsm[0]), 64, stride):
        under = (slice(row, row + 64), slice(column, column + 64))
        feed = {"image": image[:, under[0], under[1]][None], "dsm": dsm[under][None, None]}
        total[:, under[0], under[1]] += session.run(["logits"], feed)[0][0]
        visits[under] += 1
    return np.asarray(total / visits)


@pytest.mark.parametrize(("words", "stride"), [("", 32), ("--stride 10 --batch 1", 10)])
def test_the_protocol_gives_the_published_map(
    tmp_path: Path, wide_model: Path, words: str, stride: int
) -> None:
    scene = write_scene(tmp_path / "scenes", height=150, width=190)
    out = tmp_path / "out"
    line = f"{wide_model} {tmp_path}/scenes -o {out} --backend onnxruntime --confidence"
    assert main(f"{line} --protocol published {words}".split()) == 0
    mean = published_mean(wide_model, read(scene.image, None), read(scene.dsm), stride)
    np.testing.assert_array_equal(read(out / "a.tif"), mean.argmax(axis=0))
    assert len(np.unique(mean.argmax(axis=0))) == 4
    percent = 100 / np.exp(mean - mean.max(axis=0)).sum(axis=0)
    np.testing.assert_allclose(read(out / "a.confidence.tif"), percent, atol=0.51)
    with rasterio.open(out / "a.tif") as found:
        tags = found.tags()
    assert (tags["MFNET_BLEND"], tags["MFNET_STRIDE"]) == ("published", str(stride))


def test_heights_are_those_of_the_scene_whatever_the_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_rgbd_model(tmp_path / "fixed.onnx", dsm=DsmRule("range", 0, 500))
    scene = write_scene(tmp_path / "scenes")
    line = f"{model} {tmp_path}/scenes -o {tmp_path}/out --json --protocol published"
    assert main(line.split()) == 0
    row = json.loads(capsys.readouterr().out)["scenes"][0]
    heights = read(scene.dsm)
    assert (row["dsm_low"], row["dsm_high"]) == (heights.min(), heights.max())


@pytest.mark.parametrize("words", ["--blend uniform", "--dsm-range 0 50"])
def test_options_that_contradict_the_protocol_are_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    write_scene(tmp_path / "scenes")
    line = f"{model} {tmp_path}/scenes -o {tmp_path}/out --protocol published {words}"
    assert main(line.split()) == 2
    option = words.split()[0]
    assert f"--protocol published and {option} exclude each other" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
