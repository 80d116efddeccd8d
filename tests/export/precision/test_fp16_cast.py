"""An FP32 graph in FP16: which types stand where, above all around attention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from networks import random_network
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mfnet_export.errors import ExportError
from mfnet_export.graph.export import _ir_from_network
from mfnet_export.graph.lower import lower
from mfnet_export.graph.passes import clean
from mfnet_export.precision.fp16_cast import HALF, halve
from mfnet_export.precision.fp16_ranges import residual_sums
from mfnet_export.rewrites.steps import merged_from_network

if TYPE_CHECKING:
    from export.conftest import Made

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def model_of(*nodes: onnx.NodeProto, **constants: npt.ArrayLike) -> ir.Model:
    """x (2, 4, 8, 8) in; y, the last node's output, out. Float constants are FP32."""
    tensors = [
        numpy_helper.from_array(array.astype("f4") if array.dtype.kind == "f" else array, name)
        for name, value in constants.items()
        for array in [np.asarray(value)]
    ]
    shape = [2, 4, 8, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def run(model: ir.Model, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def types_of(model: ir.Model) -> dict[str, str]:
    """Operator and output type of every node, by its output."""
    return {
        str(node.outputs[0].name): f"{node.op_type} {node.outputs[0].dtype}" for node in model.graph
    }


def test_everything_but_integers_and_layer_norms_inside_is_fp16(made: Made) -> None:
    model = ir.load(made.onnx)
    shapes = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.dtype == ir.DataType.INT64
    }
    assert halve(model) == ()
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    graph = proto.graph
    # Resize takes its scales in FP32 only.
    scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}
    assert scales
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), shapes[tensor.name])
        else:
            expected = TensorProto.FLOAT if tensor.name in scales else TensorProto.FLOAT16
            assert tensor.data_type == expected, tensor.name
    constants = {tensor.name for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name not in constants:
            assert value.type.tensor_type.elem_type == TensorProto.FLOAT16, value.name
    assert not {"Cast", "BatchNormalization"} & {node.op_type for node in graph.node}
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            assert {fact.name: fact.i for fact in node.attribute}["stash_type"] == TensorProto.FLOAT
    assert proto.ByteSize() < 0.6 * made.onnx.stat().st_size


class Encoder(nn.Module):
    """A network without fusion and decoder, of one output: quicker to export."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.config = network.encoder, network.config

    def forward(self, image: Tensor, dsm: Tensor) -> Tensor:
        x, y = self.encoder(image, dsm)
        out: Tensor = x + y
        return out


def exported_encoder(tuning: str, *, tables: bool) -> ir.Model:
    """Of 256 px, so that a block has full windows and others; `tables`: relative position."""
    network = random_network(tuning, window=256)
    if not tables:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if ".rel_pos_" in name:
                    parameter.zero_()
    encoder: Any = Encoder(merged_from_network(network))
    model = _ir_from_network(encoder, torch.device("cpu"))
    clean(model)
    lower(model)
    return model


def attentions(model: ir.Model) -> Iterator[list[ir.Node]]:
    """All nodes of each attention: from the norm or the convolution before q, k, v to the product
    with v."""
    for softmax in model.graph:
        if softmax.op_type != "Softmax":
            continue
        (product,) = softmax.successors()
        assert product.op_type == "MatMul"
        found, waiting = [], [product]
        while waiting:
            node = waiting.pop()
            if node in found or node.op_type == "LayerNormalization":
                continue
            found.append(node)
            if node.op_type != "Conv":
                waiting += node.predecessors()
        yield found


def assert_attention_is_fp16(model: ir.Model, count: int) -> None:
    found = list(attentions(model))
    assert len(found) == count
    for nodes in found:
        kinds = [node.op_type for node in nodes]
        assert kinds.count("Softmax") == 1
        assert kinds.count("MatMul") >= 2
        for node in nodes:
            if node.op_type == "Cast":  # of a norm in FP32, before q, k and v
                assert [before.op_type for before in node.predecessors()] == ["LayerNormalization"]
                assert node.outputs[0].dtype == HALF
                continue
            for value in (*node.inputs, *node.outputs):
                assert value is None or value.dtype in (HALF, ir.DataType.INT64), value


@pytest.mark.parametrize(("tuning", "tables"), [("lora", True), ("adapter", False), ("none", True)])
def test_no_fp32_tensor_is_in_any_attention(made: Made, tuning: str, tables: bool) -> None:
    whole = tuning == "lora"  # exported already, with its decoder; windows of 64 px

    def count(blocks: int, groups: int) -> int:
        return 2 * blocks * groups + 3 * whole  # two streams; the decoder has three

    model = ir.load(made.onnx) if whole else exported_encoder(tuning, tables=tables)
    proto = ir.to_proto(model)
    # One block of windows, whose full and other windows are two groups, and one without.
    expected = count(2, 1) if whole else count(1, 2) + count(1, 1)
    for kept in ((), residual_sums(model)):
        halved = ir.from_proto(proto)
        halve(halved, kept)
        assert_attention_is_fp16(halved, expected)
        assert ("Cast" in {node.op_type for node in halved.graph}) == bool(kept)


def test_kept_sums_and_what_reads_them_are_fp32() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["update"]),
        helper.make_node("Add", ["x", "update"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["turned", "gain", "bias"], ["norm"], axis=-1),
        helper.make_node("Sigmoid", ["norm"], ["inside"]),
        helper.make_node("Add", ["turned", "inside"], ["y"]),
    ]
    affine = {"gain": np.ones(4), "bias": np.zeros(4)}
    model = model_of(*nodes, two=2.0, **affine)
    halve(model, ["sum"])
    assert types_of(model) == {
        "x.float": "Cast FLOAT",
        "update": "Mul FLOAT16",
        "update.float": "Cast FLOAT",
        "sum": "Add FLOAT",
        "turned": "Transpose FLOAT",
        "norm": "LayerNormalization FLOAT",
        "norm.float16": "Cast FLOAT16",
        "inside": "Sigmoid FLOAT16",
        "turned.float16": "Cast FLOAT16",
        "y": "Add FLOAT16",
    }
    constants = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert constants["gain"] == ir.DataType.FLOAT
    assert constants["two.half"] == HALF
    x = np.full((2, 4, 8, 8), 3e4, np.float16)  # three times that is beyond FP16
    x[:, 1] += 32
    assert np.isinf(run(model, x)).all()  # y itself is FP16
    model = model_of(
        *nodes[:5], helper.make_node("Mul", ["inside", "two"], ["y"]), two=2.0, **affine
    )
    halve(model, ["sum"])
    spread = np.array([-1, 3, -1, -1]) / np.sqrt(3)
    expected = 2 / (1 + np.exp(-spread))
    np.testing.assert_allclose(run(model, x)[0, 0, 0], expected, rtol=2e-3)


def test_batch_norm_becomes_a_product_and_a_sum() -> None:
    rng = np.random.default_rng(0)
    scale, bias, mean = rng.normal(size=(3, 4))
    scale[0] = 1e-5
    variance = np.array([1e-9, 1.0, 9.0, 2e5])  # FP16 holds neither end
    parts = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
    model = model_of(
        helper.make_node("BatchNormalization", ["x", *parts], ["y"], epsilon=0.0), **parts
    )
    halve(model)
    assert types_of(model) == {"y.product": "Mul FLOAT16", "y": "Add FLOAT16"}
    x = rng.normal(size=(2, 4, 8, 8)).astype(np.float16)
    scale, bias, mean, variance = (part[:, None, None] for part in parts.values())
    expected = (x.astype(float) - mean) / np.sqrt(variance) * scale + bias
    np.testing.assert_allclose(run(model, x), expected, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("value", [65520.0, -1e9, np.inf, np.nan])
def test_a_constant_that_does_not_fit_is_named(value: float) -> None:
    model = model_of(helper.make_node("Mul", ["x", "far"], ["y"]), far=[1.0] * 7 + [value])
    with pytest.raises(
        ExportError, match=r"FP16 is refused: constant far reaches .*; keep to FP32"
    ):
        halve(model)


def test_constants_that_vanish_are_told() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.normal(size=8), rng.normal(size=8) * 1e-6
    mixed = np.concatenate([rng.normal(size=4), np.full(4, 1e-9)])  # nothing that counts is lost
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["a"]),
        helper.make_node("Mul", ["a", "small"], ["b"]),
        helper.make_node("Mul", ["b", "mixed"], ["y"]),
    ]
    assert halve(model_of(*nodes, large=large, small=small, mixed=mixed)) == ("small",)


def test_casts_of_the_graph_follow(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("Cast", ["above"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "ones"], ["y"]),
    ]
    model = model_of(*nodes, zero=0.0)
    halve(model)
    assert types_of(model) == {
        "above": "Greater BOOL",
        "ones": "Cast FLOAT16",
        "y": "Mul FLOAT16",
    }
    x = np.linspace(-1, 1, 512).reshape(2, 4, 8, 8).astype(np.float16)
    np.testing.assert_array_equal(run(model, x), np.maximum(x, 0))
