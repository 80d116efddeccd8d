"""The fake GPU is as unkind as it says: work that should have waited goes wrong under some seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from fakes.fake_pycuda import FakePycuda, fake_device

from mfnet_runtime.cuda.device import CudaDevice

SEEDS = range(30)


def right(program: Callable[[CudaDevice], bool]) -> list[bool]:
    """Whether it gave the right answer, by seed."""
    answers = []
    for seed in SEEDS:
        with fake_device(seed=seed) as (device, _):
            answers.append(program(device))
    return answers


def copied_through(device: CudaDevice, wait: bool = True, settle: bool = True) -> bool:
    """Up on one stream, down on another, the source then used again."""
    up, down, there = device.stream(), device.stream(), device.event()
    source, target = device.pinned((500,), np.uint8), device.pinned((500,), np.uint8)
    memory = device.buffer(500)
    source[:] = 7
    device.upload(memory.pointer, source, up)
    there.record(up)
    if wait:
        down.wait(there)
    device.download(target, memory.pointer, down)
    if settle:
        there.synchronize()
    source[:] = 9  # the next batch, say
    down.synchronize()
    return bool((target == 7).all())


def test_a_program_that_waits_is_right() -> None:
    assert all(right(copied_through))


def test_a_missing_wait_is_seen() -> None:
    answers = right(lambda device: copied_through(device, wait=False))
    assert not all(answers)
    assert any(answers)  # it is a race, not a rule


def test_a_page_locked_array_used_again_too_early_is_seen() -> None:
    answers = right(lambda device: copied_through(device, settle=False))
    assert not all(answers)
    assert any(answers)


def test_a_result_read_too_early_is_seen() -> None:
    def hasty(device: CudaDevice) -> bool:
        stream, target = device.stream(), device.pinned((9,), np.uint8)
        memory = device.buffer(9)
        device.clear(memory.pointer, 9, stream)
        device.download(target, memory.pointer, stream)
        return not target.any()

    assert not all(right(hasty))


def test_work_can_fall_far_behind() -> None:
    def stale(device: CudaDevice) -> bool:
        up, down = device.stream(), device.stream()
        memory, target = device.buffer(4), device.pinned((4,), np.uint8)
        device.clear(memory.pointer, 4, up)
        for _ in range(20):
            down.synchronize()
            device.download(target, memory.pointer, down)
        down.synchronize()
        return not target.any()

    assert 5 < sum(right(stale)) < 25


def test_pageable_memory_may_be_used_again() -> None:
    def pageable(device: CudaDevice) -> bool:
        stream, target = device.stream(), np.zeros(9, np.uint8)
        memory, source = device.buffer(9), np.full(9, 7, np.uint8)
        device.upload(memory.pointer, source, stream)
        source[:] = 9
        device.download(target, memory.pointer, stream)
        stream.synchronize()
        return bool((target == 7).all())

    assert all(right(pageable))


def test_an_event_stands_for_its_last_recording() -> None:
    def again(device: CudaDevice) -> bool:
        first, second, event = device.stream(), device.stream(), device.event()
        second.wait(event)  # never recorded: no wait
        memory, target = device.buffer(4), device.pinned((4,), np.uint8)
        for value in range(5):
            device.upload(memory.pointer, np.full(4, value, np.uint8), first)
            event.record(first)
        second.wait(event)
        device.download(target, memory.pointer, second)
        second.synchronize()
        return bool((target == 4).all())

    assert all(right(again))


def test_callables_run_in_the_stream() -> None:
    for seed in SEEDS:
        seen: list[str] = []
        with fake_device(seed=seed) as (device, fake):
            stream = device.stream()
            for name in "abc":
                fake.enqueue(stream.handle, partial(seen.append, name))
            stream.synchronize()
        assert seen == ["a", "b", "c"]


def test_writing_beside_an_allocation_is_found(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        memory = device.buffer(64)
        fake.machine._memory[memory.pointer].whole[-1] = 0
    with pytest.raises(AssertionError, match="beside an allocation"):
        fake.check()
    fake.machine.wrongs.clear()


def test_numpy_integers_are_no_pointers_and_no_sizes(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        with pytest.raises(TypeError, match="int64 is not an int"):
            device.buffer(np.int64(8))  # type: ignore[arg-type]
        buffer, stream = device.buffer(8), device.stream()
        with pytest.raises(TypeError, match="uint64 is not an int"):
            device.clear(np.uint64(buffer.pointer), 8, stream)  # type: ignore[arg-type]


def test_a_context_left_pushed_is_found(fake: FakePycuda) -> None:
    with CudaDevice() as device:
        device._context.push()
        with pytest.raises(AssertionError, match="aborts"):
            fake.check()
        device._leave()


def test_a_context_that_ends_in_a_living_thread_is_found(fake: FakePycuda) -> None:
    device = CudaDevice()
    device._detach()
    with pytest.raises(AssertionError, match="given back"):
        fake.check()
    fake.left_current.clear()


def test_it_has_no_name_that_pycuda_lacks(fake: FakePycuda) -> None:
    """Needs NVIDIA's driver to import PyCUDA, though no GPU."""
    found: Any = pytest.importorskip("pycuda._driver", exc_type=ImportError)
    for name in vars(fake.driver):
        if name.startswith("_"):
            continue
        assert hasattr(found, name), name
        theirs, ours = getattr(found, name), getattr(fake.driver, name)
        if inspect.isclass(ours):
            lacking = {part for part in dir(ours) if part[0] != "_"} - set(dir(theirs))
            assert not lacking, f"{name}: {lacking}"
