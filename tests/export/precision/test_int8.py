"""`mfnet-export --int8` end to end, and the INT8 graph in both engines."""

from __future__ import annotations

import importlib.util
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
from mfnet_export.errors import ExportError
from mfnet_export.precision.calibration import CalibrationSet, channel_peaks
from mfnet_export.precision.int8 import Int8Options, Int8Report, int8_from_onnx
from mfnet_export.precision.qdq import layers_of, quantise, smooth
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]


def some_windows(contract: Contract, start: int, stop: int) -> Windows:
    found = sample_windows(contract, count=stop)
    return Windows(found.image[start:stop], found.dsm[start:stop], f"{stop - start} drawn")


@pytest.fixture(scope="module")
def calibration(made: Made) -> CalibrationSet:
    return CalibrationSet(some_windows(made.contract, 0, 8), some_windows(made.contract, 8, 10))


@pytest.fixture(scope="module")
def made_int8(
    made: Made, calibration: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> Int8Report:
    folder = tmp_path_factory.mktemp("int8")
    options = Int8Options(folder, max_disagree=20)  # random weights: many pixels are undecided
    return int8_from_onnx(made.onnx, folder / "best.int8.onnx", calibration, options, threads=1)


@pytest.fixture(scope="module")
def graph(made_int8: Int8Report) -> onnx.ModelProto:
    return onnx.load(made_int8.output)


def logits(path: Path, windows: Windows, name: str = "onnxruntime") -> npt.NDArray[Any]:
    with backend_from_file(path, name, threads=1) as backend:
        found = backend.infer({"image": windows.image, "dsm": windows.dsm})["logits"]
        return np.array(found)


def test_every_pair_is_symmetric_and_weights_have_a_scale_a_channel(
    graph: onnx.ModelProto, made_int8: Int8Report
) -> None:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    layers = 0
    for node in graph.graph.node:
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
    assert layers == made_int8.layers > 0


def test_the_file_says_what_it_is(graph: onnx.ModelProto, made_int8: Int8Report) -> None:
    (prop,) = graph.metadata_props
    assert prop.key == METADATA_KEY
    contract = Contract.from_json(prop.value)
    assert contract.precision == "int8"
    facts = contract.provenance["int8"]
    assert facts["calibrated"] == "8 drawn"
    assert facts["difference"]["agreement"] == made_int8.difference.agreement
    assert facts["float_layers"] == []
    assert contract.provenance["dataset"] == "town"
    assert str(made_int8.output.parent) not in prop.value


def test_engines_agree_on_it(
    made: Made, made_int8: Int8Report, calibration: CalibrationSet
) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    exact, held = logits(made.onnx, calibration.held), calibration.held
    one, other = (logits(made_int8.output, held, name) for name in ("onnxruntime", "openvino"))
    error = np.abs(one - exact).mean()
    assert 0 < error < 0.05 * np.ptp(exact)
    assert np.abs(one - other).mean() < 0.2 * error


def test_smoothing_changes_nothing_and_evens_out_peaks(
    made: Made, calibration: CalibrationSet, tmp_path: Path
) -> None:
    model = ir.load(made.onnx)
    names = list(dict.fromkeys(layer.source for layer in layers_of(model)))
    peaks = channel_peaks(made.onnx, names, calibration.fit, 1)
    smoothed = smooth(model, peaks)
    ir.save(model, path := tmp_path / "smooth.onnx")
    again = channel_peaks(path, names, calibration.fit, 1)
    changed = [name for name in names if not np.array_equal(peaks[name], smoothed[name])]
    assert changed
    for name in names:
        np.testing.assert_allclose(again[name], smoothed[name], rtol=1e-3, atol=1e-5)
    for name in changed:
        assert np.ptp(np.log(smoothed[name])) < np.ptp(np.log(peaks[name]))
    exact = logits(made.onnx, calibration.held)
    np.testing.assert_allclose(logits(path, calibration.held), exact, atol=2e-5)


def test_layers_kept_are_float(made: Made, calibration: CalibrationSet) -> None:
    model = ir.load(made.onnx)
    layers = layers_of(model)
    sources = [layer.source for layer in layers]
    peaks = channel_peaks(made.onnx, list(dict.fromkeys(sources)), calibration.fit, 1)
    quantise(model, peaks, kept=(0, 2))
    makers = [layer.node.inputs[1].producer() for layer in layers]  # type: ignore[union-attr]
    floats = [index for index, maker in enumerate(makers) if maker is None]
    assert [index for index in floats if index < len(layers)] == [0, 2]


def test_the_same_bytes_twice(
    made: Made, made_int8: Int8Report, calibration: CalibrationSet, tmp_path: Path
) -> None:
    options = Int8Options(tmp_path, max_disagree=20)
    target = tmp_path / "best.int8.onnx"
    again = int8_from_onnx(made.onnx, target, calibration, options, threads=1)
    assert target.read_bytes() == made_int8.output.read_bytes()
    assert again.size == target.stat().st_size < made.onnx.stat().st_size
    assert again.lines()[0].startswith(f"int8      {target}")


def test_too_far_from_fp32_is_refused(
    made: Made, calibration: CalibrationSet, tmp_path: Path
) -> None:
    target = tmp_path / "best.int8.onnx"
    target.write_text("old")
    told: list[str] = []
    with pytest.raises(ExportError, match=r"change their class \(allowed 0 %\), [1-9]") as fault:
        int8_from_onnx(
            made.onnx,
            target,
            calibration,
            Int8Options(tmp_path, max_disagree=0),
            threads=1,
            tell=told.append,
        )
    assert "nothing was written" in str(fault.value)
    assert any("in float" in line for line in told)  # it searched
    assert os.listdir(tmp_path) == ["best.int8.onnx"]
    assert target.read_text() == "old"


@pytest.fixture
def folder(best: Path, cheap: None, tmp_path: Path) -> Path:
    """A checkpoint, 16 windows of labelled scenes, and the FP32 export without its cost."""
    scene = write_scene(tmp_path / "scenes", height=256, width=256, label=True)
    assert scene.label is not None
    write_raster(scene.label, np.arange(256, dtype=np.uint8)[None, :].repeat(256, 0) % 3, **UTM)
    return tmp_path


def run(folder: Path, *words: object) -> int:
    given = ("--ckpt", folder / "best.pt", "--windows", 1, *words)
    return main([str(word) for word in given])


def test_command_end_to_end(folder: Path, capsys: Capture) -> None:
    scenes = folder / "scenes"
    plain = scenes / "plain"  # without labels: then those calibrated on are scored
    shutil.copytree(scenes, plain, ignore=shutil.ignore_patterns("label", "plain"))
    words = ("--int8", "--calibrate", scenes, "--calibration-windows", 8, "--max-disagree", 40)
    assert run(folder, *words, "--scenes", plain, "--max-drop", 50, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(os.listdir(folder)) == ["best.int8.onnx", "best.onnx", "best.pt", "scenes"]
    assert report["int8"]["output"] == str(folder / "best.int8.onnx")
    assert report["int8"]["bytes"] == (folder / "best.int8.onnx").stat().st_size
    assert report["bytes"] == (folder / "best.onnx").stat().st_size
    assert report["int8"]["scores"]["scenes"] == 1
    assert len(report["int8"]["scores"]["mean_iou"]) == 2


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("--int8", 2, "name scenes with --calibrate SCENES"),
        ("--calibrate {}/scenes", 2, "--calibrate goes with --int8"),
        ("--calibration-windows 9", 2, "--calibration-windows goes with --int8"),
        ("--max-drop 1", 2, "--max-drop goes with --fp16 or --int8"),
        ("--int8 --calibrate {}/scenes --max-drop -1", 2, "--max-drop -1: expected 0 to 100"),
        ("--int8 --calibrate {}/scenes --calibration-windows 3", 2, "expected at least 8"),
        ("--int8 --calibrate {}/nowhere", 2, "nowhere: is not a file or folder"),
        ("--int8 --calibrate {}/scenes --max-disagree 0", 3, "INT8 is refused"),
    ],
)
def test_refusals_leave_nothing(
    folder: Path, capsys: Capture, words: str, code: int, part: str
) -> None:
    assert run(folder, *words.format(folder).split()) == code
    captured = capsys.readouterr()
    (error,) = (line for line in captured.err.splitlines() if "error:" in line)
    assert part in error
    assert not captured.out
    assert sorted(os.listdir(folder)) == ["best.pt", "scenes"]


