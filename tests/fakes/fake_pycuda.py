"""Modules that stand for `pycuda` and `pycuda.driver`, over the GPU acted in `cuda_machine`.

They have the part of PyCUDA that the project uses and no name that PyCUDA lacks (checked against
2026.1's sources, and by a test where PyCUDA can be imported). Rules that PyCUDA enforces only by
warnings or an abort of the process are noted in `machine.wrongs`; the fixture fails on any.
"""

from __future__ import annotations

import operator
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fakes import host_kernels
from fakes.cuda_machine import CudaMachine, Lost, Mark, Misused, OutOfMemory

from mfnet_runtime.cuda.device import CudaDevice

NON_BLOCKING, DISABLE_TIMING = 1, 2  # CUDA's flags of streams and of events
MOST_THREADS, MOST_BLOCKS = 1024, 65535  # in a block; in a grid's y and z


class FakePycuda:
    """PyCUDA's modules over one acted GPU, and what a test does with them.

    Args:
        seed: Of the order in which work is done.
        gpus: How many there are.
        name: Of the GPU.
        compute_capability: Of the GPU.
        driver: CUDA version the driver is for, 12020 for 12.2.
        memory: Bytes of device memory.

    Attributes:
        machine: The acted GPU: faults to inject, calls recorded.
        refuse_module: CUDA's sentence with which modules are refused.
    """

    def __init__(
        self,
        seed: int = 0,
        gpus: int = 1,
        name: str = "NVIDIA Fake",
        compute_capability: tuple[int, int] = (9, 0),
        driver: int = 12020,
        memory: int = 8 << 30,
    ) -> None:
        self.machine = CudaMachine(seed)
        self.refuse_module: str | None = None
        self.gpus, self.name, self.driver_version, self.memory = gpus, name, driver, memory
        self.compute_capability = compute_capability
        self.initialized = False
        self.live: Counter[str] = Counter()  # objects not destroyed, by class
        self.stacks: dict[int, list[_Context]] = {}  # of contexts, by thread
        self.left_current: list[threading.Thread] = []  # in which a context ended
        self.driver = _driver_module(self)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakePycuda:
        """Make `import pycuda.driver` find it until the test ends."""
        package = ModuleType("pycuda")
        package.__spec__ = ModuleSpec("pycuda", None, is_package=True)
        package.__path__ = []
        package.driver = self.driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.driver)
        return self

    def enqueue(self, stream_handle: int, work: Callable[[], object]) -> None:
        """Add work to a stream, as an engine would that was given its handle.

        Raises:
            pycuda.driver.Error: the GPU is lost, the context not current, or no such stream.
        """
        with self.calling("enqueue"):
            self.machine.enqueue(stream_handle, work)

    def check(self) -> None:
        """Fail on anything that real PyCUDA would have warned of or aborted for."""
        wrongs = list(self.machine.wrongs)
        if any(self.stacks.values()):
            wrongs.append("a context was left on a thread's stack: PyCUDA aborts the process")
        if any(thread.is_alive() for thread in self.left_current):
            wrongs.append("a thread goes on with a context that was given back")
        assert not wrongs, "; ".join(wrongs)

    @contextmanager
    def calling(self, name: str, context: bool = True) -> Iterator[None]:
        """One call of CUDA: counted, in a current context, faults as PyCUDA's."""
        with self.machine.lock:
            try:
                if not self.initialized:
                    raise Misused("initialization error")
                if context and self.context() is None:
                    raise Misused("invalid device context")
                self.machine.call(name)
                yield
            except OutOfMemory as fault:
                raise self.driver.MemoryError(f"{name} failed: {fault}") from None
            except Lost as fault:
                launch = "launch failure" in str(fault)
                kind = self.driver.LaunchError if launch else self.driver.LogicError
                raise kind(f"{name} failed: {fault}") from None
            except Misused as fault:
                raise self.driver.LogicError(f"{name} failed: {fault}") from None

    def stack(self) -> list[_Context]:
        """Contexts pushed in this thread."""
        return self.stacks.setdefault(threading.get_ident(), [])

    def context(self) -> _Context | None:
        """The one current in this thread."""
        stack = self.stack()
        return stack[-1] if stack else None


class _Bound:
    """Root of PyCUDA's classes; `_fake` is bound when the module is made."""

    _fake: FakePycuda


