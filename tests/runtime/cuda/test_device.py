"""A GPU over PyCUDA: contexts, frees, faults. All on a fake; nothing here needs a GPU."""

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
from mfnet_runtime.cuda.faults import version_text
from mfnet_runtime.cuda.kernels import Kernels, Sums
from mfnet_runtime.errors import (
    DeviceLostError,
    DeviceMemoryError,
    MFNetError,
    ResourceError,
    UsageError,
    missing_package,
)


def in_thread(work: Callable[[], Any]) -> None:
    """Whatever it raises is raised here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def use(device: CudaDevice) -> None:
    """A bit of everything, kept until the device is closed."""
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


def test_a_device_says_what_it_is(fake: FakePycuda) -> None:
    with CudaDevice() as device:
        assert device.name == "NVIDIA Fake"
        assert device.compute_capability == (9, 0)
        assert (device.driver, device.cuda) == ("12.2", "12.6")
        with device.current():
            free, total = device.memory()
            device.buffer(1 << 20)
            assert device.memory() == (free - (1 << 20), total)


def test_closing_frees_all_and_gives_the_context_back(fake: FakePycuda) -> None:
    with CudaDevice() as device:
        use(device)
        assert +fake.live
    assert not +fake.live
    device.close()  # once is enough
    assert fake.machine.held() == 0


def test_the_newest_is_freed_first(fake: FakePycuda, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    with CudaDevice() as device:
        with device.current():
            pointers = [device.buffer(64).pointer for _ in range(3)]
        free = fake.machine.free

        def noted(pointer: int) -> None:
            freed.append(pointer)
            free(pointer)

        monkeypatch.setattr(fake.machine, "free", noted)
    assert freed == pointers[::-1]


def test_freeing_twice_is_once(fake: FakePycuda) -> None:
    with CudaDevice() as device:
        with device.current():
            memory, array = device.buffer(64), device.pinned((4,), np.uint8)
            stream, event = device.stream(), device.event()
        for handle in (memory, stream, event):
            handle.free()
            handle.free()
        device.unpin(array)
        device.unpin(array)
        assert dict(+fake.live) == {"Context": 1}


def test_freeing_in_another_thread(fake: FakePycuda) -> None:
    """PyCUDA only warns there, and leaks, unless the context is pushed first."""
    with CudaDevice() as device:
        with device.current():
            memory, stream = device.buffer(64), device.stream()
        for handle in (memory, stream):
            in_thread(handle.free)
        assert dict(+fake.live) == {"Context": 1}


def test_closing_in_another_thread(fake: FakePycuda) -> None:
    device = CudaDevice()
    use(device)
    in_thread(device.close)
    assert not +fake.live


def test_a_context_belongs_to_the_thread_that_entered_it(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        found: list[str] = []

        def outside() -> None:
            with pytest.raises(Exception, match="invalid device context") as caught:
                device.buffer(64)
            found.append(type(caught.value).__name__)
            with device.current():
                device.buffer(64)

        in_thread(outside)
        assert found == ["LogicError"]  # a bug of ours: not dressed up as the user's


def test_current_may_be_nested(fake: FakePycuda) -> None:
    with CudaDevice() as device:
        with device.current():
            with device.current():
                device.buffer(64)
            device.buffer(64)
        assert not fake.stack()


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


def test_a_device_can_be_opened_again(fake: FakePycuda) -> None:
    for _ in range(3):
        with CudaDevice() as device:
            use(device)


def test_empty_memory_is_a_bug(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        with pytest.raises(Exception, match="invalid argument"):
            device.buffer(0)
        assert not device.lost


def test_a_full_gpu_is_told_and_goes_on(fake: FakePycuda) -> None:
    fake.machine.largest_allocation = 1 << 20
    with CudaDevice() as device, device.current():
        with pytest.raises(DeviceMemoryError, match=r"NVIDIA Fake: .*2\.0 MiB.*--batch") as caught:
            device.buffer(2 << 20)
        with pytest.raises(DeviceMemoryError, match=r"locking 2\.0 MiB"):
            device.pinned((2 << 20,), np.uint8)
        device.buffer(1 << 20)
    assert isinstance(caught.value, ResourceError)
    assert caught.value.exit_code == 5
    assert not +fake.live


@pytest.mark.parametrize("index", range(3))
def test_whichever_allocation_fails_nothing_leaks(fake: FakePycuda, index: int) -> None:
    fake.machine.refuse_allocation = index
    with pytest.raises(DeviceMemoryError), CudaDevice() as device:
        use(device)
    assert not +fake.live


def calls_of_use() -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake = FakePycuda().install(monkeypatch)
        with CudaDevice() as device:
            use(device)
        return len(fake.machine.calls)


def fault_of_use() -> tuple[type, str] | None:
    """Not the fault itself, whose traceback would keep PyCUDA's objects."""
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
    """The end is one line and exit code 5: PyCUDA neither warns nor aborts."""
    gc.freeze()  # so that collecting is quick
    for at in range(calls_of_use()):
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
        gc.collect()  # what is not kept for ever is destroyed now
        assert not fake.machine.calls_after_loss
        fake.check()
    gc.unfreeze()


