"""A GPU through PyCUDA: memory, streams, events and kernels.

PyCUDA is imported when a device is opened. Pointers are plain integers and sizes are in bytes, as
TensorRT takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.cuda.context import CudaContext, Handle

Array = npt.NDArray[Any]
Size3 = tuple[int, int, int]  # x, y, z

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: do not wait for the default stream
DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING: makes an event cheaper


class Stream(Handle):
    """Work that runs in the order in which it was enqueued."""

    @property
    def handle(self) -> int:
        """CUDA's handle, as TensorRT takes it."""
        return int(self.raw.handle)

    def wait(self, event: Event) -> None:
        """Let later work in this stream wait for the event; does not block."""
        with self._context.calling("making a stream wait"):
            self.raw.wait_for_event(event.raw)

    def synchronize(self) -> None:
        """Block until all work enqueued so far is done."""
        with self._context.calling("waiting for a stream"):
            self.raw.synchronize()


class Event(Handle):
    """A point in a stream that others can wait for."""

    def record(self, stream: Stream) -> None:
        """Mark the end of the work enqueued so far, in place of an earlier mark."""
        with self._context.calling("recording an event"):
            self.raw.record(stream.raw)

    def synchronize(self) -> None:
        """Block until the stream has reached the event."""
        with self._context.calling("waiting for an event"):
            self.raw.synchronize()

    def milliseconds_since(self, start: Event) -> float:
        """Return the device time between two events made with timing and waited for."""
        with self._context.calling("reading the time"):
            return float(self.raw.time_since(start.raw))


class _Memory(Handle):
    _freed = False

    def _destroy(self) -> None:
        if not self._freed:
            self._freed = True  # first: after an interrupt in the next line, `free` comes again
            self.raw.free()
        super()._destroy()


class Buffer(_Memory):
    """Device memory."""

    def __init__(self, context: CudaContext, raw: Any, size: int) -> None:
        super().__init__(context, raw)
        self.pointer = int(raw)
        self.size = size  # bytes


class Pinned(_Memory):
    """Page-locked host memory."""


class Module(Handle):
    """Kernels compiled for the device."""

    def launch(
        self, name: str, grid: Size3, block: Size3, args: Sequence[Any], stream: Stream
    ) -> None:
        """Enqueue one kernel.

        Args:
            name: Its name in the PTX.
            grid: Number of blocks.
            block: Threads per block.
            args: numpy scalars, structured ones included, of exactly the kernel's types.
            stream: Where it is enqueued.
        """
        with self._context.calling(f"running {name}"):
            self.raw.get_function(name)(*args, grid=grid, block=block, stream=stream.raw)


class CudaDevice(CudaContext):
    """One GPU in this process; see `CudaContext` for threads, faults and arguments."""

    def __enter__(self) -> CudaDevice:
        return self

    def stream(self) -> Stream:
        """Create a stream that waits for no other unless told to."""
        with self.calling("making a stream"):
            return Stream(self, self._driver.Stream(NON_BLOCKING))

    def event(self, timing: bool = False) -> Event:
        """Create an event; `timing` makes it record the time as well."""
        with self.calling("making an event"):
            return Event(self, self._driver.Event(0 if timing else DISABLE_TIMING))

    def buffer(self, size: int) -> Buffer:
        """Allocate `size` (1 or more) bytes of uninitialised device memory.

        Raises:
            DeviceMemoryError: not enough is free.
        """
        with self.calling(f"reserving {_mebibytes(size)} on the GPU"):
            return Buffer(self, self._driver.mem_alloc(size), size)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Allocate a page-locked array of 1 or more elements; only its copies are asynchronous.

        The memory goes with `unpin` or `close`: neither the array nor a view may be used then.

        Raises:
            DeviceMemoryError: the host cannot lock that much.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        with self.calling(f"locking {_mebibytes(size)} of the machine's memory"):
            array: Array = self._driver.pagelocked_empty(tuple(shape), np.dtype(dtype))
            Pinned(self, array.base)
        return array

    def unpin(self, array: Array) -> None:
        """Free an array from `pinned`."""
        for handle in list(self.handles.values()):
            if handle.raw is array.base:
                handle.free()

    def upload(self, target: int, source: Array, stream: Stream) -> None:
        """Enqueue a copy of a C-contiguous array to the device.

        A pinned array is read when the stream gets there: leave it unchanged until then.
        """
        with self.calling("copying to the GPU"):
            self._driver.memcpy_htod_async(target, source, stream.raw)

    def download(self, target: Array, source: int, stream: Stream) -> None:
        """Enqueue a copy from the device to a C-contiguous array.

        The data is there once the stream, or an event recorded later, was waited for.
        """
        with self.calling("copying from the GPU"):
            self._driver.memcpy_dtoh_async(target, source, stream.raw)

    def clear(self, target: int, size: int, stream: Stream) -> None:
        """Enqueue setting device memory to zero bytes."""
        with self.calling("clearing memory"):
            self._driver.memset_d8_async(target, 0, size, stream.raw)

    def kernels(self, ptx: bytes) -> Module:
        """Load kernels from PTX; the driver compiles them for this GPU.

        Raises:
            UsageError: the driver does not accept this PTX.
        """
        with self.calling("loading kernels"):
            return Module(self, self._driver.module_from_buffer(ptx + b"\0"))

    def memory(self) -> tuple[int, int]:
        """Return the free and the total device memory in bytes."""
        with self.calling("asking for free memory"):
            free, total = self._driver.mem_get_info()
        return int(free), int(total)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