class _Device(_Bound):
    def __init__(self, ordinal: int) -> None:
        with self._fake.calling("cuDeviceGet", context=False):
            if not 0 <= ordinal < self._fake.gpus:
                raise Misused("invalid device ordinal")

    def name(self) -> str:
        return self._fake.name

    def compute_capability(self) -> tuple[int, int]:
        return self._fake.compute_capability

    def retain_primary_context(self) -> _Context:
        with self._fake.calling("cuDevicePrimaryCtxRetain", context=False):
            context: _Context = self._fake.driver.Context.__new__(self._fake.driver.Context)
            context._begin()
            return context


class _Context(_Bound):
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
    def get_current() -> _Context | None:
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


class _Owned(_Bound):
    """Something with a destructor that calls CUDA, in the context it was made in."""

    _context: _Context | None = None

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


class _Stream(_Owned):
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

    def wait_for_event(self, event: _Event) -> None:
        with self._fake.calling("cuStreamWaitEvent"):
            if event._mark is not None:
                self._fake.machine.wait(self._handle, event._mark)

    def __del__(self) -> None:
        self._end(lambda: self._fake.machine.close_stream(self._handle))


class _Event(_Owned):
    def __init__(self, flags: int = 0) -> None:
        with self._fake.calling("cuEventCreate"):
            self._timing = not flags & DISABLE_TIMING
            self._mark: Mark | None = None
            self._begin()

    def record(self, stream: _Stream | None = None) -> _Event:
        with self._fake.calling("cuEventRecord"):
            self._mark = self._fake.machine.record(_handle(stream))
        return self

    def synchronize(self) -> _Event:
        with self._fake.calling("cuEventSynchronize"):
            if self._mark is not None:
                self._fake.machine.reach(self._mark)
        return self

    def time_since(self, event: _Event) -> float:
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


class _Allocation(_Owned):
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


class _DeviceAllocation(_Allocation):
    def __int__(self) -> int:
        return self._pointer

    def __index__(self) -> int:
        return self._pointer


class _PagelockedHostAllocation(_Allocation):
    __array_interface__: dict[str, Any]  # numpy makes this object the base of the array


class _Module(_Owned):
    def __init__(self) -> None:
        raise RuntimeError("This class cannot be instantiated from Python")

    def _load(self, ptx: str) -> None:
        parameter = r"\.entry (\w+)\(\s*\.param \.align 8 \.b8 \w+\[(\d+)\]"
        self._sizes = {name: int(size) for name, size in re.findall(parameter, ptx)}
        self._begin()

    def get_function(self, name: str) -> _Function:
        with self._fake.calling("cuModuleGetFunction"):
            if name not in self._sizes:
                raise Misused("named symbol not found")
        function: _Function = self._fake.driver.Function.__new__(self._fake.driver.Function)
        function._module, function._name = self, name
        return function

    def __del__(self) -> None:
        self._end(lambda: None)


class _Function(_Bound):
    _module: _Module  # held, as by PyCUDA
    _name: str

    def __init__(self) -> None:
        raise RuntimeError("This class cannot be instantiated from Python")

    def __call__(
        self,
        *args: Any,
        grid: tuple[int, ...] = (1, 1),
        block: tuple[int, ...],
        stream: _Stream | None = None,
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
                _handle(stream),
                lambda: host_kernels.run(name, packed, threads, machine.backwards()),
            )


def _handle(stream: _Stream | None) -> int:
    assert stream is not None, "the fake acts no default stream"
    return stream._handle


