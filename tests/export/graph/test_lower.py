"""Opset 18 to 17: the same bits out of ONNX Runtime, and what cannot be said is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mfnet_export.errors import ExportError
from mfnet_export.graph.lower import lower

INTEGERS = {"last": [-1], "plane": [2, 3], "sizes": [2, 4], "pads": [0, 0, 1, 0, 0, 0, 2, 3]}


def model_of(*nodes: onnx.NodeProto, opset: int = 18) -> ir.Model:
    """x (N, 6, 4, 4) in; every value that no node reads out."""
    read = {name for node in nodes for name in node.input}
    made = [name for node in nodes for name in node.output if name not in read]
    constants = [
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in INTEGERS.items()
    ]
    constants.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made],
        constants,
    )
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    )


def run(model: ir.Model) -> list[Any]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 4)).astype(np.float32)
    return list(session.run(None, {"x": x}))


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
        (helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1), "does nothing"),
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
def test_what_opset_17_cannot_say_is_refused_by_name(node: onnx.NodeProto, reason: str) -> None:
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
