"""`mfnet-export --int8` end to end, and the INT8 graph in both engines."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from support import UTM, write_raster, write_scene

from mfnet_export.cli import main
from mfnet_export.files import ExportError
from mfnet_export.options import ExportOptions
from mfnet_export.precision import accuracy, int8_search
from mfnet_export.precision.accuracy import PrecisionReport, SceneScores
from mfnet_export.precision.calibration import CalibrationSet, Probe, measure_peaks
from mfnet_export.precision.int8 import int8_from_onnx
from mfnet_export.precision.qdq import linear_layers, quantise, smooth
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def calibration(made: Made) -> CalibrationSet:
    found = sample_windows(made.contract, count=10)
    fit, held = (
        Windows(found.image[part], found.dsm[part], f"{part.stop - part.start} drawn")
        for part in (slice(0, 8), slice(8, 10))
    )
    return CalibrationSet(fit, held)


@pytest.fixture(scope="module")
def made_int8(
    made: Made, calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> PrecisionReport:
    folder = tmp_path_factory.mktemp("int8")
    return convert(made.onnx, folder / "best.int8.onnx", calibration)


def convert(
    source: Path, target: Path, calibration: CalibrationSet, max_disagree: float = 20
) -> PrecisionReport:
    """Allow many pixels to change their class: with random weights many are undecided."""
    options = ExportOptions(int8=True, calibrate=target.parent, max_disagree=max_disagree)
    return int8_from_onnx(source, target, calibration, options, threads=1)


def logits(path: Path, windows: Windows, name: str = "onnxruntime") -> npt.NDArray[Any]:
    with backend_from_file(path, name, threads=1) as backend:
        found = backend.infer({"image": windows.image, "dsm": windows.dsm})["logits"]
        return np.array(found)


def measure(path: Path, names: list[str], calibration: CalibrationSet) -> dict[str, Floats]:
    probes = [Probe(name, channels=True) for name in names]
    found = measure_peaks(path, probes, calibration.fit, threads=1)
    return {probe.name: peak for probe, peak in found.items()}


def test_pairs_are_symmetric_and_weights_have_a_scale_per_channel(
    made_int8: PrecisionReport,
) -> None:
    graph = onnx.load(made_int8.output).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    layers = 0
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not constants[node.input[2]].any()
            assert constants[node.input[2]].dtype == np.int8
        pair = [makers.get(name) for name in node.input[:2]]
        if node.op_type != "MatMul" or pair[1] is None or pair[1].input[0] not in constants:
            continue
        layers += 1
        values, scale = (constants[name] for name in pair[1].input[:2])
        assert values.dtype == np.int8
        assert scale.shape == values.shape[1:]
        assert (np.abs(values).max(0) == 127).all()
        assert pair[0] is not None
        assert pair[0].op_type == "DequantizeLinear"
        assert constants[pair[0].input[1]].shape == ()
    assert layers == made_int8.facts["linear_layers"] > 0


def test_the_file_describes_itself(made_int8: PrecisionReport) -> None:
    model = onnx.load(made_int8.output)
    (prop,) = model.metadata_props
    assert (prop.key, model.opset_import[0].version) == (METADATA_KEY, 17)
    contract = Contract.from_json(prop.value)
    assert contract.precision == "int8"
    facts = contract.provenance["int8"]
    assert facts["calibrated"] == "8 drawn"
    assert facts == made_int8.facts
    assert facts["float_layers"] == []
    assert contract.provenance["dataset"] == "town"
    assert str(made_int8.output.parent) not in prop.value


def test_engines_agree(made: Made, made_int8: PrecisionReport, calibration: CalibrationSet) -> None:
    pytest.importorskip("openvino")
    exact, held = logits(made.onnx, calibration.held), calibration.held
    one, other = (logits(made_int8.output, held, name) for name in ("onnxruntime", "openvino"))
    error = np.abs(one - exact).mean()
    assert 0 < error < 0.05 * np.ptp(exact)
    assert np.abs(one - other).mean() < 0.2 * error


def test_smoothing_is_exact_and_evens_out_peaks(
    made: Made, calibration: CalibrationSet, tmp_path: Path
) -> None:
    model = ir.load(made.onnx)
    names = list(dict.fromkeys(layer.source for layer in linear_layers(model)))
    peaks = measure(made.onnx, names, calibration)
    smoothed = smooth(model, peaks)
    ir.save(model, path := tmp_path / "smooth.onnx")
    again = measure(path, names, calibration)
    changed = [name for name in names if not np.array_equal(peaks[name], smoothed[name])]
    assert changed
    for name in names:
        np.testing.assert_allclose(again[name], smoothed[name], rtol=1e-3, atol=1e-5)
    for name in changed:
        assert np.ptp(np.log(smoothed[name])) < np.ptp(np.log(peaks[name]))
    exact = logits(made.onnx, calibration.held)
    np.testing.assert_allclose(logits(path, calibration.held), exact, atol=2e-5)


def test_kept_layers_are_float(made: Made) -> None:
    model = ir.load(made.onnx)
    layers = linear_layers(model)
    quantise(model, {layer.source: np.ones(1, np.float32) for layer in layers}, kept=(0, 2))
    makers = [layer.node.inputs[1].producer() for layer in layers]  # type: ignore[union-attr]
    assert [index for index, maker in enumerate(makers) if maker is None] == [0, 2]


def test_the_same_bytes_twice(
    made: Made, made_int8: PrecisionReport, calibration: CalibrationSet, tmp_path: Path
) -> None:
    target = tmp_path / "best.int8.onnx"
    again = convert(made.onnx, target, calibration)
    assert target.read_bytes() == made_int8.output.read_bytes()
    assert again.size == target.stat().st_size < made.onnx.stat().st_size
    assert again.lines()[0].startswith(f"int8      {target}")


def test_too_large_a_difference_is_refused(
    made: Made,
    calibration: CalibrationSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(int8_search, "MAX_GROUPS", 4)  # each costs a graph
    target = tmp_path / "best.int8.onnx"
    target.write_text("old")
    message = r"change their class \(allowed 0 %\) with [1-9]\d* of .*nothing was written"
    with pytest.raises(ExportError, match=message):
        convert(made.onnx, target, calibration, max_disagree=0)
    assert any("in float" in line for line in caplog.messages)  # it searched
    assert os.listdir(tmp_path) == ["best.int8.onnx"]
    assert target.read_text() == "old"


@pytest.mark.usefixtures("above_2_gib")
def test_weights_beside_the_fp32_file_are_copied(
    made: Made, calibration: CalibrationSet, made_int8: PrecisionReport, tmp_path: Path
) -> None:
    source, target = tmp_path / "fp32" / "big.onnx", tmp_path / "int8" / "big.int8.onnx"
    for path in (source, target):
        path.parent.mkdir()
    ir.save(ir.load(made.onnx), source, external_data="big.onnx.data")
    convert(source, target, calibration)
    shutil.rmtree(source.parent)
    held = calibration.held
    np.testing.assert_array_equal(logits(target, held), logits(made_int8.output, held))


@pytest.fixture
def folder(best: Path, cheap: None, tmp_path: Path) -> Path:
    """A checkpoint, 16 windows of labelled scenes, and the FP32 export without its cost."""
    scene = write_scene(tmp_path / "scenes", height=256, width=256, label=True)
    assert scene.label is not None
    write_raster(scene.label, np.arange(256, dtype=np.uint8)[None, :].repeat(256, 0) % 3, **UTM)
    return tmp_path


def run(folder: Path, *words: object) -> int:
    scenes = folder / "scenes"
    given = ("--ckpt", folder / "best.pt", "--windows", 1, "--int8", "--calibrate", scenes, *words)
    return main([str(word) for word in given])


def test_command_end_to_end(folder: Path, capsys: Capture) -> None:
    plain = folder / "scenes" / "plain"  # has no labels, so the calibration scenes are scored
    ignore = shutil.ignore_patterns("label", "plain")
    shutil.copytree(folder / "scenes", plain, ignore=ignore)
    words = ("--calibration-windows", 8, "--max-disagree", 40, "--max-drop", 50, "--json")
    assert run(folder, "--scenes", plain, *words) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(os.listdir(folder)) == ["best.int8.onnx", "best.onnx", "best.pt", "scenes"]
    assert report["int8"]["output"] == str(folder / "best.int8.onnx")
    assert report["int8"]["bytes"] == (folder / "best.int8.onnx").stat().st_size
    assert report["bytes"] == (folder / "best.onnx").stat().st_size
    assert report["int8"]["scores"]["scenes"] == 1
    assert len(report["int8"]["scores"]["mean_iou"]) == 2


def test_a_drop_of_miou_leaves_nothing(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "scores_on_scenes", lambda *_: SceneScores(2, (0.62, 0.61)))
    words = ("--calibration-windows", 8, "--max-disagree", 40)
    assert run(folder, *words, "--max-drop", 0.9) == 3
    error = capsys.readouterr().err
    assert "0.6200 in FP32, 0.6100 in INT8 (-1.00 points) on 2 labelled scenes" in error
    assert "allowed are 0.9 points less" in error
    assert sorted(os.listdir(folder)) == ["best.pt", "scenes"]
    assert run(folder, *words, "--max-drop", 1.1) == 0
