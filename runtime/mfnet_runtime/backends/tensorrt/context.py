"""One execution of an engine: its context and all its memory, for one thread at a time.

TensorRT gets the memory for activations from us instead of allocating it, so that a lack of it
shows before anything runs.
"""

from __future__ import annotations

from math import prod
from typing import Any

from mfnet_runtime.backends.tensorrt.engine import Engine
from mfnet_runtime.cuda.device import Buffer, Stream
from mfnet_runtime.cuda.faults import never_destroyed
from mfnet_runtime.errors import DeviceLostError


class Execution:
    """The tensors of an engine on the GPU and its execution context.

    Create and use it with the device's context current. Activations get memory for `room` windows
    if TensorRT can tell how much that is (10 and later), otherwise for the plan's largest batch.
    TensorRT 8.6 allows one execution per engine at a time.

    Args:
        engine: May be shared with other executions.
        room: Largest number of windows.

    Raises:
        ResourceError: not enough GPU memory.
    """

    def __init__(self, engine: Engine, room: int) -> None:
        self.engine = engine
        self.room = max(room, engine.profile.smallest)
        self._windows = 0  # batch that the shapes of the context are for
        self._context: Any = None
        self._buffers: dict[str, Buffer] = {}
        self._scratch: Buffer | None = None  # activations
        try:
            self._context = self._create_context()
            for spec in engine.specs:
                size = self.room * prod(spec.shape[1:]) * spec.dtype.itemsize
                self._buffers[spec.name] = buffer = engine.cuda.buffer(size)
                self._require(
                    self._context.set_tensor_address(spec.name, buffer.pointer),
                    f"has no tensor {spec.name}",
                )
            self._reshape(self.room)
        except BaseException:
            self.close()
            raise

    @property
    def image(self) -> int:
        """Pointer to (room, 3, window, window)."""
        return self._buffers["image"].pointer

    @property
    def dsm(self) -> int:
        """Pointer to (room, 1, window, window)."""
        return self._buffers["dsm"].pointer

    @property
    def logits(self) -> int:
        """Pointer to (room, classes, window, window)."""
        return self._buffers["logits"].pointer

    def enqueue(self, windows: int, stream: Stream) -> None:
        """Enqueue the network for the first windows; always use the same stream.

        Fewer windows than the plan's smallest batch run as that many; the rest is not used.

        Raises:
            DeviceLostError: the device failed.
            ModelError: TensorRT refuses to run it.
        """
        windows = max(windows, self.engine.profile.smallest)
        assert windows <= self.room, "more windows than there is room for"
        if windows != self._windows:
            stream.synchronize()  # running work uses the old shapes and memory
            self._reshape(windows)
        if not self._context.execute_async_v3(stream.handle):
            stream.synchronize()  # raises if the device failed at work enqueued before
            raise self.engine.refused(f"does not run {windows} windows")
        if self.engine.config is not None:
            self.engine.config.count_run()

    def _create_context(self) -> Any:
        """Create a context without memory of its own."""
        engine, trt = self.engine, self.engine.trt
        if engine.config is not None:
            context = engine.raw.create_execution_context(runtime_config=engine.config.raw)
        elif hasattr(trt, "ExecutionContextAllocationStrategy"):  # 10 and later
            managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = engine.raw.create_execution_context(managed)
        else:
            context = engine.raw.create_execution_context_without_device_memory()
        self._require(context is not None, "TensorRT cannot prepare it")
        return context

    def _reshape(self, windows: int) -> None:
        """Set the shapes of a batch and provide memory for activations."""
        for spec in self.engine.specs[:2]:  # the inputs
            shape = (windows, *spec.shape[1:])
            self._require(self._context.set_input_shape(spec.name, shape), f"takes no {shape}")
        size = self._scratch_size()
        if self._scratch is None or self._scratch.size < size:
            if self._scratch is not None:
                self._scratch.free()
            self._scratch = None
            self._scratch = self.engine.cuda.buffer(max(size, 1))
        if hasattr(self._context, "set_device_memory"):  # 10.1 and later
            self._context.set_device_memory(self._scratch.pointer, self._scratch.size)
        else:
            self._context.device_memory = self._scratch.pointer
        self._windows = windows

    def _scratch_size(self) -> int:
        """Return the bytes of activations for the current shapes, or else for the largest batch."""
        if hasattr(self._context, "update_device_memory_size_for_shapes"):
            return int(self._context.update_device_memory_size_for_shapes())
        return int(self.engine.raw.device_memory_size)

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise self.engine.refused(what)

    def close(self) -> None:
        """Free all memory; nothing may be running any more."""
        try:
            with self.engine.cuda.current():
                self._context = None
                for buffer in (*self._buffers.values(), self._scratch):
                    if buffer is not None:
                        buffer.free()
        except DeviceLostError:
            never_destroyed(self._context)
