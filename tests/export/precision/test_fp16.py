"""`mfnet-export --fp16` end to end: one file, checked by emulation, or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import onnx_with_outlier
from support import write_raster, write_scene

from mfnet_export.cli import main
from mfnet_export.files import ExportError
from mfnet_export.inspect import inspect_file
from mfnet_export.options import ExportOptions
from mfnet_export.precision import accuracy
from mfnet_export.precision.accuracy import PrecisionReport, SceneScores
from mfnet_export.precision.fp16 import fp16_from_onnx
from mfnet_export.precision.fp16_ranges import measure_ranges
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]
FP16 = ExportOptions(fp16=True)


@pytest.fixture(scope="module")
def windows(made: Made) -> Windows:
    return sample_windows(made.contract, count=2)


@pytest.fixture(scope="module")
def made_fp16(
    made: Made, windows: Windows, tmp_path_factory: pytest.TempPathFactory
) -> PrecisionReport:
    target = tmp_path_factory.mktemp("fp16") / "best.fp16.onnx"
    return fp16_from_onnx(made.onnx, target, windows, FP16, threads=1)


def test_the_file_describes_itself(made: Made, made_fp16: PrecisionReport) -> None:
    path = made_fp16.output
    assert os.listdir(path.parent) == [path.name]
    assert made_fp16.size == path.stat().st_size < 0.6 * made.onnx.stat().st_size
    model = onnx.load(path)
    assert ([e.version for e in model.opset_import], model.ir_version) == ([17], 8)
    contract = Contract.from_json({e.key: e.value for e in model.metadata_props}[METADATA_KEY])
    assert (contract.precision, contract.classes) == ("fp16", made.contract.classes)
    facts = contract.provenance["fp16"]
    assert facts["windows"] == "2 of a synthetic town, 2 of noise"
    assert facts["float_parts"] == facts["lossy_weights"] == []
    assert 0.998 < facts["emulated_difference"]["agreement"] < 1
    assert set(facts["peaks"]) >= {"block 0 image", "block 1 DSM", "decoder"}
    assert contract.provenance["dataset"] == "town"
    before, after = (inspect_file(each)["graph"] for each in (made.onnx, path))
    assert after["inputs"][0] == "image float16 (N, 3, 64, 64)"
    assert list(before["activations"]) == ["float32"]
    # The BatchNormalization in each of three attentions has become two nodes.
    assert after["activations"] == {"float16": before["activations"]["float32"] + 3}


def test_a_cpu_refuses_it_with_the_remedy(made_fp16: PrecisionReport) -> None:
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(ModelError, match=r"mfnet-export --onnx \S*best.fp16.onnx --plan"):
            backend_from_file(made_fp16.output, name)


def test_report_as_text(made_fp16: PrecisionReport) -> None:
    first, *rest = made_fp16.lines()
    assert first.startswith(f"fp16      {made_fp16.output}  1.4 MB")
    text = "\n".join(rest)
    assert ", limit 65504; on 2 of a synthetic town, 2 of noise" in text
    assert "in FP32     nothing" in text
    assert "of the pixels of 4 windows; logits differ by" in text
    assert text.endswith("mIoU        not measured: the scenes have no label/")


@pytest.mark.slow
def test_a_large_stream_is_kept_in_fp32(made: Made, windows: Windows, tmp_path: Path) -> None:
    source = onnx_with_outlier(made.onnx, tmp_path / "outlier.onnx", 20_000)
    report = fp16_from_onnx(source, tmp_path / "a.fp16.onnx", windows, FP16, threads=1)
    assert report.facts["float_parts"] == [
        "block 0 image",
        "block 0 DSM",
        "block 1 image",
        "block 1 DSM",
    ]
    assert "residual sums and means of block 0 image, block 0 DSM" in "\n".join(report.lines())
    assert report.facts["emulated_difference"]["agreement"] > 0.99
    activations = inspect_file(report.output)["graph"]["activations"]
    large = len(measure_ranges(source, windows).large)
    assert activations["float16"] > activations["float32"] > large


@pytest.mark.usefixtures("above_2_gib")
def test_weights_may_be_beside_the_file(
    made: Made, made_fp16: PrecisionReport, windows: Windows, tmp_path: Path
) -> None:
    source = tmp_path / "fp32" / "big.onnx"
    source.parent.mkdir()
    ir.save(ir.load(made.onnx), source, external_data="big.onnx.data")
    report = fp16_from_onnx(source, tmp_path / "big.fp16.onnx", windows, FP16, threads=1)
    assert sorted(os.listdir(tmp_path)) == ["big.fp16.onnx", "big.fp16.onnx.data", "fp32"]
    sizes = [(tmp_path / f"big.fp16.onnx{end}").stat().st_size for end in ("", ".data")]
    assert report.size == sum(sizes)
    assert report.facts == made_fp16.facts


def test_refusals_leave_the_old_file(
    made: Made, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "best.fp16.onnx"
    target.write_text("old")
    strict = ExportOptions(fp16=True, max_disagree=0)
    with pytest.raises(ExportError, match=r"FP16 is refused: same class .* raise --max-disagree"):
        fp16_from_onnx(made.onnx, target, windows, strict, threads=1)
    (tmp_path / "label").mkdir()
    monkeypatch.setattr(accuracy, "scores_on_scenes", lambda *_: SceneScores(2, (0.62, 0.61)))
    message = (
        r"0\.6200 in FP32, 0\.6100 in FP16 \(-1\.00 points\) on 2 labelled scenes, "
        r"allowed are 0\.9 points less"
    )
    options = ExportOptions(tmp_path, fp16=True, max_drop=0.9)
    with pytest.raises(ExportError, match=message):
        fp16_from_onnx(made.onnx, target, windows, options, threads=1)
    assert sorted(os.listdir(tmp_path)) == ["best.fp16.onnx", "label"]
    assert target.read_text() == "old"


@pytest.mark.usefixtures("cheap")
def test_command_end_to_end(best: Path, tmp_path: Path, capsys: Capture) -> None:
    scene = write_scene(tmp_path / "scenes", height=96, width=96)
    label = np.random.default_rng(0).integers(0, 3, (96, 96)).astype(np.uint8)
    write_raster(tmp_path / "scenes" / "label" / scene.image.name, label)
    words = ("--ckpt", best, "--fp16", "--scenes", tmp_path / "scenes", "--windows", 1, "--json")
    assert main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    models = sorted(path.name for path in tmp_path.glob("*.onnx"))  # beside them, perhaps a plan
    assert models == ["best.fp16.onnx", "best.onnx"]
    assert report["fp16"]["output"] == str(tmp_path / "best.fp16.onnx")
    assert report["fp16"]["bytes"] == (tmp_path / "best.fp16.onnx").stat().st_size
    assert report["bytes"] == (tmp_path / "best.onnx").stat().st_size
    assert report["fp16"]["windows"].endswith("of scenes, 2 of noise")
    assert report["fp16"]["emulated_scores"]["scenes"] == 1
    assert abs(report["fp16"]["emulated_scores"]["drop_points"]) < 0.5
    assert "int8" not in report
