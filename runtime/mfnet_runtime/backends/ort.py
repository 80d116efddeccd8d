"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import Arrays, Feed, TensorSpec, check_feed, specs_of
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError

ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OrtBackend:
    """An ONNX file with a contract inside, run by ONNX Runtime's CPU provider.

    Args:
        path: The ONNX file.
        threads: Threads inside an operator; 0 leaves it to ONNX Runtime (physical cores).

    Raises:
        ModelError: not an ONNX file, no contract, a graph that disagrees with it, or FP16.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only: warnings speak of optimisations
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path.absolute()), options, providers=["CPUExecutionProvider"]
            )
        except Exception as fault:  # the binding raises a dozen unrelated types
            reason = " ".join(str(fault).split())[:200]
            raise ModelError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({reason}); "
                "export it again with mfnet-export"
            ) from fault
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ModelError(
                f"{path}: ONNX file without an mfnet contract; export it with mfnet-export"
            )
        try:
            self.contract = Contract.from_json(text)
            if self.contract.precision == "fp16":
                raise ModelError(
                    "an FP16 file runs thousands of times too slowly on a CPU; "
                    "export without --fp16, or run it on a GPU"
                )
            self.inputs, self.outputs = specs_of(self.contract)
            _require_equal(self._session.get_inputs(), self.inputs)
            _require_equal(self._session.get_outputs(), self.outputs)
        except ModelError as fault:
            raise ModelError(f"{path}: {fault}") from fault
        self.device = f"CPU, ONNX Runtime {onnxruntime.__version__}"

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch; see `Backend.infer`."""
        check_feed(feed, self.inputs)
        (logits,) = self._session.run(["logits"], dict(feed))
        return {"logits": logits}

    def __enter__(self) -> OrtBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        self._session = None


def _require_equal(found: list[Any], expected: tuple[TensorSpec, ...]) -> None:
    """A graph must have just the tensors its contract implies."""
    seen = {
        node.name: (
            ELEMENT_TYPES.get(node.type),
            tuple(size if isinstance(size, int) else -1 for size in node.shape),
        )
        for node in found
    }
    wanted = {spec.name: (spec.dtype.type, spec.shape) for spec in expected}
    if seen != wanted:
        raise ModelError(f"the graph has {seen}, its contract implies {wanted}; export it again")
