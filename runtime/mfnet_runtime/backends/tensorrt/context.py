"""One execution of an engine: its context and all its memory, for one thread at a time.

TensorRT is given the memory for activations rather than left to take it, so that running out of it
is known before anything is run.
"""

from __future__ import annotations

from math import prod
from typing import Any

from mfnet_runtime.backends.tensorrt.engine import Engine
from mfnet_runtime.cuda.device import Stream
from mfnet_runtime.cuda.faults import never_destroyed
from mfnet_runtime.cuda.handles import Buffer
from mfnet_runtime.errors import DeviceLostError


class Execution:
    """Tensors of an engine on the GPU, and the means to run it on them.

    Made and used with the device's context current. Activations too have memory for `room` windows,
    where this TensorRT can tell how much that is (10 and later), else for the plan's largest batch.
    TensorRT 8.6 lets an engine of one optimisation profile have one execution at a time.

    Args:
        engine: Shared with other executions, or not.
        room: Windows, at most.

    Raises:
        ResourceError: the GPU has not the memory.
    """

    def __init__(self, engine: Engine, room: int) -> None:
        self.engine = engine
        self.room = max(room, engine.profile.smallest)
        self._windows = 0  # whose shapes the context has
        self._context: Any = None
        self._buffers: dict[str, Buffer] = {}
        self._scratch: Buffer | None = None  # activations
        try:
            self._context = self._made()
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
        """Run the first windows, in the order of the stream; always the same one.

        Fewer than the plan's smallest batch are run as that many: what is beyond them is not used.

        Raises:
            DeviceLostError: the device failed.
            ModelError: TensorRT does not run it.
        """
        windows = max(windows, self.engine.profile.smallest)
        assert windows <= self.room, "more windows than there is room for"
        if windows != self._windows:
            stream.synchronize()  # what runs has the shapes and the memory of before
            self._reshape(windows)
        if not self._context.execute_async_v3(stream.handle):
            stream.synchronize()  # raises if the device failed at work enqueued before
            raise self.engine.refused(f"does not run {windows} windows")

    def _made(self) -> Any:
        """A context without memory of its own."""
        engine, trt = self.engine, self.engine.trt
        if hasattr(trt, "ExecutionContextAllocationStrategy"):  # 10 and later
            managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = engine.raw.create_execution_context(managed)
        else:
            context = engine.raw.create_execution_context_without_device_memory()
        self._require(context is not None, "TensorRT cannot prepare it")
        return context

    def _reshape(self, windows: int) -> None:
        """Tell the context the shapes of a batch, and give it memory."""
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
        """Bytes of activations, for the context's shapes or else for the plan's largest batch."""
        if hasattr(self._context, "update_device_memory_size_for_shapes"):
            return int(self._context.update_device_memory_size_for_shapes())
        if hasattr(self.engine.raw, "device_memory_size_v2"):
            return int(self.engine.raw.device_memory_size_v2)
        return int(self.engine.raw.device_memory_size)

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise self.engine.refused(what)

    def close(self) -> None:
        """Give all memory back, once nothing runs any more."""
        try:
            with self.engine.cuda.current():
                self._context = None
                for buffer in (*self._buffers.values(), self._scratch):
                    if buffer is not None:
                        buffer.free()
        except DeviceLostError:
            never_destroyed(self._context)
