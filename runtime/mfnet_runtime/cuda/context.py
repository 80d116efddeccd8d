"""The primary CUDA context of a GPU: fault translation, and the handles that must be freed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from threading import Thread
from typing import Any

from mfnet_runtime.cuda.faults import (
    fault_from_error,
    fault_from_start,
    never_destroyed,
    version_text,
)
from mfnet_runtime.errors import DeviceLostError


class CudaContext:
    """The primary context of a GPU, which TensorRT uses too. Use it in a `with` block.

    Calls need the context in the calling thread: make them inside `with context.current()`.
    Freeing and closing do that themselves. After a `DeviceLostError` every further call raises it
    again without asking CUDA, and freeing and closing only forget.

    Args:
        index: CUDA's number of the GPU.

    Raises:
        UsageError: no driver, a driver too old for PyCUDA, or no such GPU.
        ModuleNotFoundError: PyCUDA is not installed.
        DeviceMemoryError: no memory for the context.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = _load_driver()
        try:
            self._driver.init()
            device = self._driver.Device(index)
            self.name: str = device.name()
            major, minor = device.compute_capability()
            self.driver = version_text(self._driver.get_driver_version())  # CUDA, as 12.2
        except self._driver.Error as error:
            raise fault_from_start(error) from error
        self.compute_capability: tuple[int, int] = (int(major), int(minor))
        self.cuda = ".".join(map(str, self._driver.get_version()[:2]))  # that PyCUDA was built with
        self.handles: dict[int, Handle] = {}  # not yet freed, oldest first
        self._lost: str | None = None  # the message, once the device is lost
        self._closed = False
        self._context: Any = None
        with self.calling("opening it"):
            self._context = device.retain_primary_context()

    @property
    def lost(self) -> bool:
        """True once the device failed for good."""
        return self._lost is not None

    @contextmanager
    def calling(self, action: str) -> Iterator[None]:
        """Translate the faults of the CUDA calls made inside.

        Args:
            action: What the calls do, for messages: `copying to the GPU`.

        Raises:
            DeviceMemoryError: out of memory.
            DeviceLostError: the device failed, now or before.
        """
        if self._lost is not None:
            raise DeviceLostError(self._lost)
        try:
            yield
        except self._driver.Error as error:
            fault = self._note(error, action)
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

    def close(self) -> None:
        """Free all handles, newest first, and release the context; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        with suppress(DeviceLostError):  # work that nobody waited for may still fail
            with self.current(), self.calling("finishing"):
                self._driver.Context.synchronize()
            for handle in reversed(list(self.handles.values())):
                handle.free()
            # PyCUDA leaves a detached context current in its thread, in the way of the next one:
            # detach in a thread that ends.
            thread = Thread(target=self._detach, name="mfnet-detach")
            thread.start()
            thread.join()
            # An interrupt may have left the context pushed here; this makes PyCUDA drop it.
            self._driver.Context.get_current()
        self.handles.clear()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _note(self, error: Exception, action: str) -> Exception:
        """Return the fault to raise; if the device is lost, keep its objects from destruction."""
        out_of_memory = isinstance(error, self._driver.MemoryError)
        fault = fault_from_error(error, out_of_memory, f"{self.name}: {action}")
        if isinstance(fault, DeviceLostError):
            self._lost = str(fault)
            never_destroyed(self._context, *(handle.raw for handle in self.handles.values()))
        return fault

    def _leave(self) -> None:
        """Pop the context, of a lost device too: PyCUDA aborts a process that ends without."""
        try:
            self._driver.Context.pop()
        except self._driver.Error as error:
            known = self.lost
            fault = self._note(error, "leaving its context")
            if self.lost:
                with suppress(self._driver.Error):
                    self._context.detach()
                self._driver.Context.get_current()  # PyCUDA drops detached contexts from its stack
            if not known:
                raise fault from error

    def _detach(self) -> None:
        with suppress(DeviceLostError), self.calling("releasing its context"):
            self._context.push()
            self._context.detach()


class Handle:
    """An object in a context, freed on its own or when the context closes.

    Args:
        context: Its context.
        raw: The PyCUDA object; nothing else may hold a reference.
    """

    def __init__(self, context: CudaContext, raw: Any) -> None:
        self._context = context
        self.raw = raw
        context.handles[id(self)] = self

    def free(self) -> None:
        """Free the object once; only forget it if the device is lost."""
        if id(self) not in self._context.handles or self._context.lost:
            return
        with self._context.current():
            self._destroy()
        del self._context.handles[id(self)]  # afterwards: a failure until here never destroys it

    def _destroy(self) -> None:
        self.raw = None  # PyCUDA destroys on the last reference, and warns outside the context


def _load_driver() -> Any:
    try:
        return import_module("pycuda.driver")
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # libcuda is missing, or older than PyCUDA was built for
        raise fault_from_start(error) from error