def test_a_drop_of_miou_is_refused(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mfnet_export.precision import int8
    from mfnet_export.precision.accuracy import SceneScores

    scores = SceneScores(2, (0.62, 0.61))
    monkeypatch.setattr(int8, "scores_on_scenes", lambda *_: scores)
    words = ("--int8", "--calibrate", folder / "scenes", "--max-disagree", 40)
    assert run(folder, *words, "--max-drop", 0.9) == 3
    error = capsys.readouterr().err
    assert "0.6200 in FP32, 0.6100 in INT8 (-1.00 points) on 2 labelled scenes" in error
    assert "allowed are 0.9 points less" in error
    assert sorted(os.listdir(folder)) == ["best.pt", "scenes"]
    assert run(folder, *words, "--max-drop", 1.1) == 0


@pytest.mark.usefixtures("above_2_gib")
def test_weights_beside_the_fp32_file_are_not_leant_on(
    made: Made, calibration: CalibrationSet, made_int8: Int8Report, tmp_path: Path
) -> None:
    source, target = tmp_path / "fp32" / "big.onnx", tmp_path / "int8" / "big.int8.onnx"
    for path in (source, target):
        path.parent.mkdir()
    ir.save(ir.load(made.onnx), source, external_data="big.onnx.data")
    options = Int8Options(tmp_path, max_disagree=20)
    int8_from_onnx(source, target, calibration, options, threads=1)
    shutil.rmtree(source.parent)
    held = calibration.held
    np.testing.assert_array_equal(logits(target, held), logits(made_int8.output, held))
