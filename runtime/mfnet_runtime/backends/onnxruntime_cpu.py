"""ONNX Runtime on the CPU.

Its defaults are kept: benchmarks/TRIED.md has what was tried against them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import DEFAULT_BATCH, Arrays, Batches, Feed, check_feed, specs_of
from mfnet_runtime.backends.model_checks import loading, require_graph, running, threads_or_cores
from mfnet_runtime.backends.onnx_file import contract_from_onnx
from mfnet_runtime.errors import UsageError

ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
FATAL = 4  # log level: whatever else it logs is raised too


class OrtBackend:
    """An ONNX file with a contract inside, run by ONNX Runtime's CPU provider.

    Args:
        path: The ONNX file.
        threads: Threads inside an operator; 0 takes the physical cores.
        precision: `fp32`, or None for what the file holds.
        batch: Windows a call that will be usual; a session runs any batch alike.

    Raises:
        ModelError: not an ONNX file, no contract, a graph that disagrees with it, or FP16.
        UsageError: BF16 asked for.
        ResourceError: the file does not fit in memory.
    """

    name = "onnxruntime"

    def __init__(
        self, path: Path, threads: int = 0, precision: str | None = None, batch: int | None = None
    ) -> None:
        import onnxruntime

        self._path, self._engine = path, f"ONNX Runtime {onnxruntime.__version__}"
        self.contract = contract_from_onnx(path, precision)
        if precision == "bf16":
            raise UsageError(
                f"{self._engine} has no BF16 on a CPU; leave out --precision, "
                "or use --backend openvino (pip install 'mfnet[openvino]')"
            )
        self.precision = self.contract.precision
        self.threads = threads_or_cores(threads)
        self.device = f"CPU, {self._engine}"
        self.batches = Batches(batch or DEFAULT_BATCH)
        self.inputs, self.outputs = specs_of(self.contract)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = FATAL
        with loading(path, self._engine):
            self._session: Any = onnxruntime.InferenceSession(
                str(path.absolute()),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # there is none, and its announcement goes to standard output
            )
        for nodes, specs in (
            (self._session.get_inputs(), self.inputs),
            (self._session.get_outputs(), self.outputs),
        ):
            require_graph(path, {node.name: signature(node) for node in nodes}, specs)

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch; see `Backend.infer`."""
        check_feed(feed, self.inputs)
        with running(self._path, self._engine, len(feed["image"])):
            (logits,) = self._session.run(["logits"], dict(feed))
        return {"logits": logits}

    def __enter__(self) -> OrtBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        self._session = None


def signature(node: Any) -> tuple[object, tuple[int, ...]]:
    """Number type and shape of an input or output, as `checks.require_graph` takes them."""
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return ELEMENT_TYPES.get(node.type, node.type), shape