def test_a_lost_device_says_so_every_time(fake: FakePycuda) -> None:
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


def test_an_address_outside_any_memory_loses_the_device(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        stream, memory = device.stream(), device.buffer(64)
        device.clear(memory.pointer + 1, 64, stream)
        with pytest.raises(DeviceLostError, match="illegal memory access"):
            stream.synchronize()


def test_work_that_nobody_waited_for_fails_quietly(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        stream, memory = device.stream(), device.buffer(64)
        device.clear(memory.pointer + 1, 64, stream)
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
        "unknown error",
        "a sentence of a later driver",
    ],
)
def test_what_is_not_known_to_be_harmless_ends_it(fake: FakePycuda, sentence: str) -> None:
    with CudaDevice() as device, device.current():
        with pytest.raises(DeviceLostError, match=sentence), device.calling("trying"):
            raise fake.driver.LogicError(f"cuSomething failed: {sentence}")
        assert device.lost


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakePycuda(gpus=0).install(monkeypatch)
    with pytest.raises(UsageError, match=r"no CUDA-capable device is detected.*driver 535"):
        CudaDevice()


def test_no_such_gpu(fake: FakePycuda) -> None:
    with pytest.raises(UsageError, match="invalid device ordinal"):
        CudaDevice(1)


class NoDriver(MetaPathFinder):
    """`import pycuda.driver` on a machine without NVIDIA's driver."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "pycuda.driver":
            raise ImportError("libcuda.so.1: cannot open shared object file: No such file")


def test_no_driver(fake: FakePycuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    monkeypatch.setattr(sys, "meta_path", [NoDriver(), *sys.meta_path])
    with pytest.raises(UsageError, match=r"libcuda\.so\.1.*driver 535"):
        CudaDevice()


def test_no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        CudaDevice()
    remedy = missing_package(caught.value.name)
    assert remedy is not None
    assert "pip install 'mfnet[gpu]'" in remedy


@pytest.mark.parametrize("driver", [12010, 11080])
def test_a_driver_too_old_for_the_kernels(monkeypatch: pytest.MonkeyPatch, driver: int) -> None:
    FakePycuda(driver=driver).install(monkeypatch)
    with CudaDevice() as device, device.current():
        found = version_text(driver)
        with pytest.raises(UsageError, match=f"CUDA {found}.*CUDA 12.2.*535"):
            Kernels(device, 32, np.float16)


@pytest.mark.parametrize("driver", [12020, 12080, 13000])
def test_drivers_new_enough(monkeypatch: pytest.MonkeyPatch, driver: int) -> None:
    FakePycuda(driver=driver).install(monkeypatch)
    with CudaDevice() as device, device.current():
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
        use_of_the_rest = device.buffer(64)
        use_of_the_rest.free()


def test_a_kernel_that_does_not_exist_is_a_bug(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        kernels = Kernels(device, 32, np.float64)
        with pytest.raises(Exception, match="named symbol not found"):
            kernels._launch(
                "cut_uint8_float64", (1, 1, 1), np.zeros(1, "u8,u8")[0], device.stream()
            )
