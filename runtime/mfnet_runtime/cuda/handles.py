"""What a device gives out: streams, events, buffers, kernels. Each is freed once, or never.

They call CUDA only through their device's translation of faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfnet_runtime.cuda.device import CudaDevice

Size3 = tuple[int, int, int]  # x, y, z


class Handle:
    """Something of a device. Freed by itself, or by closing the device.

    Args:
        device: Whose it is.
        raw: PyCUDA's object; none other may hold it.
    """

    def __init__(self, device: CudaDevice, raw: Any) -> None:
        self._device = device
        self.raw = raw
        device.handles[id(self)] = self

    def free(self) -> None:
        """Give it back; once is enough. Only forgets if the device is lost."""
        if id(self) not in self._device.handles or self._device.lost:
            return
        with self._device.current():
            self._destroy()
        del self._device.handles[id(self)]  # not before: what fails by now is never destroyed

    def _destroy(self) -> None:
        self.raw = None  # PyCUDA destroys with the last reference, and warns without the context


class Stream(Handle):
    """Work that runs in the order it was enqueued."""

    @property
    def handle(self) -> int:
        """CUDA's handle, as TensorRT takes it."""
        return int(self.raw.handle)

    def wait(self, event: Event) -> None:
        """Let later work of this stream wait until the event has happened; does not block."""
        with self._device.calling("making a stream wait"):
            self.raw.wait_for_event(event.raw)

    def synchronize(self) -> None:
        """Block until all work enqueued so far is done."""
        with self._device.calling("waiting for a stream"):
            self.raw.synchronize()


class Event(Handle):
    """A point in a stream that others can wait for."""

    def record(self, stream: Stream) -> None:
        """Happen when the work enqueued so far is done; replaces what was recorded before."""
        with self._device.calling("recording an event"):
            self.raw.record(stream.raw)

    def synchronize(self) -> None:
        """Block until it has happened."""
        with self._device.calling("waiting for an event"):
            self.raw.synchronize()

    def milliseconds_since(self, start: Event) -> float:
        """Device time from another event; both made with timing, and waited for."""
        with self._device.calling("reading the time"):
            return float(self.raw.time_since(start.raw))


class _Memory(Handle):
    _freed = False

    def _destroy(self) -> None:
        if not self._freed:
            self._freed = True  # before it is: after an interrupt in there `free` comes again
            self.raw.free()
        super()._destroy()


class Buffer(_Memory):
    """Device memory."""

    def __init__(self, device: CudaDevice, raw: Any, size: int) -> None:
        super().__init__(device, raw)
        self.pointer = int(raw)
        self.size = size  # bytes


class Pinned(_Memory):
    """Page-locked memory of the host."""


class Module(Handle):
    """Kernels compiled for the device."""

    def launch(
        self, name: str, grid: Size3, block: Size3, args: Sequence[Any], stream: Stream
    ) -> None:
        """Enqueue one kernel.

        Args:
            name: Its name in the PTX.
            grid: Blocks.
            block: Threads a block.
            args: numpy scalars, structured ones too, of exactly the kernel's types.
            stream: In whose order it runs.
        """
        with self._device.calling(f"running {name}"):
            self.raw.get_function(name)(*args, grid=grid, block=block, stream=stream.raw)
