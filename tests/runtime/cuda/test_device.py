"""A GPU through PyCUDA: contexts, freeing, faults; on a simulated GPU."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.abc import MetaPathFinder
from typing import Any

import numpy as np
import pytest
from fakes.fake_pycuda import FakePycuda

from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.cuda.kernels import Kernels, Sums
from mfnet_runtime.errors import (
    DeviceLostError,
    DeviceMemoryError,
    MFNetError,
    UsageError,
    missing_package,
)


def in_thread(work: Callable[[], Any]) -> None:
    """Run in another thread; what it raises is raised here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def use(device: CudaDevice) -> None:
    """Use every kind of object, and keep most until the device is closed."""
    with device.current():
        copies, work = device.stream(), device.stream()
        start, copied = device.event(timing=True), device.event(timing=True)
        source, target = device.pinned((3, 100), np.float32), device.pinned((3, 100), np.float32)
        memory = device.buffer(source.nbytes)
        source[:] = np.arange(300, dtype=np.float32).reshape(3, 100)
        start.record(copies)
        device.upload(memory.pointer, source, copies)
        copied.record(copies)
        work.wait(copied)
        device.clear(memory.pointer + 400, 400, work)
        device.download(target, memory.pointer, work)
        work.synchronize()
        assert copied.milliseconds_since(start) > 0
        kernels = Kernels(device, 32, np.float16)
        sums = Sums(memory.pointer, classes=3, slots=1, height=1, width=2)
        kernels.finish(sums, memory.pointer, 1, range(1), memory.pointer, 0, memory.pointer, work)
        work.synchronize()
        in_thread(device.event().free)
    np.testing.assert_array_equal(target[1], 0)
    np.testing.assert_array_equal(target[[0, 2]], source[[0, 2]])


