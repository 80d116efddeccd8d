"""`mfnet-export --int8 --fp16`: an INT8 file whose float parts are FP16."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from networks import onnx_with_outlier
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import make_graph, run_graph
from support import write_scene

from mfnet_export.cli import main
from mfnet_export.files import ExportError
from mfnet_export.graph.passes import allow_half_scales
from mfnet_export.inspect import inspect_file
from mfnet_export.options import ExportOptions
from mfnet_export.precision import fp16
from mfnet_export.precision.accuracy import PrecisionReport
from mfnet_export.precision.calibration import CalibrationSet
from mfnet_export.precision.fp16 import fp16_from_onnx
from mfnet_export.precision.fp16_cast import cast_to_fp16, emulate_fp16
from mfnet_export.precision.int8 import int8_from_onnx
from mfnet_export.precision.qdq import linear_layers, move_biases, quantise
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.files import sha256_from_file

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]
Arrays = dict[str, npt.NDArray[Any]]
# With random weights many pixels are undecided.
LOOSE = ExportOptions(int8=True, calibrate=Path(), fp16=True, max_disagree=20)


@pytest.fixture(scope="module")
def windows(made: Made) -> Windows:
    found = sample_windows(made.contract, count=8)
    return Windows(found.image[:8], found.dsm[:8], "8 drawn")


@pytest.fixture(scope="module")
def quantised(made: Made, windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "best.int8.onnx"
    int8_from_onnx(made.onnx, target, CalibrationSet(windows, windows), LOOSE, threads=1)
    return target


@pytest.fixture(scope="module")
def half(made: Made, windows: Windows, quantised: Path) -> PrecisionReport:
    target = quantised.with_name("best.int8.fp16.onnx")
    return fp16_from_onnx(quantised, target, windows, LOOSE, threads=1, reference=made.onnx)


def constants(path: Path, kind: int) -> Arrays:
    graph = onnx.load(path).graph
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == kind}


def test_the_file_describes_itself(half: PrecisionReport) -> None:
    model = onnx.load(half.output)
    assert ([entry.version for entry in model.opset_import], model.ir_version) == ([19], 9)
    contract = Contract.from_json({e.key: e.value for e in model.metadata_props}[METADATA_KEY])
    assert contract.precision == half.name == "int8+fp16"
    assert contract.provenance["int8"]["calibrated"] == "8 drawn"
    assert contract.provenance["fp16"] == half.facts
    assert contract.provenance["dataset"] == "town"
    graph = inspect_file(half.output)["graph"]
    assert graph["inputs"][0] == "image float16 (N, 3, 64, 64)"
    assert list(graph["activations"]) == ["float16"]
    from_fp32, from_int8 = (half.facts[f"emulated_difference{end}"] for end in ("", "_from_int8"))
    assert 0 < from_int8["mean_abs"] < from_fp32["mean_abs"] < 0.05 * from_fp32["span"]
    assert set(half.facts["peaks"]) >= {"block 0 image", "block 1 DSM", "decoder"}
    assert "block 0" not in half.facts["peaks"]  # weights are no activations


def test_integers_and_scales_are_those_of_the_int8_file(
    quantised: Path, half: PrecisionReport
) -> None:
    before, after = (constants(path, TensorProto.INT8) for path in (quantised, half.output))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    floats, halves = (
        constants(quantised, TensorProto.FLOAT),
        constants(half.output, TensorProto.FLOAT16),
    )
    scales = [name for name in floats if name.endswith(".scale")]
    assert len(scales) > 10
    assert all(np.array_equal(floats[name], halves[f"{name}.half"]) for name in scales)


def test_onnx_runtime_runs_the_file_as_emulated(
    made: Made, half: PrecisionReport, windows: Windows
) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(half.output), options)
    feed = {"image": windows.image[:2], "dsm": windows.dsm[:2]}
    (found,) = session.run(["logits"], {key: a.astype(np.float16) for key, a in feed.items()})
    (exact,) = run_graph(onnx.load(made.onnx), **feed)
    error = np.abs(found.astype(np.float32) - exact).mean()
    assert 0.5 < error / half.facts["emulated_difference"]["mean_abs"] < 2


def test_report_as_text(half: PrecisionReport) -> None:
    first, *rest = half.lines()
    assert first.startswith(f"int8+fp16 {half.output}  ")
    text = "\n".join(rest)
    assert "          in FP32     nothing" in text
    assert "          from INT8   same class  " in text
    assert "of the pixels of 8 windows; logits differ by" in text


@pytest.mark.parametrize(("max_disagree", "max_shift"), [(0, 0.05), (20, 1e-4)])
def test_too_large_a_difference_is_refused(
    made: Made,
    windows: Windows,
    quantised: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_disagree: float,
    max_shift: float,
) -> None:
    monkeypatch.setattr(fp16, "MAX_SHIFT", max_shift)
    strict = ExportOptions(int8=True, calibrate=Path(), fp16=True, max_disagree=max_disagree)
    target = tmp_path / "best.int8.fp16.onnx"
    target.write_text("old")
    with pytest.raises(ExportError, match=r"INT8\+FP16 is refused: same class .*--max-disagree"):
        fp16_from_onnx(quantised, target, windows, strict, threads=1, reference=made.onnx)
    assert os.listdir(tmp_path) == [target.name]
    assert target.read_text() == "old"


def test_a_large_stream_is_kept_in_fp32(made: Made, windows: Windows, tmp_path: Path) -> None:
    source = onnx_with_outlier(made.onnx, tmp_path / "outlier.onnx", 20_000)
    quantised = tmp_path / "a.int8.onnx"
    int8_from_onnx(source, quantised, CalibrationSet(windows, windows), LOOSE, threads=1)
    target = tmp_path / "a.int8.fp16.onnx"
    report = fp16_from_onnx(quantised, target, windows, LOOSE, threads=1, reference=source)
    assert set(report.facts["float_parts"]) >= {"block 0 image", "block 1 DSM"}
    activations = inspect_file(target)["graph"]["activations"]
    assert activations["float16"] > activations["float32"] > 0


def test_biases_move_behind_the_cut_into_q_k_and_v(quantised: Path, windows: Windows) -> None:
    model = ir.load(quantised)
    feed = {"image": windows.image[:1], "dsm": windows.dsm[:1]}
    (before,) = run_graph(ir.to_proto(model), **feed)
    adds = sum(node.op_type == "Add" for node in model.graph)
    move_biases(model)
    moved = [
        node
        for node in model.graph
        if node.op_type == "Add" and str(node.inputs[1].name).endswith("qkv.bias.parts")  # type: ignore[union-attr]
    ]
    assert len(moved) == 4  # two streams of two blocks
    for node in moved:
        (reshape,) = node.predecessors()
        assert [each.op_type for each in reshape.predecessors()] == ["MatMul"]
    assert sum(node.op_type == "Add" for node in model.graph) == adds
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_array_equal(run_graph(ir.to_proto(model), **feed)[0], before)


@pytest.mark.parametrize("size", [0, 1e-9, 3e-7, 2e-6, 1e-5, 1e-3, 1.0, 1e3])
def test_scales_of_any_weight_are_numbers_of_fp16(size: float) -> None:
    """Down to 2^-24, FP16's smallest number; no weight is clipped or far off."""
    rng = np.random.default_rng(0)
    weight = (size * rng.uniform(-1, 1, (64, 32))).astype(np.float32)
    multiply = helper.make_node("MatMul", ["x", "weight"], ["y"])
    model = ir.from_proto(make_graph(multiply, inputs={"x": ["N", 64]}, weight=weight))
    if not size:
        assert not linear_layers(model)  # nothing to multiply
        return
    quantise(model, {"x": np.full(64, size, np.float32)})
    allow_half_scales(model)
    cast_to_fp16(model)
    found = {
        name.removesuffix(".half"): value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    scale = found["weight.scale"].astype(np.float64)
    assert found["weight.scale"].dtype == found["x.scale"].dtype == np.float16
    assert (scale >= 2.0**-24).all()
    assert np.abs(found["weight.int8"]).max() <= 127
    assert (np.abs(found["weight.int8"] * scale - weight) <= scale / 2 * 1.001).all()
    exact = np.abs(weight).max(0) / 127
    assert (scale <= np.maximum(exact * (1 + 2**-10), exact + 2.0**-24)).all()
    assert float(found["x.scale"]) * 127 >= np.float32(size)


def test_a_scale_beyond_fp16_is_named() -> None:
    multiply = helper.make_node("MatMul", ["x", "weight"], ["y"])
    weight = np.random.default_rng(0).normal(size=(64, 32))
    model = ir.from_proto(make_graph(multiply, inputs={"x": ["N", 64]}, weight=weight))
    quantise(model, {"x": np.full(64, 1e8, np.float32)})
    allow_half_scales(model)
    with pytest.raises(ExportError, match=r"FP16 is refused: constant x.scale reaches 787402"):
        cast_to_fp16(model)


def test_emulation_rounds_products_of_integers_once() -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(64, 32)), rng.uniform(-1, 1, (128, 64)).astype(np.float16)
    multiply = helper.make_node("MatMul", ["x", "weight"], ["y"])
    model = ir.from_proto(make_graph(multiply, inputs={"x": ["N", 64]}, weight=weight))
    quantise(model, {"x": np.ones(64, np.float32)})
    allow_half_scales(model)
    cast_to_fp16(model)
    integers, scale, step = (
        model.graph.initializers[name].const_value.numpy().astype(np.float64)  # type: ignore[union-attr]
        for name in ("weight.int8", "weight.scale.half", "x.scale.half")
    )
    expected = np.rint(x / step).astype(np.float64) @ integers * scale * step
    emulate_fp16(model)
    (found,) = run_graph(ir.to_proto(model), x=x.astype(np.float32))
    assert (found == expected.astype(np.float16)).mean() > 0.999


@pytest.mark.usefixtures("cheap")
def test_command_leaves_a_plan_of_each_file_for_gpus(
    best: Path, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    write_scene(tmp_path / "scenes", height=256, width=256)
    words = ("--ckpt", best, "--int8", "--fp16", "--calibrate", tmp_path / "scenes")
    limits = ("--calibration-windows", 8, "--max-disagree", 40, "--windows", 1, "--json")
    assert main([str(word) for word in (*words, *limits)]) == 0
    report = json.loads(capsys.readouterr().out)
    for name in ("fp16", "int8", "int8+fp16"):
        path = tmp_path / f"best.{name.replace('+', '.')}.onnx"
        assert report[name]["output"] == str(path)
        assert report[name]["bytes"] == path.stat().st_size
    assert report["int8+fp16"]["windows"].endswith("windows of scenes")
    plans = report["plans"]
    assert [plan["contract"]["precision"] for plan in plans] == ["fp16", "int8+fp16"]
    for plan in plans:
        source = Path(plan["output"]).with_suffix(".onnx")
        assert plan["onnx_sha256"] == sha256_from_file(source)
    assert len(os.listdir(tmp_path)) == 10  # checkpoint, scenes, four ONNX files, plans and facts
