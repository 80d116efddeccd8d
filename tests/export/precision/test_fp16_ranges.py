"""Ranges measured on windows, what they raise to FP32, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from networks import onnx_with_outlier, onnx_with_weights
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from mfnet_export.errors import ExportError
from mfnet_export.precision.fp16_cast import halve
from mfnet_export.precision.fp16_ranges import (
    LIMIT,
    RESIDUAL_LIMIT,
    ranges_of,
    require_fit,
    residual_sums,
)
from mfnet_export.precision.probe import Probe, measured
from mfnet_export.precision.sections import parts_of
from mfnet_export.validation.sample_windows import Windows, sample_windows

if TYPE_CHECKING:
    from export.conftest import Made


@pytest.fixture(scope="module")
def windows(made: Made) -> Windows:
    return sample_windows(made.contract, count=1)


def small_file(path: Path, *nodes: onnx.NodeProto, **constants: npt.ArrayLike) -> Path:
    """image and dsm of 8 px in, logits out."""
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(n, kind, ["N", c, 8, 8])
            for n, c in (("image", 3), ("dsm", 1))
        ],
        [helper.make_tensor_value_info("logits", kind, ["N", 3, "r", "c"])],
        [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(infer_shapes(model), path)
    return path


def small_windows(*peaks: float) -> Windows:
    image = np.zeros((len(peaks), 3, 8, 8), np.float32)
    image[:, 1, 2, 3] = peaks
    return Windows(image, np.ones((len(peaks), 1, 8, 8), np.float32), "drawn")


def test_peaks_are_taken_inside_the_graph(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["image", "four"], ["scaled"]),
        helper.make_node("Add", ["scaled", "dsm"], ["logits"]),
    ]
    path = small_file(tmp_path / "a.onnx", *nodes, four=4.0)
    before = path.read_bytes()
    probes = [Probe("scaled"), Probe("logits"), Probe("logits", sums=(2, 3)), Probe("scaled")]
    found = measured(path, probes, small_windows(0.5, -0.75, 0.25))
    assert {probe: float(peak) for probe, peak in found.items()} == {
        Probe("scaled"): 3.0,
        Probe("logits"): 3.0,
        Probe("logits", sums=(2, 3)): 66.0,  # the window of 0.5: 63 ones and 4 * 0.5 + 1
    }
    assert path.read_bytes() == before


def test_every_part_of_the_network_is_told(made: Made, windows: Windows) -> None:
    ranges = ranges_of(made.onnx, windows)
    assert list(ranges.part_peaks()) == [
        f"{part} {stream}"
        for part, streams in (
            ("embedding", ("DSM", "image")),
            ("block 0", ("image", "DSM")),
            ("block 1", ("image", "DSM")),
            ("neck", ("image", "DSM")),
        )
        for stream in streams
    ] + ["fusion", "decoder"]
    assert all(0 < peak < 100 for peak in ranges.part_peaks().values())
    assert ranges.large == ()
    assert len(ranges.sums) == 2 * (1 + 2 * 2)  # a stream: its position, and two sums a block


def test_parts_follow_names_even_where_a_constant_is_shared(made: Made) -> None:
    """Both patch embeddings share a bias, and both streams their norms."""
    model = ir.load(made.onnx)
    parts = parts_of(model)
    for node in model.graph:
        for value in node.inputs:
            if value is not None and ".blocks.1.norm" in str(value.name):
                assert parts[str(node.outputs[0].name)] in ("block 1 image", "block 1 DSM")
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    assert [parts[str(node.outputs[0].name)] for node in softmaxes] == [
        "block 0 image",
        "block 0 DSM",
        "block 1 image",
        "block 1 DSM",
        *3 * ["decoder"],
    ]
    first, second, *_ = (node for node in model.graph if node.op_type == "Conv")
    found = {
        str(node.inputs[0].name): parts[str(node.outputs[0].name)]  # type: ignore[union-attr]
        for node in (first, second)
    }
    assert found == {"image": "embedding image", "dsm": "embedding DSM"}


def test_large_residual_sums_are_raised(made: Made, windows: Windows, tmp_path: Path) -> None:
    path = onnx_with_outlier(made.onnx, tmp_path / "outlier.onnx", 20_000)
    ranges = ranges_of(path, windows)
    sums = residual_sums(ir.load(path))
    assert ranges.sums == sums
    # Of ten sums, the last before the outlier grows and the last of all are small.
    assert set(ranges.large) == set(sums) - set(sums[:2]) - set(sums[-2:])
    assert all(ranges.peaks[name] > RESIDUAL_LIMIT for name in ranges.large)
    assert ranges.parts_with(ranges.large) == (
        "block 0 image",
        "block 0 DSM",
        "block 1 image",
        "block 1 DSM",
    )
    halve(model := ir.load(path), ranges.large)
    require_fit(model, ranges)
    halve(model := ir.load(path))
    with pytest.raises(ExportError, match=r"block 0 image: Add \w+ reaches 4\d\d\d\d; FP16 ends"):
        require_fit(model, ranges)


def test_a_large_stream_that_leaves_fp32_is_refused(
    made: Made, windows: Windows, tmp_path: Path
) -> None:
    """The neck's convolution reads the stream in FP16."""

    def up(bias: npt.NDArray[np.float32]) -> None:
        bias[0] += 30_000

    path = onnx_with_weights(
        made.onnx, tmp_path / "a.onnx", **{".1.attn.proj.bias": up, ".1.lin2.bias": up}
    )
    ranges = ranges_of(path, windows)
    halve(model := ir.load(path), ranges.large)
    with pytest.raises(ExportError, match=r"block 1 image: Add \w+ reaches 6.* and enters .*Conv"):
        require_fit(model, ranges)


