"""A GPU, thin over PyCUDA: memory, streams, events, kernels. Knows no networks and no scenes.

Everything happens in the device's primary context, the one TensorRT uses. PyCUDA is imported when
a device is opened, and every call goes through one translation of faults. Pointers are plain ints
and sizes are bytes, as TensorRT takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from math import prod
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.cuda.faults import (
    fault_from_error,
    fault_from_start,
    never_destroyed,
    version_text,
)
from mfnet_runtime.cuda.handles import Buffer, Event, Handle, Module, Pinned, Stream
from mfnet_runtime.errors import DeviceLostError

__all__ = ["Buffer", "CudaDevice", "Event", "Module", "Stream"]

Array = npt.NDArray[Any]

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the default stream's work is not waited for
DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING: makes an event cheaper


class CudaDevice:
    """One GPU in this process. Use it in a `with` block, or `close` it.

    Calls need the context in the calling thread: make them inside `with device.current()`. Freeing
    and closing do that by themselves. After a `DeviceLostError` every further call raises it again
    without asking CUDA, and freeing and closing only forget.

    Args:
        index: Which GPU, counted as CUDA does.

    Raises:
        UsageError: no driver, one too old for PyCUDA, or no such GPU.
        ModuleNotFoundError: PyCUDA is not installed.
        DeviceMemoryError: no room for the context.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = _loaded_driver()
        try:
            self._driver.init()
            device = self._driver.Device(index)
            self.name: str = device.name()
            major, minor = device.compute_capability()
            self.driver = version_text(self._driver.get_driver_version())  # CUDA, as 12.2
        except self._driver.Error as error:
            raise fault_from_start(error) from error
        self.compute_capability: tuple[int, int] = (int(major), int(minor))
        self.cuda = ".".join(map(str, self._driver.get_version()[:2]))  # PyCUDA was built with
        self.handles: dict[int, Handle] = {}  # not yet freed, in the order they were made
        self._lost: str | None = None  # why, once it is
        self._closed = False
        self._context: Any = None
        with self.calling("opening it"):
            self._context = device.retain_primary_context()

    @property
    def lost(self) -> bool:
        """Whether the device failed for good."""
        return self._lost is not None

    @contextmanager
    def calling(self, action: str) -> Iterator[None]:
        """Translate the faults of the CUDA calls made inside.

        Args:
            action: What they are for, as in `copying to the GPU`.

        Raises:
            DeviceMemoryError: out of memory.
            DeviceLostError: the device failed, now or before.
        """
        if self._lost is not None:
            raise DeviceLostError(self._lost)
        try:
            yield
        except self._driver.Error as error:
            fault = self._noted(error, action)
            if fault is error:
                raise
            raise fault from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread; may be nested."""
        with self.calling("entering its context"):
            self._context.push()
        try:
            yield
        finally:
            self._leave()

    def stream(self) -> Stream:
        """A new stream; it waits for no other unless told to."""
        with self.calling("making a stream"):
            return Stream(self, self._driver.Stream(NON_BLOCKING))

    def event(self, timing: bool = False) -> Event:
        """A new event; `timing` lets it take the time too."""
        with self.calling("making an event"):
            return Event(self, self._driver.Event(0 if timing else DISABLE_TIMING))

    def buffer(self, size: int) -> Buffer:
        """Device memory of `size` bytes, 1 or more, its content undefined.

        Raises:
            DeviceMemoryError: not that much is free.
        """
        with self.calling(f"reserving {_mebibytes(size)} on the GPU"):
            return Buffer(self, self._driver.mem_alloc(size), size)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """A page-locked array, 1 element or more: copies of others do not overlap with work.

        Its memory is gone after `unpin` or `close`: neither it nor a view of it may be used then.

        Raises:
            DeviceMemoryError: the machine cannot lock that much.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        with self.calling(f"locking {_mebibytes(size)} of the machine's memory"):
            array: Array = self._driver.pagelocked_empty(tuple(shape), np.dtype(dtype))
            Pinned(self, array.base)
        return array

    def unpin(self, array: Array) -> None:
        """Free an array that `pinned` gave."""
        for held in list(self.handles.values()):
            if held.raw is array.base:
                held.free()

    def upload(self, target: int, source: Array, stream: Stream) -> None:
        """Copy a C-contiguous array to the device, in the order of the stream.

        A pinned array is read when the stream gets there: leave it alone until then.
        """
        with self.calling("copying to the GPU"):
            self._driver.memcpy_htod_async(target, source, stream.raw)

    def download(self, target: Array, source: int, stream: Stream) -> None:
        """Fill a C-contiguous array from the device, in the order of the stream.

        It holds the data once the stream, or an event recorded after this, was waited for.
        """
        with self.calling("copying from the GPU"):
            self._driver.memcpy_dtoh_async(target, source, stream.raw)

    def clear(self, target: int, size: int, stream: Stream) -> None:
        """Set device memory to zero bytes, in the order of the stream."""
        with self.calling("clearing memory"):
            self._driver.memset_d8_async(target, 0, size, stream.raw)

    def kernels(self, ptx: bytes) -> Module:
        """Kernels from PTX, compiled by the driver for this GPU.

        Raises:
            UsageError: the driver does not take this PTX.
        """
        with self.calling("loading kernels"):
            return Module(self, self._driver.module_from_buffer(ptx + b"\0"))

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory free, and in all."""
        with self.calling("asking for free memory"):
            free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        """Free what was not, the newest first, and give the context back; once is enough."""
        if self._closed:
            return
        self._closed = True
        with suppress(DeviceLostError):  # work that nobody waits for may still fail
            with self.current(), self.calling("finishing"):
                self._driver.Context.synchronize()
            for held in reversed(list(self.handles.values())):
                held.free()
            # PyCUDA leaves a context it gives back current in the thread that does so, where it
            # would be in the way of the next; so a thread does it that then ends.
            thread = Thread(target=self._detach, name="mfnet-detach")
            thread.start()
            thread.join()
            # An interrupt may have left it pushed here; PyCUDA drops those given back.
            self._driver.Context.get_current()
        self.handles.clear()

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _noted(self, error: Exception, action: str) -> Exception:
        """The fault to raise; if the device is lost, nothing of it is touched from now on."""
        out_of_memory = isinstance(error, self._driver.MemoryError)
        fault = fault_from_error(error, out_of_memory, f"{self.name}: {action}")
        if isinstance(fault, DeviceLostError):
            self._lost = str(fault)
            never_destroyed(self._context, *(held.raw for held in self.handles.values()))
        return fault

    def _leave(self) -> None:
        """Undo a push, for a lost device too: this only concerns the thread.

        PyCUDA aborts a process that ends with a context still pushed.
        """
        try:
            self._driver.Context.pop()
        except self._driver.Error as error:
            known = self.lost
            fault = self._noted(error, "leaving its context")
            if self.lost:
                with suppress(self._driver.Error):
                    self._context.detach()
                self._driver.Context.get_current()  # PyCUDA drops detached ones from its stack
            if not known:
                raise fault from error

    def _detach(self) -> None:
        with suppress(DeviceLostError), self.calling("giving its context back"):
            self._context.push()
            self._context.detach()


def _loaded_driver() -> Any:
    try:
        return import_module("pycuda.driver")
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # libcuda is missing, or older than PyCUDA was built for
        raise fault_from_start(error) from error


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
