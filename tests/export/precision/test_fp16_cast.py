"""Conversion to FP16: number types, above all in attention; and emulation to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from networks import random_network
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import make_graph, run_graph
from torch import Tensor, nn

from mfnet_export.files import ExportError
from mfnet_export.graph.export import _trace
from mfnet_export.graph.passes import clean, lower
from mfnet_export.precision.fp16_cast import FLOAT, HALF, cast_to_fp16, emulate_fp16
from mfnet_export.precision.fp16_ranges import residual_sums
from mfnet_export.rewrites.steps import merge
from mfnet_export.validation.sample_windows import sample_windows

if TYPE_CHECKING:
    from export.conftest import Made


def model_of(*nodes: onnx.NodeProto, **constants: Any) -> ir.Model:
    """Make a graph from x (2, 4, 8, 8) to y."""
    return ir.from_proto(make_graph(*nodes, inputs={"x": [2, 4, 8, 8]}, **constants))


def run(model: ir.Model, **feed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return run_graph(ir.to_proto(model), **feed)[0]


def types_of(model: ir.Model) -> dict[str, str]:
    """Return operator and output type of every node, by its output."""
    return {
        str(node.outputs[0].name): f"{node.op_type} {node.outputs[0].dtype}" for node in model.graph
    }


def test_a_network_is_fp16_but_for_integers_scales_and_norms(made: Made) -> None:
    model = ir.load(made.onnx)
    shapes = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.dtype == ir.DataType.INT64
    }
    assert cast_to_fp16(model) == ()
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
    """A network without fusion and decoder, which is quicker to export."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.config = network.encoder, network.config

    def forward(self, image: Tensor, dsm: Tensor) -> Tensor:
        x, y = self.encoder(image, dsm)
        out: Tensor = x + y
        return out


def exported_encoder(tuning: str, *, tables: bool) -> ir.Model:
    """Export an encoder of 256 px, whose windowed block has full and partial windows."""
    network = random_network(tuning, window=256)
    if not tables:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if ".rel_pos_" in name:
                    parameter.zero_()
    encoder: Any = Encoder(merge(network).network)
    model = _trace(encoder, torch.device("cpu"))
    clean(model)
    lower(model)
    return model


