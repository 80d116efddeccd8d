"""A plan opened by TensorRT on a GPU: its engine, which threads may share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import TensorSpec
from mfnet_runtime.backends.model_checks import require_graph
from mfnet_runtime.backends.tensorrt.plan_file import Profile
from mfnet_runtime.backends.tensorrt.rtx import RuntimeConfig, require_valid_header
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.cuda.faults import never_destroyed
from mfnet_runtime.errors import (
    NO_MEMORY,
    DeviceLostError,
    MFNetError,
    ModelError,
    ResourceError,
    UsageError,
)

KEPT = 20  # messages of each severity
LAYERS = "Layers:\n"  # start of the message that lists a new engine's layers


class Engine:
    """An engine and the memory of its weights. Use it in a `with` block.

    Args:
        path: The plan, for messages.
        plan: Its bytes.
        trt: The TensorRT module.
        cuda: The device it runs on; close it after the engine.
        specs: The tensors it must have.
        host_code: True lets code in the plan run on the CPU: version-compatible plans need it.
        eager: See `RuntimeConfig`; TensorRT for RTX only.

    Raises:
        ModelError: TensorRT does not open the plan, or its tensors are not those expected.
        ResourceError: no GPU memory for its weights.
        UsageError: TensorRT does not start with this driver.
    """

    def __init__(
        self,
        path: Path,
        plan: bytes,
        trt: Any,
        cuda: CudaDevice,
        specs: tuple[TensorSpec, ...],
        host_code: bool,
        eager: bool = False,
    ) -> None:
        self.path, self.trt, self.cuda, self.specs = path, trt, cuda, specs
        self._log = recording_logger(trt)
        self._runtime: Any = None
        self.raw: Any = None  # trt.ICudaEngine
        self.config: RuntimeConfig | None = None  # of TensorRT for RTX
        try:
            with cuda.current():
                self._runtime = trt.Runtime(self._log)
                if self._log.errors:  # the object exists all the same, and crashes when used
                    raise UsageError(
                        f"TensorRT {trt.__version__} cannot start ({self._log.errors[0]}); update "
                        "the NVIDIA driver, or install the TensorRT built for its CUDA version"
                    )
                self._runtime.engine_host_code_allowed = host_code
                rtx = hasattr(self._runtime, "get_engine_validity")
                if rtx:
                    require_valid_header(path, trt, self._runtime, plan)
                self.raw = self._runtime.deserialize_cuda_engine(plan)
                if self.raw is not None and rtx:
                    self.config = RuntimeConfig(trt, self.raw, cuda, eager)
            if self.raw is None:
                raise self.refused("TensorRT cannot open it")
            self.profile = self._profile()
            require_graph(path, self._tensors(), specs)
        except BaseException:
            self.close()
            raise

    def refused(self, what: str) -> MFNetError:
        """Return the fault to raise after TensorRT refused something.

        Raises:
            DeviceLostError: it refused because the device failed.
        """
        with self.cuda.current():
            self.cuda.memory()  # any call would do: a failed device takes none
        reason = self._log.reason
        self._log.errors.clear()  # reported; the next refusal may have another reason
        if NO_MEMORY.search(reason):
            return ResourceError(
                f"{self.path}: does not fit in the GPU's memory (TensorRT: {reason}); "
                "end other programs on the GPU, or use a smaller --batch"
            )
        return ModelError(
            f"{self.path}: {what} (TensorRT {self.trt.__version__}: {reason}); build it again here"
        )

    def _profile(self) -> Profile:
        """Return the batch sizes of its only profile."""
        if self.raw.num_optimization_profiles != 1:
            raise ModelError(
                f"{self.path}: has {self.raw.num_optimization_profiles} optimisation profiles; "
                "expected one: build it with mfnet-export"
            )
        smallest, best, largest = self.raw.get_tensor_profile_shape(self.specs[0].name, 0)
        return Profile(smallest[0], best[0], largest[0])

    def _tensors(self) -> dict[str, tuple[object, tuple[int, ...]]]:
        """Return its inputs and outputs as `require_graph` takes them."""
        types = self.trt.DataType
        known = {types.FLOAT: np.float32, types.HALF: np.float16}
        found: dict[str, tuple[object, tuple[int, ...]]] = {}
        for index in range(self.raw.num_io_tensors):
            name = self.raw.get_tensor_name(index)
            kind = self.raw.get_tensor_dtype(name)
            shape = tuple(self.raw.get_tensor_shape(name))
            if shape[:1] == (self.profile.largest,) and self.profile.smallest == shape[0]:
                shape = (-1, *shape[1:])  # built for one batch size only
            found[name] = (known.get(kind, kind), shape)
        return found

    def close(self) -> None:
        """Free the memory of the weights; close its executions before."""
        try:
            with self.cuda.current():
                if self.config is not None:
                    self.config.save()
                self.config = None
                self.raw = None
                self._runtime = None
        except DeviceLostError:
            never_destroyed(self.config, self.raw, self._runtime)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def recording_logger(trt: Any) -> Any:
    """Create a logger that prints nothing: TensorRT's calls return None or False, its log says why.

    Args:
        trt: The module, `tensorrt` or the lean one.

    Returns:
        A `trt.ILogger` with the lists `errors` and `warnings`, newest last, `reason`, and
        `layers`.
    """

    class RecordingLogger(trt.ILogger):  # type: ignore[misc]
        """Keep the newest errors and warnings."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 requires this spelling
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.layers = ""  # of the engine that was built, if TensorRT lists them

        def log(self, severity: Any, msg: str) -> None:
            """Record a message; called by TensorRT from any thread."""
            levels = trt.ILogger.Severity
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                kept = self.errors
            elif severity == levels.WARNING:
                kept = self.warnings
            else:
                if msg.startswith(LAYERS):
                    self.layers = msg
                return
            kept.append(" ".join(msg.split()))
            del kept[:-KEPT]

        @property
        def reason(self) -> str:
            """All errors: the first is the cause, the last often only says that it failed."""
            return "; ".join(self.errors) or "TensorRT gave no reason"

    return RecordingLogger()
