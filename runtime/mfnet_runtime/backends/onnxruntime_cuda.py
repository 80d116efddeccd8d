"""ONNX Runtime on an NVIDIA GPU, for FP16 and FP32 files, without falling back to the CPU.

Inputs and outputs are on the GPU and bound once per batch size; pixels are processed on the CPU.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import DEFAULT_BATCH, Arrays, Batches, Feed, check_feed, specs_of
from mfnet_runtime.backends.model_checks import loading, running
from mfnet_runtime.backends.onnx_file import contract_in_onnx, require_known
from mfnet_runtime.backends.onnxruntime_cpu import FATAL, require_session
from mfnet_runtime.cuda.faults import never_destroyed
from mfnet_runtime.errors import NO_MEMORY, DeviceLostError, ModelError, UsageError

PROVIDER = "CUDAExecutionProvider"
FLOATS = ("fp16", "fp32")
SETTINGS = {"use_tf32": "0"}  # an FP32 file runs in FP32
REMEDY = (
    "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]' (the two packages "
    "exclude each other), or run a plan with TensorRT"
)
# Messages after which the GPU is lost and no call can be relied on.
CUDA_FAILED = re.compile(r"CUDA (failure|error)|CUBLAS failure|CUDNN failure", re.IGNORECASE)


def has_cuda_provider() -> bool:
    """Tell whether the installed ONNX Runtime was built for CUDA."""
    if not find_spec("onnxruntime"):
        return False
    import onnxruntime

    return PROVIDER in onnxruntime.get_available_providers()


class OrtCudaBackend:
    """An ONNX file with a contract, run by ONNX Runtime's CUDA provider.

    Args:
        path: The ONNX file, FP16 or FP32.
        threads: Ignored: no CPU thread computes.
        precision: The file's own, or None.
        batch: Usual number of windows per call; any number runs.

    Raises:
        ModelError: not such a file, or a graph that disagrees with its contract.
        UsageError: no CUDA provider, another precision than the file's, or an operator that would
            run on the CPU.
        ResourceError: the file does not fit in the GPU's memory.
    """

    name = "onnxruntime"
    threads = 0

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        precision: str | None = None,
        batch: int | None = None,
    ) -> None:
        import onnxruntime

        self._ort, self.path = onnxruntime, path
        self._engine = f"ONNX Runtime {onnxruntime.__version__}"
        self.contract = contract_in_onnx(path)
        self.precision = self.contract.precision
        if self.precision == "int8+fp16":
            raise ModelError(
                f"{path}: {self._engine} would not run INT8 on a GPU; run the FP16 file, or build "
                f"a plan: mfnet-export --onnx {path.name} --plan"
            )
        if self.precision not in FLOATS:
            raise ModelError(
                f"{path}: {self._engine} runs {self.precision} on a CPU only; leave out "
                "--device cuda, or export it with --fp16"
            )
        if precision not in (None, self.precision):
            require_known(precision)
            raise UsageError(
                f"{path}: --precision cannot change {self.precision} on a GPU; leave it out, or "
                "run another file"
            )
        if not has_cuda_provider():
            found = ", ".join(onnxruntime.get_available_providers())
            raise UsageError(f"{self._engine} has no CUDA provider (only {found}): {REMEDY}")
        self.inputs, self.outputs = specs_of(self.contract)
        self.batches = Batches(batch or DEFAULT_BATCH)
        self.device = f"GPU 0 by CUDA, {self._engine}"
        self._session = self._open()
        require_session(path, self._session, self.inputs, self.outputs)
        self._values: dict[str, Any] = {}  # on the GPU, for one batch
        self._binding: Any = None
        self._lost: str | None = None

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch; see `Backend.infer`."""
        check_feed(feed, self.inputs)
        count = len(feed["image"])
        with running(self.path, self._engine, count), self._watching():
            if not self._values or self._values["image"].shape()[0] != count:
                self._bind(count)
            for name, array in feed.items():
                self._values[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(self._binding)
            return {"logits": self._values["logits"].numpy()}

    def _open(self) -> Any:
        """Create a session whose nodes all run on the GPU.

        Raises:
            UsageError: the CUDA provider cannot be loaded, or does not run all nodes.
        """
        options = self._ort.SessionOptions()
        options.log_severity_level = FATAL
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if hasattr(self._ort, "preload_dlls"):  # 1.21 and later; finds CUDA installed by pip
            with redirect_stdout(sys.stderr):
                self._ort.preload_dlls()
        with loading(self.path, self._engine):
            try:
                session = self._ort.InferenceSession(
                    str(self.path.absolute()), options, providers=[(PROVIDER, SETTINGS)]
                )
            except Exception as fault:  # the bindings raise many unrelated types
                if "fallback" not in str(fault):
                    raise
                session = None
        if session is None or PROVIDER not in session.get_providers():
            raise UsageError(
                f"{self.path}: {self._engine} would run it on the CPU, at least in part: the GPU, "
                f"or the CUDA or cuDNN it was built for, or an operator is missing; {REMEDY}"
            )
        return session

    def _bind(self, count: int) -> None:
        """Reserve inputs and outputs for a batch on the GPU."""
        self._values, self._binding = {}, None
        values = {
            spec.name: self._ort.OrtValue.ortvalue_from_shape_and_type(
                (count, *spec.shape[1:]), spec.dtype, "cuda", 0
            )
            for spec in (*self.inputs, *self.outputs)
        }
        binding = self._session.io_binding()
        for spec in self.inputs:
            binding.bind_ortvalue_input(spec.name, values[spec.name])
        for spec in self.outputs:
            binding.bind_ortvalue_output(spec.name, values[spec.name])
        self._values, self._binding = values, binding

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Recognise a GPU that failed.

        Raises:
            DeviceLostError: it failed, now or before.
        """
        if self._lost is not None:
            raise DeviceLostError(self._lost)
        try:
            yield
        except Exception as fault:  # the bindings raise many unrelated types
            if not CUDA_FAILED.search(str(fault)) or NO_MEMORY.search(str(fault)):
                raise
            self._lost = (
                f"{self.device}: the GPU stopped working ({' '.join(str(fault).split())[:200]}); "
                "look for Xid in `dmesg`, then run again"
            )
            never_destroyed(self._session, self._binding, *self._values.values())
            raise DeviceLostError(self._lost) from fault

    def __enter__(self) -> OrtCudaBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        self._values, self._binding, self._session = {}, None, None
