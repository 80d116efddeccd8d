"""PyCUDA's classes over the GPU of `cuda_machine`; each fake derives its own.

They have only public names that PyCUDA has; the fake's own names begin with an underscore.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from fakes import host_kernels
from fakes.cuda_machine import Lost, Mark, Misused

if TYPE_CHECKING:
    from fakes.fake_pycuda import FakePycuda

NON_BLOCKING, DISABLE_TIMING = 1, 2  # CUDA's flags of streams and of events
MOST_THREADS, MOST_BLOCKS = 1024, 65535  # in a block; in a grid's y and z


class Bound:
    """Base of PyCUDA's classes; `_fake` is set in the derived classes."""

    _fake: FakePycuda


class Device(Bound):
    def __init__(self, ordinal: int) -> None:
        with self._fake.calling("cuDeviceGet", context=False):
            if not 0 <= ordinal < self._fake.gpus:
                raise Misused("invalid device ordinal")

    def name(self) -> str:
        return self._fake.name

    def compute_capability(self) -> tuple[int, int]:
        return self._fake.compute_capability

    def retain_primary_context(self) -> Any:
        with self._fake.calling("cuDevicePrimaryCtxRetain", context=False):
            return self._fake.driver.Context()


class Context(Bound):
    _valid = False

    def __init__(self) -> None:
        self._valid, self._thread = True, threading.get_ident()
        self._fake.live["Context"] += 1

    def push(self) -> None:
        with self._fake.calling("cuCtxPushCurrent", context=False):
            if not self._valid:
                raise Misused("invalid device context")
            self._fake.stack().append(self)

    def detach(self) -> None:
        fake = self._fake
        if not self._valid:
            raise fake.driver.LogicError("context::detach failed: invalid device context")
        if fake.context() is not self and self._thread != threading.get_ident():
            fake.machine.wrongs.append("a context was detached in another thread than its own")
        self._valid = False
        fake.live["Context"] -= 1
        # CUDA leaves it current in the thread, PyCUDA drops it from its stack
        if not fake.machine.lost:
            fake.left_current.append(threading.current_thread())
        fake.driver.Context.get_current()

    def __del__(self) -> None:
        if self._valid and self._fake.machine.lost:
            self._fake.machine.wrongs.append("a context was detached on a lost GPU")


class Owned(Bound):
    """An object whose destructor calls CUDA, in the context in which it was created."""

    _context: Context | None = None

    def _begin(self) -> None:
        self._context = self._fake.context()
        self._fake.live[type(self).__name__] += 1

    def _end(self, destroy: Callable[[], None] = lambda: None) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        fake, kind = self._fake, type(self).__name__
        with fake.machine.lock:
            fake.live[kind] -= 1
            if not context._valid:
                return
            # PyCUDA itself pushes the context in the thread that opened it
            pushed = fake.context() is context or context._thread == threading.get_ident()
            if not pushed or fake.machine.lost:
                where = "on a lost GPU" if pushed else "in a thread without context"
                fake.machine.wrongs.append(f"a {kind} was destroyed {where}")
                return
            try:
                destroy()
            except Lost:
                fake.machine.wrongs.append(f"a {kind} could not be destroyed")

    def __del__(self) -> None:
        self._end()


class Stream(Owned):
    def __init__(self, flags: int = 0) -> None:
        with self._fake.calling("cuStreamCreate"):
            assert flags == NON_BLOCKING, "streams that the default stream blocks are not simulated"
            self._handle = self._fake.machine.open_stream()
            self._begin()

    @property
    def handle(self) -> int:
        return self._handle

    def synchronize(self) -> None:
        with self._fake.calling("cuStreamSynchronize"):
            self._fake.machine.reach(self._fake.machine.record(self._handle))

    def wait_for_event(self, event: Event) -> None:
        with self._fake.calling("cuStreamWaitEvent"):
            if event._mark is not None:
                self._fake.machine.enqueue(self._handle, None, after=event._mark)

    def __del__(self) -> None:
        self._end(lambda: self._fake.machine.close_stream(self._handle))


class Event(Owned):
    def __init__(self, flags: int = 0) -> None:
        with self._fake.calling("cuEventCreate"):
            self._timing = not flags & DISABLE_TIMING
            self._mark: Mark | None = None
            self._begin()

    def record(self, stream: Stream) -> None:
        with self._fake.calling("cuEventRecord"):
            self._mark = self._fake.machine.record(stream._handle)

    def synchronize(self) -> None:
        with self._fake.calling("cuEventSynchronize"):
            if self._mark is not None:
                self._fake.machine.reach(self._mark)

    def time_since(self, event: Event) -> float:
        with self._fake.calling("cuEventElapsedTime"):
            start, end = (both._mark.at if both._mark else None for both in (event, self))
            if start is None or end is None or not (self._timing and event._timing):
                raise Misused("invalid resource handle")
            return float(end - start)


class DeviceAllocation(Owned):
    def __init__(self, size: int) -> None:
        self._pointer = self._fake.machine.allocate(size)
        self._begin()

    def free(self) -> None:
        if self._context is None:
            raise self._fake.driver.LogicError("free failed: invalid resource handle")
        self.__del__()

    def __int__(self) -> int:
        return self._pointer

    def __del__(self) -> None:
        self._end(lambda: self._fake.machine.free(self._pointer))


class PagelockedHostAllocation(DeviceAllocation):
    __array_interface__: dict[str, Any]  # numpy makes this object the base of the array


class Module(Owned):
    def __init__(self, ptx: str) -> None:
        parameter = r"\.entry (\w+)\(\s*\.param \.align 8 \.b8 \w+\[(\d+)\]"
        self._sizes = {name: int(size) for name, size in re.findall(parameter, ptx)}
        self._begin()

    def get_function(self, name: str) -> Any:
        with self._fake.calling("cuModuleGetFunction"):
            if name not in self._sizes:
                raise Misused("named symbol not found")
            return self._fake.driver.Function(self, name)


class Function(Bound):
    def __init__(self, module: Module, name: str) -> None:
        self._module, self._name = module, name  # PyCUDA holds the module too

    def __call__(
        self, *args: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: Stream
    ) -> None:
        if not all(isinstance(arg, np.number | np.void) for arg in args):
            raise TypeError("invalid type on parameter (0-based)")
        packed = b"".join(bytes(memoryview(arg)) for arg in args)
        machine, name = self._fake.machine, self._name
        with self._fake.calling(f"cuLaunchKernel {name}"):
            fits = np.prod(block) <= MOST_THREADS and max(grid[1:]) <= MOST_BLOCKS
            if len(packed) != self._module._sizes[name] or not fits or min(*grid, *block) < 1:
                raise Misused("invalid argument")
            x, y, z = (blocks * side for blocks, side in zip(grid, block, strict=True))
            host_kernels.compiled()
            machine.enqueue(
                stream._handle,
                lambda: host_kernels.run(name, packed, (x, y, z), machine.backwards()),
            )
