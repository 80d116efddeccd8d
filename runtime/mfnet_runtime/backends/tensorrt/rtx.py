"""Plans of TensorRT for RTX at run time: their header, and the kernels compiled on this GPU.

A plan is finished on the GPU that runs it: TensorRT compiles kernels when a context first sees a
shape. They are kept in a file of the user's cache, so that later runs start at full speed.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.errors import ModelError
from mfnet_runtime.files import replace_bytes, user_cache_folder

logger = logging.getLogger(__name__)

SAVED_AFTER = 8  # batches; by then the kernels of a usual batch are compiled


def require_valid_header(path: Path, trt: Any, runtime: Any, plan: bytes) -> None:
    """Refuse a plan whose first bytes say that it does not run here.

    Raises:
        ModelError: The message has TensorRT's reasons.
    """
    validity, found = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    if validity != trt.EngineValidity.INVALID:
        return
    known = trt.EngineInvalidityDiagnostics.__members__.items()
    reasons = [name.lower().replace("_", " ") for name, bit in known if int(found) & int(bit)]
    raise ModelError(
        f"{path}: TensorRT for RTX {trt.__version__} does not run it on this GPU "
        f"({', '.join(reasons) or 'no reason given'}); update the NVIDIA driver, or build the plan "
        "again"
    )


class RuntimeConfig:
    """How contexts of an engine compile their kernels, and the file that keeps them.

    Create and use it with the device's context current.

    Args:
        trt: The module.
        engine: A `trt.ICudaEngine`.
        cuda: The GPU.
        eager: Compile the best kernels before the first run of a shape; else general ones run
            until those are compiled.
    """

    def __init__(self, trt: Any, engine: Any, cuda: CudaDevice, eager: bool) -> None:
        self.raw = engine.create_runtime_config()
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.raw.set_execution_context_allocation_strategy(managed)
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        self.raw.dynamic_shapes_kernel_specialization_strategy = (
            strategies.EAGER if eager else strategies.LAZY
        )
        gpu = re.sub(r"\W+", "-", cuda.name)
        self.path = user_cache_folder() / f"tensorrt-rtx-{trt.__version__}-{gpu}.cache"
        self._cache = self.raw.create_runtime_cache()
        self._runs = 0
        self._saved = b""
        with suppress(OSError):  # no file yet
            content = self.path.read_bytes()
            # Another driver, say, refuses it: then all is compiled anew.
            if self._cache.deserialize(content):
                self._saved = content
            else:
                logger.debug("%s is of another driver or GPU, or damaged", self.path)
        self.raw.set_runtime_cache(self._cache)

    def count_run(self) -> None:
        """Count a batch; write the file after the first ones, in case the run is interrupted."""
        self._runs += 1
        if self._runs == SAVED_AFTER:
            self.save()

    def save(self) -> None:
        """Write the file if kernels were added; a file that cannot be written is only logged."""
        content = bytes(self._cache.serialize() or b"")
        if self._runs == 0 or content in (b"", self._saved):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(self.path, content)
        except OSError as fault:
            logger.info("compiled kernels are not kept: %s: %s", self.path, fault.strerror)
        else:
            self._saved = content
