"""Small ONNX graphs for the tests of the exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def make_graph(
    *nodes: onnx.NodeProto,
    inputs: Mapping[str, Sequence[Any]],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    **constants: Any,
) -> onnx.ModelProto:
    """Make a model with inferred shapes; inputs and constant floats are FP32."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(array.astype("f4") if array.dtype.kind == "f" else array, name)
            for name, array in arrays.items()
        ],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def run_graph(model: onnx.ModelProto, **feed: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Check a model and run it in ONNX Runtime with its defaults, as the backend does."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feed))
