"""Logits blended and finished by the kernels, compiled for this machine, against blend.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes.cuda_machine import CudaMachine
from fakes.fake_pycuda import fake_device
from hypothesis import given
from hypothesis import strategies as st

from mfnet_runtime.cuda.device import CudaDevice, Stream
from mfnet_runtime.cuda.kernels import (
    DSM_VALID,
    IMAGE_VALID,
    PLACEMENT,
    Kernels,
    Placements,
    Shares,
    Sums,
)
from mfnet_runtime.tiling.blend import LogitMosaic, classes_from_logits, confidence_from_logits
from mfnet_runtime.tiling.grid import BLENDS, AxisWeights, BlendName, WindowGrid

Array = npt.NDArray[Any]
BOTH = IMAGE_VALID | DSM_VALID


@dataclass
class Lab:
    """Arrays on a fake device."""

    device: CudaDevice
    machine: CudaMachine
    stream: Stream

    def put(self, array: Array) -> tuple[int, Array]:
        """Pointer to a copy on the device, and the copy."""
        memory = self.device.buffer(array.nbytes)
        placed: Array = self.machine.array(memory.pointer, array.shape, array.dtype)
        placed[:] = array
        return memory.pointer, placed


@pytest.fixture
def lab() -> Iterator[Lab]:
    with fake_device() as (device, fake):
        yield Lab(device, fake.machine, device.stream())


@given(
    seed=st.integers(0, 1 << 32),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(4, 16),
    part=st.integers(1, 4),
    blend=st.sampled_from(BLENDS),
    dtype=st.sampled_from(["float16", "float32"]),
    batch=st.integers(1, 9),
    spare=st.integers(0, 5),
)
def test_sums_and_classes_are_those_of_the_mosaic(
    seed: int,
    height: int,
    width: int,
    window: int,
    part: int,
    blend: BlendName,
    dtype: str,
    batch: int,
    spare: int,
) -> None:
    """A whole scene, batches that run over the ends of window rows, a ring that wraps."""
    rng = np.random.default_rng(seed)
    grid = WindowGrid(height, width, window, max(1, window // part))
    count, classes = len(grid), int(rng.integers(1, 7))
    logits = rng.normal(0, 100, (count, classes, window, window)).astype(dtype)
    valid = rng.random((height, width)) < 0.8
    finished = list(mosaicked(grid, blend, logits.astype(np.float32)))

    row_index = {row: index for index, row in enumerate(grid.rows)}
    column_index = {column: index for index, column in enumerate(grid.columns)}
    places = np.array(
        [(r.start, c.start, row_index[r], column_index[c]) for r, c in grid], PLACEMENT
    )
    starts = range(0, count, batch)
    slots = spare + max(
        min(places["row"][first : first + batch].max() + window, height) - places["row"][first]
        for first in starts
    )
    with fake_device() as (device, fake):
        lab = Lab(device, fake.machine, device.stream())
        kernels = Kernels(device, window, dtype)
        pointer, sums = lab.put(np.zeros((classes, slots, width), np.float32))
        ring = Sums(pointer, classes, slots, height, width)
        tables = [
            np.stack([AxisWeights(blend, axis, window).share(offset) for offset in axis])
            for axis in (grid.rows, grid.columns)
        ]
        shares = Shares(lab.put(tables[0])[0], lab.put(tables[1])[0])
        mask, _ = lab.put(valid * np.uint8(BOTH))
        flag, not_finite = lab.put(np.zeros(1, np.int32))
        for first in starts:
            host = places[first : first + batch]
            of_batch = Placements(host, lab.put(host)[0])
            given_logits, _ = lab.put(logits[first : first + batch])
            kernels.blend(ring, shares, of_batch, given_logits, lab.stream)
            below = places["row"][first + batch] if first + batch < count else height
            while finished and finished[0][0].stop <= below:
                rows, wanted = finished.pop(0)
                out, found = lab.put(np.zeros((len(rows), width), np.uint8))
                lab.stream.synchronize()
                summed = sums[:, np.array(rows) % slots]
                np.testing.assert_array_equal(summed.view(np.uint32), wanted.view(np.uint32))
                kernels.finish(ring, mask, height, rows, out, 0, flag, lab.stream)
                lab.stream.synchronize()
                np.testing.assert_array_equal(found, classes_from_logits(wanted, valid[rows]))
                assert not sums[:, np.array(rows) % slots].any()
        assert not finished
        assert not not_finite.any()


def mosaicked(grid: WindowGrid, blend: BlendName, logits: Array) -> Iterator[tuple[range, Array]]:
    """Finished rows by numpy, with the scene rows they are."""
    mosaic, each = LogitMosaic(grid, logits.shape[1], blend), iter(logits)
    stops = [row.start for row in grid.rows[1:]] + [grid.height]
    for row, stop in zip(grid.rows, stops, strict=True):
        for column in grid.columns:
            mosaic.add(row, column, next(each))
        yield range(row.start, stop), mosaic.finish_above(stop).copy()


def finished(
    lab: Lab, logits: Array, mask: Array, rows: range, slots: int
) -> tuple[Array, Array, bool]:
    """Classes, confidence and whether a logit was not finite; the sums must be zero then."""
    classes, _, width = logits.shape
    ring: Array = np.zeros((classes, slots, width), np.float32)
    mask_ring = np.zeros((slots + 3, width), np.uint8)
    for index, row in enumerate(rows):
        ring[:, row % slots] = logits[:, index]
        mask_ring[row % len(mask_ring)] = mask[index]
    pointer, sums = lab.put(ring)
    out, found = lab.put(np.zeros(mask.shape, np.uint8))
    percent, confidence = lab.put(np.zeros(mask.shape, np.uint8))
    flag, not_finite = lab.put(np.zeros(1, np.int32))
    kernels = Kernels(lab.device, 8, "float32")
    kernels.finish(
        Sums(pointer, classes, slots, rows.stop, width),
        lab.put(mask_ring)[0],
        len(mask_ring),
        rows,
        out,
        percent,
        flag,
        lab.stream,
    )
    lab.stream.synchronize()
    assert not sums.any()
    return found, confidence, bool(not_finite[0])


@pytest.mark.parametrize("rows", [range(0, 7), range(5, 12), range(1000, 1007)])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 1e30])
def test_classes_and_confidence(lab: Lab, rows: range, spread: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, spread, (6, 7, 90)).astype(np.float32)
    mask = rng.integers(0, BOTH, (7, 90), np.uint8, endpoint=True)
    classes, confidence, not_finite = finished(lab, logits, mask, rows, 8)
    np.testing.assert_array_equal(classes, classes_from_logits(logits, mask == BOTH))
    wanted = confidence_from_logits(logits, mask == BOTH)
    np.testing.assert_array_equal(confidence == 255, mask != BOTH)
    assert np.abs(confidence.astype(int) - wanted).max() <= 1
    assert np.mean(confidence == wanted) > 0.99  # ties apart: exponentials differ in the last bit
    assert not not_finite


def test_of_equal_logits_the_first_class_wins(lab: Lab) -> None:
    logits = np.random.default_rng(0).integers(-1, 1, (5, 4, 50)).astype(np.float32)
    logits[0] = np.where(logits[0] == 0, -0.0, logits[0])  # equal to 0 too
    mask = np.full((4, 50), BOTH, np.uint8)
    classes, _, _ = finished(lab, logits, mask, range(4), 4)
    np.testing.assert_array_equal(classes, logits.argmax(axis=0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("class_index", [0, 2])
@pytest.mark.parametrize("valid", [True, False])
def test_a_logit_that_is_not_finite_is_flagged(
    lab: Lab, value: float, class_index: int, valid: bool
) -> None:
    """Under nodata too, as on the host."""
    logits = np.zeros((3, 4, 70), np.float32)
    logits[class_index, 2, 65] = value
    mask = np.full((4, 70), BOTH if valid else 0, np.uint8)
    assert finished(lab, logits, mask, range(4), 4)[2]


def test_confidence_is_the_softmax(lab: Lab) -> None:
    logits = np.log(np.array([0.626, 0.3, 0.074], np.float32)).reshape(3, 1, 1)
    _, confidence, _ = finished(lab, logits, np.full((1, 1), BOTH, np.uint8), range(1), 1)
    assert confidence.item() == 63
    assert confidence_from_logits(logits, np.ones((1, 1), bool)).item() == 63


def test_a_ring_too_small_for_a_batch_is_a_bug(lab: Lab) -> None:
    host = np.array([(0, 0, 0, 0), (8, 0, 1, 0)], PLACEMENT)
    kernels = Kernels(lab.device, 8, "float32")
    with pytest.raises(AssertionError):
        kernels.blend(Sums(0, 2, 15, 16, 8), Shares(0, 0), Placements(host, 0), 0, lab.stream)
