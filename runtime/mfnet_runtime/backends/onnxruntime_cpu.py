"""ONNX Runtime on the CPU, with its defaults; benchmarks/TRIED.md lists what was tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import (
    DEFAULT_BATCH,
    Arrays,
    Batches,
    Feed,
    TensorSpec,
    check_feed,
    specs_of,
)
from mfnet_runtime.backends.model_checks import loading, require_graph, running, threads_or_cores
from mfnet_runtime.backends.onnx_file import contract_from_onnx
from mfnet_runtime.errors import UsageError

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
FATAL = 4  # log level: everything below is raised as well


class OrtBackend:
    """An ONNX file with a contract, run by ONNX Runtime's CPU provider.

    Args:
        path: The ONNX file.
        threads: Threads inside an operator; 0 for the physical cores.
        precision: `fp32`, or None for that of the file.
        batch: Usual number of windows per call; any number runs.

    Raises:
        ModelError: not an ONNX file, no contract, a graph that disagrees with it, or FP16.
        UsageError: BF16 was requested.
        ResourceError: the file does not fit in memory.
    """

    name = "onnxruntime"

    def __init__(
        self, path: Path, threads: int = 0, precision: str | None = None, batch: int | None = None
    ) -> None:
        import onnxruntime

        self.path, self._engine = path, f"ONNX Runtime {onnxruntime.__version__}"
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
                enable_fallback=0,  # there is none, and announcing it would go to standard output
            )
        require_session(path, self._session, self.inputs, self.outputs)

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch; see `Backend.infer`."""
        check_feed(feed, self.inputs)
        with running(self.path, self._engine, len(feed["image"])):
            (logits,) = self._session.run(["logits"], dict(feed))
        return {"logits": logits}

    def __enter__(self) -> OrtBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        self._session = None


def require_session(
    path: Path, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Require that a session has exactly the tensors its contract implies.

    Raises:
        ModelError: see `require_graph`.
    """
    for nodes, specs in ((session.get_inputs(), inputs), (session.get_outputs(), outputs)):
        found = {node.name: (TYPES.get(node.type, node.type), _shape(node)) for node in nodes}
        require_graph(path, found, specs)


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in node.shape)
