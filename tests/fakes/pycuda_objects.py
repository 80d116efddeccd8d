"""PyCUDA's classes over the GPU acted in `cuda_machine`. Each is bound to its fake by a subclass.

Only public names that PyCUDA has; the fake's own begin with an underscore.
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
    """Root of PyCUDA's classes; `_fake` is bound when the module is made."""

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

    def retain_primary_context(self) -> Context:
        with self._fake.calling("cuDevicePrimaryCtxRetain", context=False):
            context: Context = self._fake.driver.Context.__new__(self._fake.driver.Context)
            context._begin()
            return context


class Context(Bound):
    _valid = False
    _thread: int

    def __init__(self) -> None:
        raise RuntimeError("This class cannot be instantiated from Python")

    def _begin(self) -> None:
        self._valid, self._thread = True, threading.get_ident()
        self._fake.live["Context"] += 1

    def push(self) -> None:
        with self._fake.calling("cuCtxPushCurrent", context=False):
            if not self._valid:
                raise Misused("invalid device context")
            self._fake.stack().append(self)

    @staticmethod
    def pop() -> None:
        raise NotImplementedError

    @staticmethod
    def synchronize() -> None:
        raise NotImplementedError

    @staticmethod
    def get_current() -> Context | None:
        raise NotImplementedError

    def detach(self) -> None:
        fake = self._fake
        if not self._valid:
            raise fake.driver.LogicError("context::detach failed: invalid device context")
        if fake.context() is not self and self._thread != threading.get_ident():
            fake.machine.wrongs.append("a context was given back in a thread it is not of")
        self._valid = False
        fake.live["Context"] -= 1
        # CUDA leaves it current in the thread, PyCUDA drops it from its stack
        if not fake.machine.lost:
            fake.left_current.append(threading.current_thread())
        self.get_current()

    def __del__(self) -> None:
        if self._valid and self._fake.machine.lost:
            self._fake.machine.wrongs.append("a context was given back on a lost GPU")


class Owned(Bound):
    """Something with a destructor that calls CUDA, in the context it was made in."""

    _context: Context | None = None

    def _begin(self) -> None:
        self._context = self._fake.context()
        self._fake.live[type(self).__name__] += 1

    def _end(self, destroy: Callable[[], None]) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        fake, kind = self._fake, type(self).__name__
        with fake.machine.lock:
            fake.live[kind] -= 1
            if not context._valid:
                return
            # In the thread it was opened in, PyCUDA pushes the context by itself
            pushed = fake.context() is context or context._thread == threading.get_ident()
            if not pushed:
                fake.machine.wrongs.append(f"a {kind} was destroyed in a thread without context")
                return
            if fake.machine.lost:
                fake.machine.wrongs.append(f"a {kind} was destroyed on a lost GPU")
                return
            try:
                destroy()
            except Lost:
                fake.machine.wrongs.append(f"a {kind} could not be destroyed")


class Stream(Owned):
    def __init__(self, flags: int = 0) -> None:
        with self._fake.calling("cuStreamCreate"):
            assert flags == NON_BLOCKING, "the fake acts no streams that the default stream stops"
            self._handle = self._fake.machine.open_stream()
            self._begin()

    @property
    def handle(self) -> int:
        return self._handle

    def synchronize(self) -> None:
        with self._fake.calling("cuStreamSynchronize"):
            self._fake.machine.synchronize(self._handle)

    def wait_for_event(self, event: Event) -> None:
        with self._fake.calling("cuStreamWaitEvent"):
            if event._mark is not None:
                self._fake.machine.wait(self._handle, event._mark)

    def __del__(self) -> None:
        self._end(lambda: self._fake.machine.close_stream(self._handle))


class Event(Owned):
    def __init__(self, flags: int = 0) -> None:
        with self._fake.calling("cuEventCreate"):
            self._timing = not flags & DISABLE_TIMING
            self._mark: Mark | None = None
            self._begin()

    def record(self, stream: Stream | None = None) -> Event:
        with self._fake.calling("cuEventRecord"):
            self._mark = self._fake.machine.record(handle_of(stream))
        return self

    def synchronize(self) -> Event:
        with self._fake.calling("cuEventSynchronize"):
            if self._mark is not None:
                self._fake.machine.reach(self._mark)
        return self

    def time_since(self, event: Event) -> float:
        with self._fake.calling("cuEventElapsedTime"):
            ends = [both._mark.at if both._mark else None for both in (event, self)]
            if None in ends or not (self._timing and event._timing):
                raise Misused("invalid resource handle")
            start, end = ends
            assert start is not None
            assert end is not None
            return float(end - start)

    def __del__(self) -> None:
        self._end(lambda: None)


class Allocation(Owned):
    """Device or page-locked memory."""

    _pointer: int

    def __init__(self) -> None:
        raise RuntimeError("This class cannot be instantiated from Python")

    def _allocate(self, size: int) -> None:
        self._pointer = self._fake.machine.allocate(size)
        self._begin()

    def free(self) -> None:
        if self._context is None:
            raise self._fake.driver.LogicError("free failed: invalid resource handle")
        self._end(lambda: self._fake.machine.free(self._pointer))

    def __del__(self) -> None:
        self._end(lambda: self._fake.machine.free(self._pointer))


class DeviceAllocation(Allocation):
    def __int__(self) -> int:
        return self._pointer

    def __index__(self) -> int:
        return self._pointer


class PagelockedHostAllocation(Allocation):
    __array_interface__: dict[str, Any]  # numpy makes this object the base of the array


class Module(Owned):
    def __init__(self) -> None:
        raise RuntimeError("This class cannot be instantiated from Python")

    def _load(self, ptx: str) -> None:
        parameter = r"\.entry (\w+)\(\s*\.param \.align 8 \.b8 \w+\[(\d+)\]"
        self._sizes = {name: int(size) for name, size in re.findall(parameter, ptx)}
        self._begin()

    def get_function(self, name: str) -> Function:
        with self._fake.calling("cuModuleGetFunction"):
            if name not in self._sizes:
                raise Misused("named symbol not found")
        function: Function = self._fake.driver.Function.__new__(self._fake.driver.Function)
        function._module, function._name = self, name
        return function

    def __del__(self) -> None:
        self._end(lambda: None)


class Function(Bound):
    _module: Module  # held, as by PyCUDA
    _name: str

    def __init__(self) -> None:
        raise RuntimeError("This class cannot be instantiated from Python")

    def __call__(
        self,
        *args: Any,
        grid: tuple[int, ...] = (1, 1),
        block: tuple[int, ...],
        stream: Stream | None = None,
    ) -> None:
        for index, arg in enumerate(args):
            if not isinstance(arg, np.number | np.void):
                raise TypeError(f"invalid type on parameter #{index} (0-based)")
        packed = b"".join(bytes(memoryview(arg)) for arg in args)
        machine, name = self._fake.machine, self._name
        with self._fake.calling(f"cuLaunchKernel {name}"):
            x, y, z = grid
            fits = np.prod(block) <= MOST_THREADS and max(y, z) <= MOST_BLOCKS
            if len(packed) != self._module._sizes[name] or not fits or min(*grid, *block) < 1:
                raise Misused("invalid argument")
            threads = (x * block[0], y * block[1], z * block[2])
            host_kernels.compiled()
            machine.enqueue(
                handle_of(stream),
                lambda: host_kernels.run(name, packed, threads, machine.backwards()),
            )


def handle_of(stream: Stream | None) -> int:
    assert stream is not None, "the fake acts no default stream"
    return stream._handle
