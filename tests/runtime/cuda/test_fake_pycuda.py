"""The simulated GPU is as unkind as it says: a missing wait gives wrong results under some seed."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from fakes.fake_pycuda import FakePycuda, fake_device

from mfnet_runtime.cuda.device import CudaDevice


def copy_through(device: CudaDevice, wait: bool, settle: bool) -> bool:
    """Copy up on one stream and down on another, then reuse the source; True if that is right."""
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
    source[:] = 9  # as for the next batch
    down.synchronize()
    return bool((target == 7).all())


@pytest.mark.parametrize(
    ("wait", "settle", "seen"),
    [(True, True, {True}), (False, True, {True, False}), (True, False, {True, False})],
)
def test_a_missing_wait_is_seen_under_some_seed(wait: bool, settle: bool, seen: set[bool]) -> None:
    found = set()
    for seed in range(30):
        with fake_device(seed=seed) as (device, _):
            found.add(copy_through(device, wait, settle))
    assert found == seen


def test_writing_beside_an_allocation_is_found(fake: FakePycuda) -> None:
    with CudaDevice() as device, device.current():
        memory = device.buffer(64)
        fake.machine._memory[memory.pointer].whole[-1] = 0
    with pytest.raises(AssertionError, match="beside an allocation"):
        fake.check()
    fake.machine.wrongs.clear()


def test_a_context_left_pushed_is_found(fake: FakePycuda) -> None:
    with CudaDevice() as device:
        device._context.push()
        with pytest.raises(AssertionError, match="aborts"):
            fake.check()
        device._leave()


def test_it_has_no_name_that_pycuda_lacks(fake: FakePycuda) -> None:
    """Needs NVIDIA's driver to import PyCUDA, though no GPU."""
    found: Any = pytest.importorskip("pycuda._driver", exc_type=ImportError)
    for name, ours in vars(fake.driver).items():
        if not name.startswith("_"):
            assert hasattr(found, name), name
            if inspect.isclass(ours):
                public = {part for part in dir(ours) if part[0] != "_"}
                assert not public - set(dir(getattr(found, name))), name
