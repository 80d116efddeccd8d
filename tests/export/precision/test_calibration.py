from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import RGBD, UTM, write_raster, write_scene

from mfnet_export.precision.calibration import MIN_WINDOWS, calibration_set, channel_peaks
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError, UsageError

CONTRACT = Contract(32, RGBD)


def test_windows_to_measure_on_lie_between_those_to_calibrate_on(tmp_path: Path) -> None:
    write_scene(tmp_path, height=128, width=128)  # 16 windows
    found = calibration_set(CONTRACT, tmp_path, 12)
    assert (len(found.fit), len(found.held)) == (12, 4)
    assert found.fit.source == f"12 windows of {tmp_path.name}"
    apart = {window.tobytes() for window in found.fit.image}
    assert not apart & {window.tobytes() for window in found.held.image}
    assert len(apart) == 12


def test_too_few_windows_are_told_with_the_minimum(tmp_path: Path) -> None:
    write_scene(tmp_path, height=64, width=128)  # 8 windows
    with pytest.raises(UsageError, match=r"8 windows of 32 px .* needs 11, .* add scenes"):
        calibration_set(CONTRACT, tmp_path, 32)
    with pytest.raises(
        UsageError, match=f"--calibration-windows 7: expected at least {MIN_WINDOWS}"
    ):
        calibration_set(CONTRACT, tmp_path, 7)


def test_scenes_that_do_not_serve(tmp_path: Path) -> None:
    write_scene(tmp_path / "empty", height=128, width=128)
    hollow = np.full((128, 128), np.nan, np.float32)
    write_raster(tmp_path / "empty" / "dsm" / "a.tif", hollow, **UTM)
    with pytest.raises(UsageError, match="no window with a valid pixel"):
        calibration_set(CONTRACT, tmp_path / "empty", 12)
    write_scene(tmp_path / "grey", height=128, width=128)
    grey = np.zeros((1, 128, 128), np.uint8)
    write_raster(tmp_path / "grey" / "image" / "a.tif", grey, **UTM)
    with pytest.raises(SceneError, match="band"):
        calibration_set(CONTRACT, tmp_path / "grey", 12)
    with pytest.raises(UsageError, match="is not a file or folder"):
        calibration_set(CONTRACT, tmp_path / "absent", 12)


def test_peaks_are_those_of_each_channel_over_all_windows(tmp_path: Path) -> None:
    path = tmp_path / "twice.onnx"
    kind = TensorProto.FLOAT
    shapes: dict[str, list[str | int | None]] = {
        "image": ["N", 3, 4, 4],
        "dsm": ["N", 1, 4, 4],
        "logits": ["N", 4, 4, 3],
    }
    tensors = [helper.make_tensor_value_info(name, kind, size) for name, size in shapes.items()]
    nodes = [
        helper.make_node("Transpose", ["image"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["last", "last"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "twice", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    before = path.read_bytes()
    image = np.zeros((5, 3, 4, 4), np.float32)
    image[3, 0, 1, 1], image[1, 2, 0, 0] = 0.5, -0.75
    windows = Windows(image, np.zeros((5, 1, 4, 4), np.float32), "")
    peaks = channel_peaks(path, ["last", "logits"], windows)
    np.testing.assert_array_equal(peaks["last"], np.array([0.5, 0, 0.75], np.float32))
    np.testing.assert_array_equal(peaks["logits"], np.array([1, 0, 1.5], np.float32))
    assert path.read_bytes() == before
