"""Graph passes: static shapes, and opset 18 lowered to 17 with the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx_graphs import make_graph, run_graph

from mfnet_export.files import ExportError
from mfnet_export.graph.passes import allow_half_scales, clean, lower, require_static

CONSTANTS: dict[str, Any] = {
    "last": [-1],
    "plane": [2, 3],
    "sizes": [2, 4],
    "pads": [0, 0, 1, 0, 0, 0, 2, 3],
    "scales": [1.0, 1.0, 2.0, 2.0],
}


def model_of(*nodes: onnx.NodeProto, opset: int = 18) -> ir.Model:
    """Make a graph from x (N, 6, 4, 4) to every value that no node reads."""
    read = {name for node in nodes for name in node.input}
    outputs = [name for node in nodes for name in node.output if name not in read]
    inputs = {"x": ["N", 6, 4, 4]}
    return ir.from_proto(
        make_graph(*nodes, inputs=inputs, outputs=outputs, opset=opset, **CONSTANTS)
    )


def run(model: ir.Model) -> list[Any]:
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 4)).astype(np.float32)
    return run_graph(ir.to_proto(model), x=x)


def test_the_same_bits_come_out() -> None:
    model = model_of(
        helper.make_node("ReduceMean", ["x", "plane"], ["mean"], keepdims=1),
        helper.make_node("ReduceMax", ["x", "last"], ["max"], keepdims=0),
        helper.make_node("ReduceL2", ["x"], ["norm"], noop_with_empty_axes=0),
        helper.make_node("Split", ["x", "sizes"], ["two", "four"], axis=1),
        helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3),
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
        helper.make_node(
            "Resize",
            ["x", "", "scales"],
            ["resized"],
            mode="linear",
            antialias=0,
            keep_aspect_ratio_policy="stretch",
        ),
        helper.make_node("Relu", ["x"], ["kept"]),
    )
    before = run(model)
    lower(model)
    assert model.opset_imports[""] == 17
    assert not {"last", "plane"} & set(model.graph.initializers)  # attributes now
    for found, expected in zip(run(model), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Mish", ["x"], ["y"]), r"Mish \(n\) .* no rule"),
        (helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1), "reduces no axes"),
        (helper.make_node("Split", ["x"], ["a", "b"], axis=0, num_outputs=2), "parts of N"),
        (helper.make_node("Pad", ["x", "pads", "", "last"], ["y"]), "some axes only"),
        (helper.make_node("Resize", ["x", "", "scales"], ["y"], antialias=1), "antialiasing"),
        (helper.make_node("Resize", ["x", "", "scales"], ["y"], axes=[0, 1, 2, 3]), "has axes"),
        (
            helper.make_node(
                "Resize", ["x", "", "scales"], ["y"], keep_aspect_ratio_policy="not_larger"
            ),
            "aspect ratio",
        ),
    ],
)
def test_what_opset_17_lacks_is_refused_by_name(node: onnx.NodeProto, reason: str) -> None:
    node.name = "n"
    with pytest.raises(ExportError, match=reason):
        lower(model_of(node))


def test_computed_axes_are_refused() -> None:
    shape = helper.make_node("Shape", ["x"], ["axes"])
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["y"])
    with pytest.raises(ExportError, match="axes are computed"):
        lower(model_of(shape, mean))


def test_an_older_graph_stays_as_it_is() -> None:
    model = model_of(helper.make_node("ReduceMean", ["x"], ["y"], axes=[1]), opset=17)
    before = ir.to_proto(model)
    lower(model)
    assert ir.to_proto(model) == before


def test_opset_19_gives_the_same_bits_as_the_converter_of_onnx() -> None:
    model = model_of(
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=1),
        helper.make_node("ReduceMax", ["x"], ["max"], axes=[-1], keepdims=0),
        helper.make_node("ReduceL2", ["x"], ["norm"]),
        helper.make_node("Split", ["x", "sizes"], ["two", "four"], axis=1),
        helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1),
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Resize", ["x", "", "scales"], ["resized"], mode="linear"),
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        opset=17,
    )
    before = run(model)
    converted = onnx.version_converter.convert_version(ir.to_proto(model), 19)
    allow_half_scales(model)
    assert (model.opset_imports[""], model.ir_version) == (19, 9)
    results = zip(run(model), run(ir.from_proto(converted)), before, strict=True)
    for found, other, expected in results:
        np.testing.assert_array_equal(found, other)
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # AveragePool has another kernel


def shape_model() -> ir.Model:
    """Make a graph with a Resize to sizes computed from the batch."""
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"], start=0, end=2),
        helper.make_node("Concat", ["shape", "side"], ["sizes"], axis=0),
        helper.make_node("Resize", ["image", "", "", "sizes"], ["y"], mode="linear"),
    ]
    model = make_graph(*nodes, inputs={"image": ["N", 3, 8, 8]}, opset=18, side=[32, 32])
    model.graph.doc_string = "/home/somebody"
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 32, 32])
    )
    return ir.from_proto(model)


def test_shape_arithmetic_is_refused_until_cleaned() -> None:
    model = shape_model()
    with pytest.raises(ExportError, match="may be dynamic, but it has 1 x operator Shape; "):
        require_static(model, "N")
    clean(model)
    require_static(model, "N")
    assert [node.op_type for node in model.graph] == ["Resize"]
    assert model.graph.doc_string is None
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    with pytest.raises(ExportError, match="Resize with size N"):
        require_static(model, "batch")
    model.graph.inputs[0].shape = ir.Shape([2, 3, 8, 8])
    with pytest.raises(ExportError, match="1 x input image with a fixed batch"):
        require_static(model, "N")
