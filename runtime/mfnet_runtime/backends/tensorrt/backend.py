"""TensorRT on an NVIDIA GPU: the plans that mfnet-export builds.

Windows come from host memory (`infer`) or are cut on the GPU (`tensors`); the pipeline does the
latter, so that copies overlap with inference.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.backends.base import Arrays, Batches, Feed, check_feed, specs_of
from mfnet_runtime.backends.onnx_file import require_known
from mfnet_runtime.backends.tensorrt.compatibility import (
    known_of_plan,
    require_digest,
    require_gpu,
    require_version,
    tensorrt_for,
)
from mfnet_runtime.backends.tensorrt.context import Execution
from mfnet_runtime.backends.tensorrt.engine import Engine
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.cuda.kernels import Kernels
from mfnet_runtime.errors import DeviceLostError, ModelError, ResourceError, UsageError


class TensorRtBackend:
    """A plan and the file beside it. The device is untouched until the backend is entered.

    For one thread at a time; other threads may run the same engine with an `Execution` each.

    Args:
        path: The plan.
        threads: Ignored: no CPU thread computes.
        precision: The plan's own, or None.
        batch: Usual number of windows per call; None for the plan's best.
        trust_plan: Skip the checksum, TensorRT-version and GPU checks.
        eager: With TensorRT for RTX, compile the best kernels of a batch size before its first
            run; else they replace general ones as soon as they are compiled.

    Raises:
        ModelError: the file beside the plan is missing or damaged, or the plan is for another
            TensorRT or GPU.
        UsageError: another precision than the plan's.
        ModuleNotFoundError: TensorRT is not installed.
    """

    name = "tensorrt"
    threads = 0

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        precision: str | None = None,
        batch: int | None = None,
        trust_plan: bool = False,
        eager: bool = False,
    ) -> None:
        self.path, self._asked, self._trusted, self._eager = path, batch, trust_plan, eager
        self.contract, facts = known_of_plan(path, trust_plan)
        self.precision = self.contract.precision
        if precision != self.precision:
            require_known(precision)
            if precision is not None:
                raise UsageError(
                    f"{path}: was built in {self.precision}, which --precision cannot change; "
                    "leave it out, or build another plan"
                )
        self.inputs, self.outputs = specs_of(self.contract)
        self._trt, flavour = tensorrt_for(path, facts)
        self._title = flavour.title
        self._facts = None if trust_plan else facts  # to check
        if self._facts is not None:
            require_version(path, self._facts, self._trt.__version__)

    def __enter__(self) -> TensorRtBackend:
        with ExitStack() as opened:
            self.cuda = opened.enter_context(CudaDevice())
            if self._facts is not None:
                require_gpu(self.path, self._facts, self.cuda.name, self.cuda.compute_capability)
            plan = self.path.read_bytes()
            if self._facts is not None:
                require_digest(self.path, self._facts, plan)
            self.engine = opened.enter_context(
                Engine(
                    self.path,
                    plan,
                    self._trt,
                    self.cuda,
                    (*self.inputs, *self.outputs),
                    host_code=self._trusted or bool(self._facts and self._facts.version_compatible),
                    eager=self._eager,
                )
            )
            profile = self.engine.profile
            if self._facts is not None and self._facts.profile != profile:
                raise ModelError(
                    f"{self.path}: was built for batches {profile}, the file beside it says "
                    f"{self._facts.profile}; build it again"
                )
            best = min(self._asked or profile.best, profile.largest)
            self.batches = Batches(best, profile.largest)
            self.device = f"{self.cuda.name}, {self._title} {self._trt.__version__}"
            with self.cuda.current():
                self._stream = self.cuda.stream()
            self._execution: Execution | None = None
            self._kernels: Kernels | None = None
            self._pinned: dict[str, npt.NDArray[Any]] = {}
            opened.callback(self._release)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()

    def tensors(self, windows: int) -> Execution:
        """Return inputs and outputs on the GPU; see `DeviceBackend.tensors`."""
        largest = self.engine.profile.largest
        if windows > largest:
            raise ModelError(
                f"{self.path}: a batch of {windows} windows; it was built for at most {largest}"
            )
        if self._execution is None or self._execution.room < windows:
            self._release()
            with self.cuda.current():
                self._execution = Execution(self.engine, windows)
        return self._execution

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch from and to host memory; see `Backend.infer`."""
        check_feed(feed, self.inputs)
        count = len(feed["image"])
        with self.cuda.current():
            tensors = self.tensors(count)
            self._upload(feed, tensors)
            tensors.enqueue(count, self._stream)
            logits = self._pinned["logits"][:count]
            self.cuda.download(logits, tensors.logits, self._stream)
            self._stream.synchronize()
        return {"logits": logits.copy()}  # page-locked memory goes when the backend is left

    def device_ms(self, feed: Feed, calls: int) -> list[float]:
        """Time repeated runs of one batch already on the GPU, in milliseconds each.

        CUDA events take the time: without copies, and without the CPU's share as long as that is
        smaller. The first runs of a batch include preparation for its shape.
        """
        check_feed(feed, self.inputs)
        count = len(feed["image"])
        with self.cuda.current(), ExitStack() as made:
            tensors = self.tensors(count)
            self._upload(feed, tensors)
            marks = [self.cuda.event(timing=True) for _ in range(calls + 1)]
            for mark in marks:
                made.callback(mark.free)
            marks[0].record(self._stream)
            for mark in marks[1:]:
                tensors.enqueue(count, self._stream)
                mark.record(self._stream)
            self._stream.synchronize()
            return [end.milliseconds_since(start) for start, end in pairwise(marks)]

    def kernels(self) -> Kernels:
        """Return the kernels for windows and logits; see `DeviceBackend.kernels`."""
        if self._kernels is None:
            with self.cuda.current():
                self._kernels = Kernels(self.cuda, self.contract.window, self.inputs[0].dtype)
        return self._kernels

    def _upload(self, feed: Feed, tensors: Execution) -> None:
        """Copy inputs to the GPU by way of pinned memory, which no earlier copy uses any more."""
        pinned = self._pinned_for(tensors.room)
        for spec, pointer in zip(self.inputs, (tensors.image, tensors.dsm), strict=True):
            staged = pinned[spec.name][: len(feed[spec.name])]
            np.copyto(staged, feed[spec.name])
            self.cuda.upload(pointer, staged, self._stream)

    def _pinned_for(self, room: int) -> dict[str, npt.NDArray[Any]]:
        """Return page-locked arrays as large as the tensors on the GPU."""
        try:
            for spec in (*self.inputs, *self.outputs):
                if spec.name not in self._pinned:
                    self._pinned[spec.name] = self.cuda.pinned((room, *spec.shape[1:]), spec.dtype)
        except ResourceError:
            self._release()
            raise
        return self._pinned

    def _release(self) -> None:
        """Free what depends on the batch size, after the stream is done."""
        with suppress(DeviceLostError), self.cuda.current():
            self._stream.synchronize()
            for array in self._pinned.values():
                self.cuda.unpin(array)
        self._pinned = {}
        if self._execution is not None:
            self._execution.close()
            self._execution = None
