"""Products of matrices in several libraries and precisions, as a child process runs them.

The right-hand side is constant, as a network's weights are. INT8 counts its integer
operations as FLOP; the engines quantise the left-hand side in it, PyTorch multiplies alone.
Knows no networks but the shapes it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

LIBRARIES = ("numpy", "torch", "onnxruntime", "openvino")
WARM_UP = 2  # products before the first that counts: weights are packed, threads started
SEED = 0

Shape = tuple[int, int, int]  # m, k, n of (m, k) @ (k, n)
Floats = npt.NDArray[np.float32]
Product = Callable[[], Any]


class GemmEngine:
    """Products of one library in one precision; a child process answers requests with it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        library, threads = spec["backend"], int(spec["threads"])
        self._products = {
            f"{m}x{k}x{n}": (
                2e-9 * m * k * n,
                _product((m, k, n), library, spec["precision"], threads),
            )
            for m, k, n in spec["shapes"]
        }
        for _, product in self._products.values():
            for _ in range(WARM_UP):
                product()
        self.facts = {"shapes": list(self._products)}

    def measure(self, shape: str, calls: int) -> dict[str, float]:
        """GFLOP/s of the median of several products."""
        gflop, product = self._products[shape]
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            product()
            times.append(time.perf_counter() - start)
        return {"gflop_per_s": gflop / float(np.median(times))}


def _product(shape: Shape, library: str, precision: str, threads: int) -> Product:
    m, k, n = shape
    rng = np.random.default_rng(SEED)
    left = rng.standard_normal((m, k), np.float32)
    right = rng.standard_normal((k, n), np.float32)
    return PRODUCTS[library, precision](left, right, threads)


def _numpy(left: Floats, right: Floats, threads: int) -> Product:
    return lambda: left @ right  # its threads are set by the environment


def _torch(left: Floats, right: Floats, threads: int, kind: str = "float32") -> Product:
    import torch

    torch.set_num_threads(threads)
    dtype = getattr(torch, kind)
    a, b = (torch.from_numpy(array).to(dtype) for array in (left, right))
    return lambda: torch.mm(a, b)


def _torch_int8(left: Floats, right: Floats, threads: int) -> Product:
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.from_numpy(np.round(array * 40).astype(np.int8)) for array in (left, right))
    return lambda: torch._int_mm(a, b)


def _onnxruntime(left: Floats, right: Floats, threads: int, int8: bool = False) -> Product:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    model = _onnx_int8(left, right) if int8 else _onnx_fp32(left, right)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": left})


def _openvino(
    left: Floats, right: Floats, threads: int, hint: str = "f32", int8: bool = False
) -> Product:
    import openvino

    core = openvino.Core()
    model = core.read_model(_onnx_int8(left, right) if int8 else _onnx_fp32(left, right))
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(left, shared_memory=True))
    return request.infer  # type: ignore[no-any-return]


PRODUCTS: dict[tuple[str, str], Callable[[Floats, Floats, int], Product]] = {
    ("numpy", "fp32"): _numpy,
    ("torch", "fp32"): _torch,
    ("torch", "int8"): _torch_int8,
    ("torch", "bf16"): lambda a, b, threads: _torch(a, b, threads, "bfloat16"),
    ("onnxruntime", "fp32"): _onnxruntime,
    ("onnxruntime", "int8"): lambda a, b, threads: _onnxruntime(a, b, threads, int8=True),
    ("openvino", "fp32"): _openvino,
    ("openvino", "bf16"): lambda a, b, threads: _openvino(a, b, threads, "bf16"),
    ("openvino", "int8"): lambda a, b, threads: _openvino(a, b, threads, int8=True),
}


def _onnx_fp32(left: Floats, right: Floats) -> bytes:
    from onnx import helper, numpy_helper

    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _onnx_bytes(nodes, [numpy_helper.from_array(right, "w")], left, right)


def _onnx_int8(left: Floats, right: Floats) -> bytes:
    """Explicit Q/DQ: the left side quantised as it comes, the right side stored in INT8."""
    from onnx import helper, numpy_helper

    step = np.float32(np.abs(right).max() / 127)
    constants = {
        "s": np.float32(np.abs(left).max() / 127),
        "z": np.uint8(128),
        "w": np.round(right / step).astype(np.int8),
        "ws": step,
        "wz": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    return _onnx_bytes(nodes, initializers, left, right)


def _onnx_bytes(nodes: Any, initializers: Any, left: Floats, right: Floats) -> bytes:
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, left.shape)]
    shape = (left.shape[0], right.shape[1])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "gemm", inputs, outputs, initializers)
    opset = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return model
