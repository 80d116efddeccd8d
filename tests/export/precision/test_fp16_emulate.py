"""The emulation of FP16: the very bits of every rounding, and near to FP16 as it is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from mfnet_export.precision.fp16_cast import halve
from mfnet_export.precision.fp16_emulate import emulate
from mfnet_export.validation.sample_windows import sample_windows

if TYPE_CHECKING:
    from export.conftest import Made

HALF = np.float16


def session_of(model: ir.Model) -> Any:
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def test_each_result_is_rounded_to_the_bits_of_fp16() -> None:
    """Through fusions and all: ONNX Runtime with its defaults, as the backend runs it."""
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0]),
        helper.make_node("Mul", ["c", "gain"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Sub", ["e", "gain"], ["y"]),
    ]
    gain = np.array(1.3, np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [256, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [256, 256])],
        [numpy_helper.from_array(gain, "gain")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ValueError, match="a has no type"):
        halve(ir.from_proto(proto))
    model = ir.from_proto(infer_shapes(proto))
    halve(model)
    emulate(model)
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {
        ir.DataType.FLOAT
    }
    # Every finite number of FP16, subnormal ones too, and some between two of them.
    bits = np.arange(2**16, dtype=np.uint16).view(HALF).astype(np.float32)
    x = np.where(np.isfinite(bits), bits, 3.14159).reshape(256, 256)
    x[:, ::2] *= np.float32(1 + 2**-12)
    found = session_of(model).run(None, {"x": x})[0]

    def rounded(exact: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):
            return exact.astype(HALF).astype(np.float32)

    given, by = rounded(x), np.float32(HALF(gain))
    b = rounded(rounded(given * by) + given).T
    expected = rounded(np.maximum(rounded(b * by), 0) - by)
    assert np.isinf(expected).any()
    np.testing.assert_array_equal(found, expected)


def test_it_is_near_to_fp16_as_executed(made: Made) -> None:
    """Both are as far from FP32, and from each other: the order of roundings is another."""
    windows = sample_windows(made.contract, count=2)
    halved = ir.load(made.onnx)
    halve(halved)
    executed = session_of(halved)
    emulate(halved)
    emulated, exact = session_of(halved), session_of(ir.load(made.onnx))
    feed = {"image": windows.image, "dsm": windows.dsm}
    expected = exact.run(None, feed)[0]
    one = emulated.run(None, feed)[0]
    other = executed.run(None, {name: array.astype(HALF) for name, array in feed.items()})[0]
    assert (one.dtype, other.dtype) == (np.float32, HALF)
    away, apart = np.abs(one - expected).mean(), np.abs(one - other.astype("f4")).mean()
    assert 0.5 < away / np.abs(other.astype("f4") - expected).mean() < 2
    assert apart < 1.5 * away < 1e-3 * np.ptp(expected)
    assert (one.argmax(1) == expected.argmax(1)).mean() > 0.998


def test_a_sum_kept_in_fp32_is_not_rounded() -> None:
    """2048 + 0.5 is 2048 in FP16, and a LayerNormalization of it finds nothing."""
    nodes = [
        helper.make_node("Mul", ["x", "far"], ["large"]),
        helper.make_node("Mul", ["x", "near"], ["small"]),
        helper.make_node("Add", ["large", "small"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "gain"], ["y"], axis=-1),
    ]
    constants = {"far": [4096] * 4, "near": [1, 0, 1, 0], "gain": [1] * 4}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.array(v, np.float32), name) for name, v in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = {}
    for kept in ("", "sum"):
        model = ir.from_proto(infer_shapes(proto))
        halve(model, [kept])
        emulate(model)
        (y,) = session_of(model).run(None, {"x": np.full((1, 4), 0.5, np.float32)})
        found[kept] = y[0]
    np.testing.assert_array_equal(found[""], 0)
    np.testing.assert_allclose(found["sum"], [1, -1, 1, -1], rtol=1e-3)
