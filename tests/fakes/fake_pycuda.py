"""Modules that stand for `pycuda` and `pycuda.driver`, over the GPU acted in `cuda_machine`.

They have the part of PyCUDA that the project uses and no name that PyCUDA lacks (checked against
2026.1's sources, and by a test where PyCUDA can be imported). Rules that PyCUDA enforces only by
warnings or an abort of the process are noted in `machine.wrongs`; the fixture fails on any.
"""

from __future__ import annotations

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
from fakes.cuda_machine import CudaMachine, Lost, Misused, OutOfMemory
from fakes.pycuda_objects import (
    Context,
    Device,
    DeviceAllocation,
    Event,
    Function,
    Module,
    PagelockedHostAllocation,
    Stream,
    handle_of,
)

from mfnet_runtime.cuda.device import CudaDevice


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
        self.stacks: dict[int, list[Context]] = {}  # of contexts, by thread
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

    def stack(self) -> list[Context]:
        """Contexts pushed in this thread."""
        return self.stacks.setdefault(threading.get_ident(), [])

    def context(self) -> Context | None:
        """The one current in this thread."""
        stack = self.stack()
        return stack[-1] if stack else None


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
        Context,
        Device,
        DeviceAllocation,
        Event,
        Function,
        Module,
        PagelockedHostAllocation,
        Stream,
    ):
        names[kind.__name__] = type(kind.__name__, (kind,), {"_fake": fake})

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

    def get_current() -> Context | None:
        stack = fake.stack()
        stack[:] = [context for context in stack if context._valid]
        return fake.context()

    def mem_alloc(size: int) -> Any:
        with fake.calling("cuMemAlloc"):
            allocation = made("DeviceAllocation")
            allocation._allocate(_whole(size))
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

    def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        source, target = _bytes(src), _whole(dest)
        with fake.calling("cuMemcpyHtoDAsync"):
            if not machine.owns(source.ctypes.data):
                source = source.copy()  # pageable memory has been read on return

            def copy() -> None:
                machine.memory(target, source.size)[:] = source

            machine.enqueue(handle_of(stream), copy)

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        target, source = _bytes(dest), _whole(src)
        assert target.flags.writeable
        with fake.calling("cuMemcpyDtoHAsync"):

            def copy() -> None:
                target[:] = machine.memory(source, target.size)

            machine.enqueue(handle_of(stream), copy)

    def memset_d8_async(dest: Any, data: int, size: int, stream: Stream | None = None) -> None:
        target = _whole(dest)
        with fake.calling("cuMemsetD8Async"):

            def fill() -> None:
                machine.memory(target, size)[:] = data

            machine.enqueue(handle_of(stream), fill)

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


def _whole(number: Any) -> int:
    """A pointer or size; as PyCUDA, takes no numpy integer."""
    if type(number) is not int:
        raise TypeError(f"{type(number).__name__} is not an int")
    return number


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
