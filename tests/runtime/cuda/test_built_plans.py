"""What mfnet-export builds, mfnet-run runs: ONNX file to plan to class map, on the fakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes.fake_tensorrt import VERSIONS
from rgbd_plans import rig
from support import read, write_rgbd_model, write_scene

from mfnet_export.cli import main as export
from mfnet_runtime.cli.main import main as run


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_onnx_file_to_plan_to_class_map(tmp_path: Path, version: str, precision: str) -> None:
    scene = write_scene(tmp_path / "scenes", height=90, width=80, label=True)
    source = write_rgbd_model(tmp_path / f"best.{precision}.onnx", precision=precision)
    plan = source.with_suffix(".plan")
    with rig(version) as machine:
        assert export(["--onnx", str(source), "--plan", "--batches", "1,4,8"]) == 0
        assert run([str(plan), str(tmp_path / "scenes"), "-o", str(tmp_path / "maps")]) == 0
        machine.check()
    assert scene.label is not None
    same = np.mean(read(tmp_path / "maps" / "a.tif") == read(scene.label))
    assert same == 1 or (precision == "fp16" and same > 0.99)


def test_a_plan_of_another_gpu_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "scenes")
    source = write_rgbd_model(tmp_path / "best.onnx")
    with rig("10.13", name="NVIDIA A100", compute_capability=(8, 0)) as machine:
        assert export(["--onnx", str(source), "--plan"]) == 0
        machine.check()
    capsys.readouterr()
    words = [str(tmp_path / "best.plan"), str(tmp_path / "scenes"), "-o", str(tmp_path / "maps")]
    with rig("10.13") as machine:
        assert run(words) == 3
        machine.check()
    (line,) = capsys.readouterr().err.splitlines()
    assert "built for sm80 (on NVIDIA A100), here is NVIDIA Fake (sm90)" in line
    assert "mfnet-export --onnx best.onnx --plan" in line