def test_large_scores_are_refused_by_name(made: Made, windows: Windows, tmp_path: Path) -> None:
    model = ir.load(made.onnx)
    scores = next(node for node in model.graph if node.op_type == "Softmax")
    while scores.op_type != "MatMul":
        (scores, *_) = scores.predecessors()
    queries = next(node for node in scores.predecessors())
    while queries.op_type != "MatMul":
        (queries, *_) = queries.predecessors()
    weight = str(queries.inputs[1].name)  # type: ignore[union-attr]

    def grow(array: npt.NDArray[np.float32]) -> None:
        array[:, : 2 * len(array)] *= 200  # queries and keys

    path = onnx_with_weights(made.onnx, tmp_path / "a.onnx", **{weight: grow})
    ranges = ranges_of(path, windows)
    assert ranges.large == ()
    halve(model := ir.load(path), ranges.sums)
    name = scores.outputs[0].name
    with pytest.raises(ExportError, match=rf"block 0 image: MatMul {name} reaches \d+") as raised:
        require_fit(model, ranges)
    assert "enters" not in str(raised.value)


def test_a_mean_of_large_sums_is_fp32(tmp_path: Path) -> None:
    """The mean is 900; the sum of 64 such numbers is beyond FP16."""
    nodes = [
        helper.make_node("Mul", ["image", "high"], ["a"]),
        helper.make_node("ReduceMean", ["a"], ["mean"], axes=[2, 3]),
        helper.make_node("Sigmoid", ["mean"], ["logits"]),
    ]
    windows = Windows(np.ones((1, 3, 8, 8), "f4"), np.ones((1, 1, 8, 8), "f4"), "drawn")
    for high, large in ((900.0, ("mean",)), (400.0, ())):
        path = small_file(tmp_path / "a.onnx", *nodes, high=high)
        ranges = ranges_of(path, windows)
        assert ranges.large == large
        assert ranges.peaks["mean"] == high < LIMIT
        halve(model := ir.load(path), ranges.large)
        require_fit(model, ranges)
        kinds = {node.op_type: node.outputs[0].dtype for node in model.graph}
        assert kinds["ReduceMean"] == (ir.DataType.FLOAT if large else ir.DataType.FLOAT16)


def test_masks_are_not_told_as_peaks(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["image", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["logits"]),
    ]
    path = small_file(tmp_path / "a.onnx", *nodes, mask=[0.0] * 7 + [-16384])
    ranges = ranges_of(path, small_windows(0.5))
    assert ranges.peaks["masked"] == 16384
    assert max(ranges.part_peaks().values()) < 1
