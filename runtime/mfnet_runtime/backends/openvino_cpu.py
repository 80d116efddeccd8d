"""OpenVINO on the CPU.

The model is compiled for one window, and the windows of a batch run as separate requests: 5 to 35 %
faster than a dynamic batch, slightly faster than a static batch of several windows, and the weights
are in memory only once (benchmarks/TRIED.md).
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.backends.base import DEFAULT_BATCH, Arrays, Batches, Feed, check_feed, specs_of
from mfnet_runtime.backends.model_checks import loading, require_graph, running, threads_or_cores
from mfnet_runtime.backends.onnx_file import contract_from_onnx
from mfnet_runtime.errors import ModelError, UsageError

# Reports each import of OpenVINO to Intel; OpenVINO works without it.
REPORTER = "openvino_telemetry"
FLOATS = {"fp32": "f32", "bf16": "bf16"}  # our name, OpenVINO's
INT8 = ("i8", "u8")
PRODUCTS = ("FullyConnected", "MatMul", "Convolution")  # operators that run in INT8


@cache
def openvino_core() -> Any:
    """Return the only `openvino.Core` of this process.

    With two, a signal can end the process or overwrite memory: the CPU plugin of each gives the
    thread a signal stack for AMX, and when it goes it puts back the one that it found, which is
    unmapped if that was of a Core destroyed before (seen in OpenVINO 2026.4).
    """
    sys.modules.setdefault(REPORTER, None)  # type: ignore[arg-type]
    import openvino

    return openvino.Core()


class OpenVinoBackend:
    """An ONNX file with a contract, run by OpenVINO's CPU plugin.

    Args:
        path: The ONNX file.
        threads: Number of threads; 0 for the physical cores.
        precision: Of floating-point operations, `fp32` or `bf16`; None for `fp32`, although
            OpenVINO's own default on a CPU with BF16 is BF16.
        batch: Windows per call to optimise for; None for 4. Up to `threads` of them run at a time,
            each on its share of the threads; other batches run too.

    Raises:
        ModelError: not an ONNX file, no contract, a graph that disagrees with it, or FP16.
        UsageError: BF16 on a CPU without it.
        ResourceError: the file does not fit in memory.
    """

    name = "openvino"

    def __init__(
        self, path: Path, threads: int = 0, precision: str | None = None, batch: int | None = None
    ) -> None:
        core = openvino_core()
        import openvino

        self._tensor, self.path = openvino.Tensor, path
        self._engine = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        self.contract = contract_from_onnx(path, precision)
        self.inputs, self.outputs = specs_of(self.contract)
        self.device = f"CPU, {self._engine}"
        if precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise UsageError(
                f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} has no native BF16; "
                "leave out --precision, the model then runs in fp32"
            )
        with loading(path, self._engine):
            model = core.read_model(path)
        for ports, specs in ((model.inputs, self.inputs), (model.outputs, self.outputs)):
            require_graph(path, {port.any_name: _signature(port) for port in ports}, specs)
        wanted = threads_or_cores(threads)
        self.batches = Batches(batch or DEFAULT_BATCH)
        floats = getattr(openvino.Type, FLOATS[precision or "fp32"])
        config = {
            "INFERENCE_PRECISION_HINT": floats,
            "INFERENCE_NUM_THREADS": wanted,
            "NUM_STREAMS": max(1, min(self.batches.best, wanted)),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # no rounding beyond that of the file
        }
        with loading(path, self._engine):
            model.reshape({spec.name: [1, *spec.shape[1:]] for spec in self.inputs})
            compiled = core.compile_model(model, "CPU", config)
            streams = compiled.get_property("NUM_STREAMS")
            self._requests: list[Any] = [compiled.create_infer_request() for _ in range(streams)]
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self.precision = self._require_precision(compiled, floats, precision)
        self._logits: npt.NDArray[np.float32] = np.empty(
            (0, *self.outputs[0].shape[1:]), np.float32
        )

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch; see `Backend.infer`."""
        check_feed(feed, self.inputs)
        batch = len(feed["image"])
        with running(self.path, self._engine, batch):
            if len(self._logits) != batch:
                self._logits = np.empty((batch, *self._logits.shape[1:]), np.float32)
            # OpenVINO shares the memory of arrays that are contiguous and writeable.
            given = {
                name: np.require(array, requirements=["C", "W"]) for name, array in feed.items()
            }
            started: list[Any] = []  # waiting for any other would raise a fault of an earlier call
            try:
                for index in range(batch):
                    request = self._requests[index % len(self._requests)]
                    if index < len(self._requests):
                        started.append(request)
                    else:
                        request.wait()
                    for name, array in given.items():
                        request.set_tensor(name, self._tensor(array[index : index + 1], True))
                    request.set_tensor(
                        "logits", self._tensor(self._logits[index : index + 1], True)
                    )
                    request.start_async()
            finally:  # requests write into our arrays: wait for all before returning
                with ExitStack() as ends:
                    for request in started:
                        ends.callback(request.wait)
        return {"logits": self._logits}

    def __enter__(self) -> OpenVinoBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        self._requests = []

    def _require_precision(self, compiled: Any, floats: Any, asked: str | None) -> str:
        """Return what the compiled model really computes in, read from its operators.

        Raises:
            ModelError: not what was requested.
        """
        found = compiled.get_property("INFERENCE_PRECISION_HINT")
        if found != floats:
            raise ModelError(
                f"{self.path}: {self._engine} would run floats in {found.get_type_name()}, "
                f"not in {floats.get_type_name()}; use --backend onnxruntime"
            )
        kinds = {
            str(info["runtimePrecision"].astype(str))
            for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
            if str(info["layerType"].astype(str)) in PRODUCTS
        }
        name = asked or "fp32"
        if self.contract.precision != "int8":
            return name
        if not kinds & set(INT8):
            raise ModelError(
                f"{self.path}: is INT8, but {self._engine} runs none of its products in "
                "INT8; export it again with mfnet-export --int8"
            )
        return "int8" if name == "fp32" else f"int8+{name}"


def _signature(port: Any) -> tuple[object, tuple[int, ...]]:
    sizes = port.get_partial_shape()
    shape = tuple(size.get_length() if size.is_static else -1 for size in sizes)
    return port.get_element_type().to_dtype().type, shape
