"""The ceiling of a precision: the fastest matrix product that this machine does in it.

Every library multiplies the network's own shapes and a large square, with a constant right-hand
side, as a network's weights are. Each library's fastest shape takes part in the rounds of the
engines, and the best library is the ceiling. In INT8, integer operations count as FLOP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_bench.latency.engines import EngineProcess, EngineRefusedError
from mfnet_bench.latency.rounds import DroppedError, Samples, Turn
from mfnet_runtime.backends.openvino_cpu import openvino_core

SQUARE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the one shape that is no network's
WARM_UP = 2  # products before the first that counts: weights are packed, threads started
CALLS = 5  # in a turn
SEED = 0

Shape = tuple[int, int, int]  # m, k, n of (m, k) @ (k, n)
Floats = npt.NDArray[np.float32]
Multiply = Callable[[], Any]
Product = tuple[str, str, str]  # precision, library, shape


@dataclass(frozen=True)
class Ceiling:
    """The fastest product of a precision."""

    name: str
    gflop_per_s: float  # the median over rounds


def gemm_shapes(
    embed_dim: int, tokens: int, batches: tuple[int, ...], device: str = "cpu"
) -> tuple[Shape, ...]:
    """Return both layers of the MLP at the smallest and the largest batch, and a square.

    Args:
        embed_dim: Channels of the encoder.
        tokens: Of one window and one stream; both streams are multiplied at once.
        batches: Windows per call.
        device: cpu or cuda.
    """
    rows = sorted({2 * tokens * batch for batch in (min(batches), max(batches))})
    layers = [
        (m, *kn) for m in rows for kn in ((embed_dim, 4 * embed_dim), (4 * embed_dim, embed_dim))
    ]
    side = SQUARE[device]
    return (*layers, (side, side, side))


def product_turns(
    precisions: Sequence[str],
    shapes: Sequence[Shape],
    threads: int,
    stack: ExitStack,
    device: str = "cpu",
) -> dict[Product, Turn]:
    """Return turns of each library's fastest product in each precision, as GFLOP/s.

    Args:
        precisions: fp32, bf16, fp16 or int8; what a library cannot multiply in is left out.
        shapes: To try.
        threads: For each library.
        stack: Ends the processes.
        device: cpu or cuda.
    """
    turns: dict[Product, Turn] = {}
    for library, precision in products_on(device):
        if precision not in precisions:
            continue
        spec = {
            "kind": "gemm",
            "backend": library,
            "precision": precision,
            "shapes": shapes,
            "threads": threads,
            "device": device,
        }
        try:
            process = stack.enter_context(EngineProcess(spec))
        except EngineRefusedError:
            continue
        turns[precision, library, process.facts["shape"]] = _turn(process)
    return turns


def ceilings_from(products: Mapping[Product, Samples]) -> dict[str, Ceiling]:
    """Return the product of the highest median by precision."""
    best: dict[str, Ceiling] = {}
    for (precision, library, shape), samples in products.items():
        if samples:
            rate = median(map(fmean, samples.values()))
            if precision not in best or rate > best[precision].gflop_per_s:
                best[precision] = Ceiling(f"{library} {shape}", rate)
    return best


def _turn(process: EngineProcess) -> Turn:
    def turn() -> Sequence[float]:
        try:
            return [process.ask("measure", calls=CALLS)["gflop_per_s"]]
        except EngineRefusedError as fault:
            raise DroppedError from fault

    return turn


class GemmEngine:
    """A library's fastest product in a precision, in a child process that answers requests."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._time = _wall_ms
        if spec["device"] == "cuda":
            from mfnet_bench.latency.baseline import cuda_ms

            self._time = cuda_ms
        multiply = products_on(spec["device"])[spec["backend"], spec["precision"]]
        rng = np.random.default_rng(SEED)
        best = 0.0
        for m, k, n in spec["shapes"]:
            left, right = (rng.standard_normal(size, np.float32) for size in ((m, k), (k, n)))
            product, gflop = multiply(left, right, int(spec["threads"])), 2e-9 * m * k * n
            self._time(product, WARM_UP)
            rate = gflop / min(self._time(product, CALLS))
            if rate > best:
                best, self._product, self._gflop = rate, product, gflop
                self.facts = {"shape": f"{m}x{k}x{n}"}

    def measure(self, calls: int) -> dict[str, float]:
        """Return GFLOP/s of the median of several products."""
        return {"gflop_per_s": 1000 * self._gflop / median(self._time(self._product, calls))}


def _wall_ms(call: Callable[[], Any], calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return times


def products_on(device: str) -> dict[tuple[str, str], Callable[[Floats, Floats, int], Multiply]]:
    """Return what multiplies on a device, by library and precision."""
    if device == "cuda":
        return {
            ("torch", "fp32"): partial(_torch, device=device),
            ("torch", "fp16"): partial(_torch, device=device, dtype="float16"),
        }
    return {
        ("torch", "fp32"): _torch,
        ("torch", "bf16"): partial(_torch, dtype="bfloat16"),
        ("torch", "int8"): partial(_torch, dtype="int8"),
        ("onnxruntime", "fp32"): _onnxruntime,
        ("openvino", "fp32"): partial(_openvino, hint="f32"),
        ("openvino", "bf16"): partial(_openvino, hint="bf16"),
    }


def _torch(
    left: Floats, right: Floats, threads: int, device: str = "cpu", dtype: str = "float32"
) -> Multiply:
    import torch

    torch.set_num_threads(threads)
    scale, multiply = (40, torch._int_mm) if dtype == "int8" else (1, torch.mm)
    a, b = (
        torch.from_numpy(array * scale).to(device, getattr(torch, dtype)) for array in (left, right)
    )
    return lambda: multiply(a, b)


def _onnxruntime(left: Floats, right: Floats, threads: int) -> Multiply:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        _onnx_product(left, right), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": left})


def _openvino(left: Floats, right: Floats, threads: int, hint: str) -> Multiply:
    core = openvino_core()
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.read_model(_onnx_product(left, right))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(left, shared_memory=True))
    return request.infer  # type: ignore[no-any-return]


def _onnx_product(left: Floats, right: Floats) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, left.shape)]
    shape = (left.shape[0], right.shape[1])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "gemm", inputs, outputs, [numpy_helper.from_array(right, "w")])
    opset = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return model
