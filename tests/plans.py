"""What tests of plans build from and on: small ONNX files with attention, and a fake GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fakes.fake_pycuda import FakePycuda
from onnx import TensorProto, helper, numpy_helper
from support import RGBD

from mfnet_runtime.contract import METADATA_KEY, Contract

WINDOW = 32  # pixels a side, and the head size of the one attention


def write_attention(
    path: Path, precision: str = "fp16", island: bool = False, beside: bool = False
) -> Path:
    """An ONNX file with a contract: self-attention over the rows of image and DSM, times weights.

    Args:
        path: To write.
        precision: Of inputs, weights and output; also the contract's.
        island: Whether the product with the weights is computed in FP32.
        beside: Whether the weights go into a file of their own.
    """
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    inside = TensorProto.FLOAT if island else kind
    scale = np.full((1, 4, 1, 1), 0.5, helper.tensor_dtype_to_np_dtype(inside))
    nodes = [
        helper.make_node("Concat", ["image", "dsm"], ["x"], "stack", axis=1),
        helper.make_node("MatMul", ["x", "x"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["shares"], "softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "x"], ["mixed"], "mix"),
        helper.make_node("Cast", ["mixed"], ["raised"], "raise", to=inside),
        helper.make_node("Mul", ["raised", "scale"], ["scaled"], "weigh"),
        helper.make_node("Cast", ["scaled"], ["logits"], "lower", to=kind),
    ]
    sizes = {"image": 3, "dsm": 1, "logits": 4}
    image, dsm, logits = (
        helper.make_tensor_value_info(name, kind, ["N", bands, WINDOW, WINDOW])
        for name, bands in sizes.items()
    )
    weights = [numpy_helper.from_array(scale, "scale")]
    graph = helper.make_graph(nodes, "attention", [image, dsm], [logits], weights)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    contract = Contract(WINDOW, RGBD, precision=precision)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    where: dict[str, Any] = {"location": f"{path.name}.data", "size_threshold": 0}
    onnx.save(model, path, save_as_external_data=beside, **(where if beside else {}))
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePycuda]:
    """A machine with a GPU and PyCUDA."""
    fake = FakePycuda(name="NVIDIA Test", compute_capability=(8, 7), driver=12040)
    yield fake.install(monkeypatch)
    fake.check()
    assert not +fake.live


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a driver and PyCUDA, without a GPU."""
    FakePycuda(gpus=0).install(monkeypatch)
