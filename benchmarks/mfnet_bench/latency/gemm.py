"""The ceiling of a precision: the fastest matrix product that this machine does in it.

Every library multiplies the network's own shapes and a large square, with a constant right-hand
side, as a network's weights are. The fastest few products take part in the rounds of the engines;
the best of those is the ceiling. In INT8, integer operations count as FLOP.
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

SQUARE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the one shape that is no network's
WARM_UP = 2  # products before the first that counts: weights are packed, threads started
CALLS = 5  # in a turn
CONTENDERS = 3  # products of a precision that take part in the rounds
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
    """Return turns of the fastest products of each precision, as GFLOP/s.

    Args:
        precisions: fp32, bf16, fp16 or int8; what a library cannot multiply in is left out.
        shapes: To try.
        threads: For each library.
        stack: Ends the processes.
        device: cpu or cuda.
    """
    turns: dict[Product, Turn] = {}
    for precision in precisions:
        tried: dict[Product, tuple[float, Turn]] = {}
        for library in (name for name, known in products_on(device) if known == precision):
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
                for shape in process.facts["shapes"]:
                    turn = _turn(process, shape)
                    tried[precision, library, shape] = (fmean(turn()), turn)
            except (EngineRefusedError, DroppedError):
                continue
        best = sorted(tried, key=lambda product: -tried[product][0])[:CONTENDERS]
        turns |= {product: tried[product][1] for product in best}
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


def _turn(process: EngineProcess, shape: str) -> Turn:
    def turn() -> Sequence[float]:
        try:
            return [process.ask("measure", shape=shape, calls=CALLS)["gflop_per_s"]]
        except EngineRefusedError as fault:
            raise DroppedError from fault

    return turn


class GemmEngine:
    """Products of one library in one precision, in a child process that answers requests."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._time = _wall_ms
        if spec["device"] == "cuda":
            from mfnet_bench.latency.baseline import cuda_ms

            self._time = cuda_ms
        multiply = products_on(spec["device"])[spec["backend"], spec["precision"]]
        rng = np.random.default_rng(SEED)
        self._products: dict[str, tuple[float, Multiply]] = {}
        for m, k, n in spec["shapes"]:
            left, right = (rng.standard_normal(size, np.float32) for size in ((m, k), (k, n)))
            product = multiply(left, right, int(spec["threads"]))
            for _ in range(WARM_UP):
                product()
            self._products[f"{m}x{k}x{n}"] = 2e-9 * m * k * n, product
        self.facts = {"shapes": list(self._products)}

    def measure(self, shape: str, calls: int) -> dict[str, float]:
        """Return GFLOP/s of the median of several products."""
        gflop, product = self._products[shape]
        return {"gflop_per_s": 1000 * gflop / median(self._time(product, calls))}


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
    import openvino

    core = openvino.Core()
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
