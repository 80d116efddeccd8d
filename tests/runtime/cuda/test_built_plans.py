"""ONNX file to plan to class map, with full TensorRT acted: mfnet-export, then mfnet-run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.fake_tensorrt import BUILDERS
from rgbd_plans import rig
from support import read, write_rgbd_model, write_scene

from mfnet_export.cli import main as export
from mfnet_runtime.cli.main import main as run


@pytest.mark.parametrize("version", BUILDERS)
def test_onnx_file_to_plan_to_class_map(tmp_path: Path, version: str) -> None:
    scene = write_scene(tmp_path / "scenes", height=90, width=80, label=True)
    source = write_rgbd_model(tmp_path / "best.fp16.onnx", precision="fp16")
    plan = source.with_suffix(".plan")
    with rig(version) as machine:
        assert export(["--onnx", str(source), "--plan", "--batches", "1,4,8"]) == 0
        assert run([str(plan), str(tmp_path / "scenes"), "-o", str(tmp_path / "maps")]) == 0
        machine.check()
    assert scene.label is not None
    assert np.mean(read(tmp_path / "maps" / "a.tif") == read(scene.label)) > 0.99