def test_name_versions_and_memory(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        assert (device.name, device.compute_capability) == ("NVIDIA Fake", (9, 0))
        assert (device.driver, device.cuda) == ("12.2", "12.6")
        free, total = device.memory()
        device.buffer(1 << 20)
        assert device.memory() == (free - (1 << 20), total)


def test_closing_frees_everything_as_often_as_it_is_opened(fake: FakePycuda) -> None:
    for _ in range(3):
        with CudaDevice() as device:
            use(device)
            assert +fake.live
        assert not +fake.live
        device.close()  # a second time
    assert fake.machine.held() == 0


def test_the_newest_is_freed_first(fake: FakePycuda, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    with CudaDevice() as device:
        with device.current():
            pointers = [device.buffer(64).pointer for _ in range(3)]
        monkeypatch.setattr(fake.machine, "free", freed.append)
    assert freed == pointers[::-1]


@pytest.mark.parametrize("run", [in_thread, lambda work: work()])
def test_freeing_twice_and_in_any_thread(fake: FakePycuda, run: Callable[..., None]) -> None:
    """In another thread PyCUDA only warns, and leaks, unless the context is pushed first."""
    with CudaDevice() as device:
        with device.current():
            array = device.pinned((4,), np.uint8)
            handles = device.buffer(64), device.stream(), device.event()
        for free in (*(handle.free for handle in handles), lambda: device.unpin(array)):
            run(free)
            run(free)
        assert dict(+fake.live) == {"Context": 1}


def test_closing_in_another_thread(fake: FakePycuda) -> None:
    device = CudaDevice()
    use(device)
    in_thread(device.close)
    assert not +fake.live


def test_a_context_belongs_to_the_thread_that_entered_it(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():

        def outside() -> None:
            with pytest.raises(fake.driver.LogicError, match="invalid device context"):
                device.buffer(64)  # a bug, not the user's error
            with device.current(), device.current():
                device.buffer(64)
            assert not fake.stack()

        in_thread(outside)


def test_an_interrupt_while_the_context_is_entered_leaves_none_pushed(fake: FakePycuda) -> None:
    with CudaDevice() as device, pytest.MonkeyPatch.context() as patched:
        push = device._context.push

        def interrupted() -> None:
            patched.undo()
            push()
            raise KeyboardInterrupt

        patched.setattr(device._context, "push", interrupted)
        with pytest.raises(KeyboardInterrupt), device.current():
            pass
    fake.check()


def test_an_interrupt_while_memory_is_freed_does_not_free_it_twice(fake: FakePycuda) -> None:
    with CudaDevice() as device, pytest.MonkeyPatch.context() as patched:
        with device.current():
            memory = device.buffer(8)
        free = memory.raw.free

        def interrupted() -> None:
            free()
            raise KeyboardInterrupt

        patched.setattr(memory.raw, "free", interrupted)
        with pytest.raises(KeyboardInterrupt):
            memory.free()
    assert not +fake.live


def test_wrong_calls_are_bugs_and_the_device_stays_usable(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        with pytest.raises(fake.driver.LogicError, match="invalid argument"):
            device.buffer(0)
        kernels, record = Kernels(device, 32, np.float64), np.zeros(1, "u8,u8")[0]
        with pytest.raises(fake.driver.LogicError, match="named symbol not found"):
            kernels._launch("cut_uint8_float64", (1, 1, 1), record, device.stream())
        assert not device.lost


def test_a_full_gpu_is_reported_and_stays_usable(fake: FakePycuda) -> None:
    fake.machine.largest_allocation = 1 << 20
    with CudaDevice() as device, device.current():
        with pytest.raises(DeviceMemoryError, match=r"NVIDIA Fake: .*2\.0 MiB.*--batch") as caught:
            device.buffer(2 << 20)
        with pytest.raises(DeviceMemoryError, match=r"locking 2\.0 MiB"):
            device.pinned((2 << 20,), np.uint8)
        device.buffer(1 << 20)
    assert caught.value.exit_code == 5
    assert not +fake.live


@pytest.mark.parametrize("index", range(3))
def test_whichever_allocation_fails_nothing_leaks(fake: FakePycuda, index: int) -> None:
    fake.machine.refuse_allocation = index
    with pytest.raises(DeviceMemoryError), CudaDevice() as device:
        use(device)
    assert not +fake.live


def fault_of_use() -> tuple[type, str] | None:
    """Return the kind and message of the fault, whose traceback would keep PyCUDA's objects."""
    try:
        with CudaDevice() as device:
            use(device)
    except MFNetError as fault:
        return type(fault), str(fault)
    return None


@pytest.mark.parametrize("pop_fails", [False, True])
def test_whichever_call_loses_the_gpu_none_follows(
    monkeypatch: pytest.MonkeyPatch, pop_fails: bool
) -> None:
    """One line and exit code 5, and PyCUDA neither warns nor aborts."""
    gc.freeze()  # makes collecting quick
    at, calls = 0, 1
    while at < calls:
        fake = FakePycuda().install(monkeypatch)
        fake.machine.lose_at, fake.machine.pop_fails = at, pop_fails
        fault = fault_of_use()
        if fault is None:  # lost while it was closed: all work was done
            assert "cuLaunchKernel finish" in fake.machine.calls
            assert fake.machine.calls[-1].startswith("cuCtx")
        else:
            kind, message = fault
            assert kind is (UsageError if at == 0 else DeviceLostError)  # at 0 it was not yet open
            assert "launch failure" in message
            assert len(message.splitlines()) == 1
        gc.collect()  # destroys what is not kept for ever
        assert not fake.machine.calls_after_loss
        fake.check()
        at, calls = at + 1, len(fake.machine.calls) + fake.machine.lost
    gc.unfreeze()
    assert at > 30


def test_a_lost_device_repeats_its_message(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        stream, memory = device.stream(), device.buffer(64)
        array = device.pinned((64,), np.uint8)
        fake.machine.lose_at = len(fake.machine.calls)
        with pytest.raises(DeviceLostError, match="Xid") as caught:
            stream.synchronize()
        assert device.lost
        again: list[Callable[[], Any]] = [
            device.stream,
            device.memory,
            stream.synchronize,
            lambda: device.upload(memory.pointer, array, stream),
        ]
        for call in again:
            with pytest.raises(DeviceLostError) as repeated:
                call()
            assert str(repeated.value) == str(caught.value)
        memory.free()
        device.unpin(array)
        array[:] = 1  # still there
    assert caught.value.exit_code == 5
    assert not fake.machine.calls_after_loss


@pytest.mark.parametrize("waits", [True, False])
def test_an_illegal_address_loses_the_device(fake: FakePycuda, waits: bool) -> None:
    with CudaDevice() as device, device.current():
        stream, memory = device.stream(), device.buffer(64)
        device.clear(memory.pointer + 1, 64, stream)
        if waits:
            with pytest.raises(DeviceLostError, match="illegal memory access"):
                stream.synchronize()
    assert device.lost
    assert not fake.machine.calls_after_loss


@pytest.mark.parametrize(
    "sentence",
    [
        "uncorrectable ECC error encountered",
        "unspecified launch failure",
        "device-side assert triggered",
        "misaligned address",
        "the launch timed out and was terminated",
        "a sentence of a later driver",
    ],
)
def test_an_error_not_known_to_be_harmless_loses_the_device(
    fake: FakePycuda, sentence: str
) -> None:
    with CudaDevice() as device, device.current():
        with pytest.raises(DeviceLostError, match=sentence), device.calling("trying"):
            raise fake.driver.LogicError(f"cuSomething failed: {sentence}")
        assert device.lost


class NoDriver(MetaPathFinder):
    """`import pycuda.driver` on a machine without NVIDIA's driver."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "pycuda.driver":
            raise ImportError("libcuda.so.1: cannot open shared object file: No such file")


def test_no_usable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakePycuda(gpus=0).install(monkeypatch)
    with pytest.raises(UsageError, match=r"no CUDA-capable device is detected.*driver 535"):
        CudaDevice()
    FakePycuda().install(monkeypatch)
    with pytest.raises(UsageError, match="invalid device ordinal"):
        CudaDevice(1)
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    monkeypatch.setattr(sys, "meta_path", [NoDriver(), *sys.meta_path])
    with pytest.raises(UsageError, match=r"libcuda\.so\.1.*driver 535"):
        CudaDevice()
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        CudaDevice()
    assert "pip install 'mfnet[gpu]'" in (missing_package(caught.value.name) or "")


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (11080, "CUDA 11.8.*CUDA 12.2.*535"),
        (12010, "CUDA 12.1.*CUDA 12.2.*535"),
        (12020, None),
        (13000, None),
    ],
)
def test_drivers(monkeypatch: pytest.MonkeyPatch, driver: int, message: str | None) -> None:
    FakePycuda(driver=driver).install(monkeypatch)
    with CudaDevice() as device, device.current():
        if message is None:
            Kernels(device, 32, np.float16)
            return
        with pytest.raises(UsageError, match=message):
            Kernels(device, 32, np.float16)


@pytest.mark.parametrize(
    "sentence",
    [
        "the provided PTX was compiled with an unsupported toolchain.",
        "a PTX JIT compilation failed",
        "PTX JIT compiler library not found",
        "PTX JIT compilation was disabled",
        "no kernel image is available for execution on the device",
    ],
)
def test_kernels_that_the_driver_refuses(fake: FakePycuda, sentence: str) -> None:
    fake.refuse_module = sentence
    with CudaDevice() as device, device.current():
        with pytest.raises(UsageError, match=f"loading kernels: .*{sentence[:20]}.*535"):
            Kernels(device, 32, np.float16)
        assert not device.lost
        device.buffer(64).free()
