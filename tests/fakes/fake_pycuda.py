"""Stand-ins for `pycuda` and `pycuda.driver` over the simulated GPU of `cuda_machine`.

They have the part of PyCUDA that the project uses and no name that PyCUDA lacks (a test compares
them where PyCUDA can be imported). What PyCUDA punishes with a warning or an abort of the process
is noted in `machine.wrongs`; the fixture fails on any.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fakes import pycuda_objects
from fakes.cuda_machine import CudaMachine, Lost, Misused, OutOfMemory
from fakes.pycuda_objects import Bound, Context, Stream

from mfnet_runtime.cuda.device import CudaDevice


class FakePycuda:
    """PyCUDA's modules over one simulated GPU.

    Args:
        seed: Decides the order of work.
        gpus: Number of GPUs.
        name: Name of the GPU.
        compute_capability: Compute capability of the GPU.
        driver: CUDA version of the driver, 12020 for 12.2.
        memory: Bytes of device memory.

    Attributes:
        machine: The simulated GPU: faults to inject, calls recorded.
        refuse_module: CUDA's message with which modules are refused.
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
        """Add work to a stream, as an engine does that was given its handle.

        Raises:
            pycuda.driver.Error: the GPU is lost, the context not current, or no such stream.
        """
        with self.calling("enqueue"):
            self.machine.enqueue(stream_handle, work)

    def check(self) -> None:
        """Fail on anything that PyCUDA would have warned about or aborted for."""
        wrongs = list(self.machine.wrongs)
        if any(self.stacks.values()):
            wrongs.append("a context was left on a thread's stack: PyCUDA aborts the process")
        if any(thread.is_alive() for thread in self.left_current):
            wrongs.append("a thread goes on with a context that was detached")
        assert not wrongs, "; ".join(wrongs)

    @contextmanager
    def calling(self, name: str, context: bool = True) -> Iterator[None]:
        """Make one call of CUDA: count it, require a current context, translate faults."""
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
            except (Lost, Misused) as fault:
                launch = "launch failure" in str(fault)
                kind = self.driver.LaunchError if launch else self.driver.LogicError
                raise kind(f"{name} failed: {fault}") from None

    def stack(self) -> list[Context]:
        """Return the contexts pushed in this thread."""
        return self.stacks.setdefault(threading.get_ident(), [])

    def context(self) -> Context | None:
        """Return the context current in this thread."""
        stack = self.stack()
        return stack[-1] if stack else None


def _driver_module(fake: FakePycuda) -> ModuleType:
    """Make `pycuda.driver` for a fake."""
    machine = fake.machine
    module = ModuleType("pycuda.driver")
    module.__spec__ = ModuleSpec("pycuda.driver", None)
    error = type("Error", (Exception,), {"__module__": "pycuda._driver"})
    names: dict[str, Any] = {"Error": error}
    for name in ("MemoryError", "LogicError", "LaunchError", "RuntimeError"):
        names[name] = type(name, (error,), {"__module__": "pycuda._driver"})
    for name, kind in vars(pycuda_objects).items():
        if isinstance(kind, type) and issubclass(kind, Bound) and name not in ("Bound", "Owned"):
            names[name] = type(name, (kind,), {"_fake": fake})

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
            return names["DeviceAllocation"](_whole(size))

    def pagelocked_empty(shape: tuple[int, ...], dtype: Any) -> Any:
        kind = np.dtype(dtype)
        with fake.calling("cuMemHostAlloc"):
            allocation = names["PagelockedHostAllocation"](int(np.prod(shape)) * kind.itemsize)
            allocation.__array_interface__ = {
                "version": 3,
                "shape": shape,
                "typestr": kind.str,
                "data": (allocation._pointer, False),
            }
            return np.asarray(allocation)

    def memcpy_htod_async(dest: Any, src: Any, stream: Stream) -> None:
        source, target = _bytes(src), _whole(dest)
        with fake.calling("cuMemcpyHtoDAsync"):
            if not machine.owns(source.ctypes.data):
                source = source.copy()  # pageable memory has been read on return

            def copy() -> None:
                machine.memory(target, source.size)[:] = source

            machine.enqueue(stream._handle, copy)

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream) -> None:
        target, source = _bytes(dest), _whole(src)
        assert target.flags.writeable
        with fake.calling("cuMemcpyDtoHAsync"):

            def copy() -> None:
                target[:] = machine.memory(source, target.size)

            machine.enqueue(stream._handle, copy)

    def memset_d8_async(dest: Any, data: int, size: int, stream: Stream) -> None:
        target = _whole(dest)
        with fake.calling("cuMemsetD8Async"):
            machine.enqueue(stream._handle, lambda: machine.memory(target, size).fill(data))

    def module_from_buffer(buffer: bytes) -> Any:
        with fake.calling("cuModuleLoadDataEx"):
            if fake.refuse_module is not None:
                raise Misused(f"{fake.refuse_module} - ")
            if b"\n.version" not in buffer or not buffer.endswith(b"\0"):
                raise Misused("device kernel image is invalid - ")
            return names["Module"](buffer.decode())

    def mem_get_info() -> tuple[int, int]:
        with fake.calling("cuMemGetInfo"):
            return fake.memory - machine.held(), fake.memory

    for function in (pop, synchronize, get_current):
        setattr(names["Context"], function.__name__, staticmethod(function))
    names |= {
        "init": init,
        "mem_alloc": mem_alloc,
        "mem_get_info": mem_get_info,
        "memcpy_dtoh_async": memcpy_dtoh_async,
        "memcpy_htod_async": memcpy_htod_async,
        "memset_d8_async": memset_d8_async,
        "module_from_buffer": module_from_buffer,
        "pagelocked_empty": pagelocked_empty,
        "get_version": lambda: (12, 6, 0),
        "get_driver_version": lambda: fake.driver_version,
    }
    vars(module).update(names)
    return module


def _whole(number: Any) -> int:
    """Require a plain integer, as PyCUDA does for pointers and sizes."""
    if type(number) is not int:
        raise TypeError(f"{type(number).__name__} is not an int")
    return number


def _bytes(array: Any) -> Any:
    """View an array as bytes; refuse what is not contiguous, as PyCUDA does."""
    view = memoryview(array)
    if not view.contiguous:
        raise ValueError("ndarray is not contiguous")
    return np.asarray(array).reshape(-1, order="A").view(np.uint8)


@contextmanager
def fake_device(**options: Any) -> Iterator[tuple[CudaDevice, FakePycuda]]:
    """Open a device on a fake, its context current; fail on what PyCUDA would punish."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake = FakePycuda(**options).install(monkeypatch)
        with CudaDevice() as device, device.current():
            yield device, fake
        fake.check()
        assert not +fake.live