def attentions(model: ir.Model) -> Iterator[list[ir.Node]]:
    """Yield the nodes of each attention, from the norm or convolution before q, k, v to the product
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


@pytest.mark.parametrize(
    ("tuning", "tables"),
    [
        ("lora", True),
        ("adapter", False),
        pytest.param("none", True, marks=pytest.mark.slow),
    ],
)
def test_attention_has_no_fp32_tensor(made: Made, tuning: str, tables: bool) -> None:
    whole = tuning == "lora"  # exported already, with its decoder; windows of 64 px
    model = ir.load(made.onnx) if whole else exported_encoder(tuning, tables=tables)
    proto = ir.to_proto(model)
    # Two streams of two blocks, and three attentions of the decoder; in the encoder of 256 px
    # the windowed block has two groups of windows.
    expected = 2 * 2 + 3 if whole else 2 * 3
    for kept in ((), residual_sums(model)):
        half = ir.from_proto(proto)
        cast_to_fp16(half, kept)
        found = list(attentions(half))
        assert len(found) == expected
        for node in (node for nodes in found for node in nodes):
            if node.op_type == "Cast":  # after a norm in FP32, before q, k and v
                assert [before.op_type for before in node.predecessors()] == ["LayerNormalization"]
                assert node.outputs[0].dtype == HALF
                continue
            for value in (*node.inputs, *node.outputs):
                assert value is None or value.dtype in (HALF, ir.DataType.INT64), value
        assert ("Cast" in {node.op_type for node in half.graph}) == bool(kept)


def test_kept_sums_and_their_norms_are_fp32() -> None:
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
    cast_to_fp16(model, ["sum"])
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
    assert (constants["gain"], constants["two.half"]) == (FLOAT, HALF)
    x = np.full((2, 4, 8, 8), 3e4, np.float16)  # three times that is beyond FP16
    x[:, 1] += 32
    assert np.isinf(run(model, x=x)).all()  # y itself is FP16
    last = helper.make_node("Mul", ["inside", "two"], ["y"])
    model = model_of(*nodes[:5], last, two=2.0, **affine)
    cast_to_fp16(model, ["sum"])
    spread = np.array([-1, 3, -1, -1]) / np.sqrt(3)
    np.testing.assert_allclose(run(model, x=x)[0, 0, 0], 2 / (1 + np.exp(-spread)), rtol=2e-3)


def test_batch_norm_becomes_a_product_and_a_sum() -> None:
    rng = np.random.default_rng(0)
    scale, bias, mean = rng.normal(size=(3, 4))
    scale[0] = 1e-5
    variance = np.array([1e-9, 1.0, 9.0, 2e5])  # FP16 holds neither end
    parts = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
    model = model_of(
        helper.make_node("BatchNormalization", ["x", *parts], ["y"], epsilon=0.0), **parts
    )
    cast_to_fp16(model)
    assert types_of(model) == {"y.product": "Mul FLOAT16", "y": "Add FLOAT16"}
    x = rng.normal(size=(2, 4, 8, 8)).astype(np.float16)
    scale, bias, mean, variance = (part[:, None, None] for part in parts.values())
    expected = (x.astype(float) - mean) / np.sqrt(variance) * scale + bias
    np.testing.assert_allclose(run(model, x=x), expected, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("value", [65520.0, -1e9, np.inf, np.nan])
def test_a_constant_that_does_not_fit_is_named(value: float) -> None:
    model = model_of(helper.make_node("Mul", ["x", "far"], ["y"]), far=[1.0] * 7 + [value])
    with pytest.raises(
        ExportError, match=r"FP16 is refused: constant far reaches .*; use the FP32 file"
    ):
        cast_to_fp16(model)


def test_lossy_weights_are_named() -> None:
    rng = np.random.default_rng(0)
    large, small = rng.normal(size=8), rng.normal(size=8) * 1e-6
    mixed = np.concatenate([rng.normal(size=4), np.full(4, 1e-9)])  # loses nothing that counts
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["a"]),
        helper.make_node("Mul", ["a", "small"], ["b"]),
        helper.make_node("Mul", ["b", "mixed"], ["y"]),
    ]
    model = model_of(*nodes, large=large, small=small, mixed=mixed)
    assert cast_to_fp16(model) == ("small",)


def test_casts_in_the_graph_become_fp16() -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("Cast", ["above"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "ones"], ["y"]),
    ]
    model = model_of(*nodes, zero=0.0)
    cast_to_fp16(model)
    assert types_of(model) == {
        "above": "Greater BOOL",
        "ones": "Cast FLOAT16",
        "y": "Mul FLOAT16",
    }
    x = np.linspace(-1, 1, 512).reshape(2, 4, 8, 8).astype(np.float16)
    np.testing.assert_array_equal(run(model, x=x), np.maximum(x, 0))


def rounded(exact: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return exact.astype(np.float16).astype(np.float32)


def test_emulation_rounds_each_result_to_the_bits_of_fp16() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0]),
        helper.make_node("Mul", ["c", "gain"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Sub", ["e", "gain"], ["y"]),
    ]
    model = ir.from_proto(make_graph(*nodes, inputs={"x": [256, 256]}, gain=1.3))
    cast_to_fp16(model)
    emulate_fp16(model)
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {FLOAT}
    # Every finite number of FP16, including subnormal ones, and some numbers between them.
    bits = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    x = np.where(np.isfinite(bits), bits, 3.14159).reshape(256, 256)
    x[:, ::2] *= np.float32(1 + 2**-12)
    given, gain = rounded(x), np.float32(np.float16(1.3))
    b = rounded(rounded(given * gain) + given).T
    expected = rounded(np.maximum(rounded(b * gain), 0) - gain)
    assert np.isinf(expected).any()
    np.testing.assert_array_equal(run(model, x=x), expected)


def test_emulation_is_as_close_to_fp32_as_real_fp16(made: Made) -> None:
    """They differ from each other too, because they round in another order."""
    windows = sample_windows(made.contract, count=2)
    feed = {"image": windows.image, "dsm": windows.dsm}
    expected = run(ir.load(made.onnx), **feed)
    model = ir.load(made.onnx)
    cast_to_fp16(model)
    real = run(model, **{name: array.astype(np.float16) for name, array in feed.items()})
    emulate_fp16(model)
    emulated = run(model, **feed)
    assert emulated.dtype == np.float32
    assert real.dtype == np.float16
    error, apart = np.abs(emulated - expected).mean(), np.abs(emulated - real.astype("f4")).mean()
    assert 0.5 < error / np.abs(real.astype("f4") - expected).mean() < 2
    assert apart < 1.5 * error < 1e-3 * np.ptp(expected)
    assert (emulated.argmax(1) == expected.argmax(1)).mean() > 0.998


def test_emulation_does_not_round_fp32_sums() -> None:
    """2048 + 0.5 is 2048 in FP16, and a LayerNormalization of that is zero."""
    nodes = [
        helper.make_node("Mul", ["x", "far"], ["large"]),
        helper.make_node("Mul", ["x", "near"], ["small"]),
        helper.make_node("Add", ["large", "small"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "gain"], ["y"], axis=-1),
    ]
    constants: dict[str, Any] = {"far": [4096.0] * 4, "near": [1.0, 0, 1, 0], "gain": [1.0] * 4}
    for kept, expected in (("", [0, 0, 0, 0]), ("sum", [1, -1, 1, -1])):
        model = ir.from_proto(make_graph(*nodes, inputs={"x": [1, 4]}, **constants))
        cast_to_fp16(model, [kept])
        emulate_fp16(model)
        found = run(model, x=np.full((1, 4), 0.5, np.float32))
        np.testing.assert_allclose(found[0], expected, rtol=1e-3)


def test_a_graph_without_types_is_a_bug() -> None:
    model = model_of(helper.make_node("Relu", ["x"], ["y"]))
    model.graph.outputs[0].type = None
    with pytest.raises(ValueError, match="y has no type"):
        cast_to_fp16(model)
