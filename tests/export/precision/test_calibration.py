"""Calibration windows, and peaks measured inside the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_graphs import make_graph
from support import RGBD, UTM, write_raster, write_scene

from mfnet_export.precision.calibration import (
    MIN_WINDOWS,
    Probe,
    calibration_set,
    measure_peaks,
)
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError, UsageError

CONTRACT = Contract(32, RGBD)


def test_held_out_windows_lie_between_calibration_windows(tmp_path: Path) -> None:
    write_scene(tmp_path, height=128, width=128)  # 16 windows
    found = calibration_set(CONTRACT, tmp_path, 12)
    assert (len(found.fit), len(found.held)) == (12, 4)
    assert found.fit.source == f"12 windows of {tmp_path.name}"
    fit = {window.tobytes() for window in found.fit.image}
    assert not fit & {window.tobytes() for window in found.held.image}
    assert len(fit) == 12


def test_unusable_scenes_are_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "few", height=64, width=128)  # 8 windows
    with pytest.raises(UsageError, match=r"8 windows of 32 px .* needs 11, .* add scenes"):
        calibration_set(CONTRACT, tmp_path / "few", 32)
    with pytest.raises(
        UsageError, match=f"--calibration-windows 7: expected at least {MIN_WINDOWS}"
    ):
        calibration_set(CONTRACT, tmp_path / "few", 7)
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
    with pytest.raises(UsageError, match="absent"):
        calibration_set(CONTRACT, tmp_path / "absent", 12)


def test_peaks_over_all_windows(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["image", "four"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["scaled", "dsm"], ["logits"]),
    ]
    inputs = {"image": ["N", 3, 8, 8], "dsm": ["N", 1, 8, 8]}
    path = tmp_path / "a.onnx"
    onnx.save(make_graph(*nodes, inputs=inputs, outputs=["logits"], four=4.0), path)
    before = path.read_bytes()
    image = np.zeros((3, 3, 8, 8), np.float32)
    image[:, 1, 2, 3] = (0.5, -0.75, 0.25)
    windows = Windows(image, np.ones((3, 1, 8, 8), np.float32), "drawn")
    probes = {
        Probe("scaled"): 3.0,
        Probe("logits"): 3.0,
        Probe("logits", sums=(2, 3)): 66.0,  # the window of 0.5: 63 ones and 4 * 0.5 + 1
        Probe("last", channels=True): [0, 3.0, 0],
    }
    found = measure_peaks(path, [*probes, Probe("scaled")], windows)
    assert {probe: peak.tolist() for probe, peak in found.items()} == probes
    assert path.read_bytes() == before