def _driver_module(fake: FakePycuda) -> ModuleType:
    """`pycuda.driver` over a fake."""
    machine = fake.machine
    module = ModuleType("pycuda.driver")
    module.__spec__ = ModuleSpec("pycuda.driver", None)
    error = type("Error", (Exception,), {"__module__": "pycuda._driver"})
    names: dict[str, Any] = {"Error": error}
    for name in ("MemoryError", "LogicError", "LaunchError", "RuntimeError"):
        names[name] = type(name, (error,), {"__module__": "pycuda._driver"})
    for kind in (
        _Context,
        _Device,
        _DeviceAllocation,
        _Event,
        _Function,
        _Module,
        _PagelockedHostAllocation,
        _Stream,
    ):
        name = kind.__name__[1:]
        names[name] = type(name, (kind,), {"_fake": fake})

    def made(name: str) -> Any:
        return names[name].__new__(names[name])

    def init(flags: int = 0) -> None:
        fake.initialized = True
        if fake.gpus < 1:
            raise names["RuntimeError"]("cuInit failed: no CUDA-capable device is detected")

    def pop() -> None:
        stack = fake.stack()
        if not stack:
            raise names["LogicError"]("context::pop failed: invalid device context")
        if not machine.lost:
            with fake.calling("cuCtxPopCurrent"):
                stack.pop()
        elif machine.pop_fails:
            raise names["LogicError"]("cuCtxPopCurrent failed: unspecified launch failure")
        else:
            stack.pop()

    def synchronize() -> None:
        with fake.calling("cuCtxSynchronize"):
            machine.finish()

    def get_current() -> _Context | None:
        stack = fake.stack()
        stack[:] = [context for context in stack if context._valid]
        return fake.context()

    def mem_alloc(size: int) -> Any:
        with fake.calling("cuMemAlloc"):
            allocation = made("DeviceAllocation")
            allocation._allocate(operator.index(size))
            return allocation

    def pagelocked_empty(
        shape: int | Sequence[int], dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> Any:
        kind = np.dtype(dtype)
        sides = (shape,) if isinstance(shape, int) else tuple(shape)
        with fake.calling("cuMemHostAlloc"):
            allocation = made("PagelockedHostAllocation")
            allocation._allocate(int(np.prod(sides)) * kind.itemsize)
            allocation.__array_interface__ = {
                "version": 3,
                "shape": sides,
                "typestr": kind.str,
                "data": (allocation._pointer, False),
            }
            return np.asarray(allocation)

    def memcpy_htod_async(dest: Any, src: Any, stream: _Stream | None = None) -> None:
        source, target = _bytes(src), operator.index(dest)
        with fake.calling("cuMemcpyHtoDAsync"):
            if not machine.owns(source.ctypes.data):
                source = source.copy()  # pageable memory has been read on return

            def copy() -> None:
                machine.memory(target, source.size)[:] = source

            machine.enqueue(_handle(stream), copy)

    def memcpy_dtoh_async(dest: Any, src: Any, stream: _Stream | None = None) -> None:
        target, source = _bytes(dest), operator.index(src)
        assert target.flags.writeable
        with fake.calling("cuMemcpyDtoHAsync"):

            def copy() -> None:
                target[:] = machine.memory(source, target.size)

            machine.enqueue(_handle(stream), copy)

    def memset_d8_async(dest: Any, data: int, size: int, stream: _Stream | None = None) -> None:
        target = operator.index(dest)
        with fake.calling("cuMemsetD8Async"):

            def fill() -> None:
                machine.memory(target, size)[:] = data

            machine.enqueue(_handle(stream), fill)

    def module_from_buffer(buffer: bytes) -> Any:
        with fake.calling("cuModuleLoadDataEx"):
            if fake.refuse_module is not None:
                raise Misused(f"{fake.refuse_module} - ")
            if b"\n.version" not in buffer or not buffer.endswith(b"\0"):
                raise Misused("device kernel image is invalid - ")
            loaded = made("Module")
            loaded._load(buffer.decode())
            return loaded

    def mem_get_info() -> tuple[int, int]:
        with fake.calling("cuMemGetInfo"):
            return fake.memory - machine.held(), fake.memory

    names["Context"].pop = staticmethod(pop)
    names["Context"].synchronize = staticmethod(synchronize)
    names["Context"].get_current = staticmethod(get_current)
    for function in (
        init,
        mem_alloc,
        mem_get_info,
        memcpy_dtoh_async,
        memcpy_htod_async,
        memset_d8_async,
        module_from_buffer,
        pagelocked_empty,
    ):
        names[function.__name__] = function
    names["get_version"] = lambda: (12, 6, 0)
    names["get_driver_version"] = lambda: fake.driver_version
    vars(module).update(names)
    return module


def _bytes(array: Any) -> Any:
    """Its memory, without a copy; as PyCUDA, refuses what is not contiguous."""
    view = memoryview(array)
    if not view.contiguous:
        raise ValueError("ndarray is not contiguous")
    return np.asarray(array).reshape(-1, order="A").view(np.uint8)


@contextmanager
def fake_device(**options: Any) -> Iterator[tuple[CudaDevice, FakePycuda]]:
    """An open device on a fake, its context current; fails on anything PyCUDA would punish."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake = FakePycuda(**options).install(monkeypatch)
        with CudaDevice() as device, device.current():
            yield device, fake
        fake.check()
        assert not +fake.live
