"""Activation ranges: what is kept in FP32, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from networks import onnx_with_outlier, onnx_with_weights
from onnx import helper
from onnx_graphs import make_graph

from mfnet_export.files import ExportError
from mfnet_export.precision.fp16_cast import cast_to_fp16
from mfnet_export.precision.fp16_ranges import (
    LIMIT,
    RESIDUAL_LIMIT,
    measure_ranges,
    require_fit,
    residual_sums,
    section_names,
)
from mfnet_export.validation.sample_windows import Windows, sample_windows

if TYPE_CHECKING:
    from export.conftest import Made


@pytest.fixture(scope="module")
def windows(made: Made) -> Windows:
    return sample_windows(made.contract, count=1)


def small_file(path: Path, *nodes: onnx.NodeProto, **constants: Any) -> Path:
    """Write a graph from image and dsm of 8 px to logits."""
    inputs = {"image": ["N", 3, 8, 8], "dsm": ["N", 1, 8, 8]}
    onnx.save(make_graph(*nodes, inputs=inputs, outputs=["logits"], **constants), path)
    return path


def small_windows(value: float) -> Windows:
    return Windows(np.full((1, 3, 8, 8), value, "f4"), np.ones((1, 1, 8, 8), "f4"), "drawn")


def test_every_section_of_the_network_has_a_peak(made: Made, windows: Windows) -> None:
    ranges = measure_ranges(made.onnx, windows)
    assert list(ranges.section_peaks()) == [
        f"{part} {stream}"
        for part, streams in (
            ("embedding", ("DSM", "image")),
            ("block 0", ("image", "DSM")),
            ("block 1", ("image", "DSM")),
            ("neck", ("image", "DSM")),
        )
        for stream in streams
    ] + ["fusion", "decoder"]
    assert all(0 < peak < 100 for peak in ranges.section_peaks().values())
    assert ranges.large == ()
    assert len(ranges.sums) == 2 * (1 + 2 * 2)  # a stream: its position, and two sums a block


def test_sections_follow_names_even_if_a_constant_is_shared(made: Made) -> None:
    """Both patch embeddings share a bias, and both streams their norms."""
    model = ir.load(made.onnx)
    sections = section_names(model)
    for node in model.graph:
        for value in node.inputs:
            if value is not None and ".blocks.1.norm" in str(value.name):
                assert sections[str(node.outputs[0].name)] in ("block 1 image", "block 1 DSM")
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    assert [sections[str(node.outputs[0].name)] for node in softmaxes] == [
        "block 0 image",
        "block 0 DSM",
        "block 1 image",
        "block 1 DSM",
        *3 * ["decoder"],
    ]
    first, second, *_ = (node for node in model.graph if node.op_type == "Conv")
    found = {
        str(node.inputs[0].name): sections[str(node.outputs[0].name)]  # type: ignore[union-attr]
        for node in (first, second)
    }
    assert found == {"image": "embedding image", "dsm": "embedding DSM"}


def test_large_residual_sums_are_kept_in_fp32(made: Made, windows: Windows, tmp_path: Path) -> None:
    path = onnx_with_outlier(made.onnx, tmp_path / "outlier.onnx", 20_000)
    ranges = measure_ranges(path, windows)
    sums = residual_sums(ir.load(path))
    assert ranges.sums == sums
    # The first sums, before the outlier, and the last ones are small.
    assert set(ranges.large) == set(sums) - set(sums[:2]) - set(sums[-2:])
    assert all(ranges.peaks[name] > RESIDUAL_LIMIT for name in ranges.large)
    assert ranges.sections_with(ranges.large) == (
        "block 0 image",
        "block 0 DSM",
        "block 1 image",
        "block 1 DSM",
    )
    cast_to_fp16(model := ir.load(path), ranges.large)
    require_fit(model, ranges)
    cast_to_fp16(model := ir.load(path))
    with pytest.raises(
        ExportError, match=r"block 0 image: Add \w+ reaches 4\d\d\d\d; the limit of FP16"
    ):
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
    ranges = measure_ranges(path, windows)
    cast_to_fp16(model := ir.load(path), ranges.large)
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
    ranges = measure_ranges(path, windows)
    assert ranges.large == ()
    cast_to_fp16(model := ir.load(path), ranges.sums)
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
    windows = small_windows(1)
    for high, large in ((900.0, ("mean",)), (400.0, ())):
        path = small_file(tmp_path / "a.onnx", *nodes, high=high)
        ranges = measure_ranges(path, windows)
        assert ranges.large == large
        assert ranges.peaks["mean"] == high < LIMIT
        cast_to_fp16(model := ir.load(path), ranges.large)
        require_fit(model, ranges)
        kinds = {node.op_type: node.outputs[0].dtype for node in model.graph}
        assert kinds["ReduceMean"] == (ir.DataType.FLOAT if large else ir.DataType.FLOAT16)


def test_masks_are_not_reported_as_peaks(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["image", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["logits"]),
    ]
    path = small_file(tmp_path / "a.onnx", *nodes, mask=[0.0] * 7 + [-16384])
    ranges = measure_ranges(path, small_windows(0))
    assert ranges.peaks["masked"] == 16384
    assert max(ranges.section_peaks().values()) < 1
