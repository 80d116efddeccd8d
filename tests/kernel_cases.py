"""Cases for the CUDA kernels and what numpy makes of them, for any device: real or acted.

The kernels must give the same bits as the CPU path of `mfnet_runtime.tiling`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.contract import ImageRule
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.cuda.kernels import (
    DSM_VALID,
    IMAGE_VALID,
    PLACEMENT,
    Kernels,
    Piece,
    Placements,
    Shares,
    Sums,
)
from mfnet_runtime.scene.normalize import DsmRange, pad_to_window, scale_dsm, scale_image
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.blend import AxisWeights, LogitMosaic
from mfnet_runtime.tiling.classes import classes_from_logits
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import BlendName

Array = npt.NDArray[Any]
BOTH = IMAGE_VALID | DSM_VALID
HOSTILE = (np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-40, 0.1, 255.0, 65519.9, 65520.0, -3e38)
SPANS = (
    DsmRange(240.0, 360.0),
    DsmRange(0.0, 0.0),  # constant
    DsmRange(-0.1, 0.3),
    DsmRange(100.0, 100.00001),
    DsmRange(0.0, 1e-42),
    DsmRange(-1e38, 2e38),
)


class DeviceArrays:
    """Arrays in the memory of a device whose context is current; `free` them after use."""

    def __init__(self, device: CudaDevice) -> None:
        self.device, self.stream = device, device.stream()
        self._buffers: list[Any] = []

    def put(self, array: Array) -> int:
        """Copy an array to the device and return its pointer."""
        memory = self.device.buffer(array.nbytes)
        self._buffers.append(memory)
        self.device.upload(memory.pointer, np.ascontiguousarray(array), self.stream)
        self.stream.synchronize()
        return int(memory.pointer)

    def get(self, pointer: int, like: Array) -> Array:
        """Copy an array of this shape and type back, after the work in the stream is done."""
        found = np.empty(like.shape, like.dtype)
        self.device.download(found, pointer, self.stream)
        self.stream.synchronize()
        return found

    def free(self) -> None:
        """Give the memory back."""
        self.stream.synchronize()
        for memory in self._buffers:
            memory.free()
        self.stream.free()


@dataclass(frozen=True)
class Case:
    """A scene, and windows to cut from it."""

    rows: SceneData
    window: int
    offsets: list[tuple[int, int]]
    rule: ImageRule
    span: DsmRange
    dtype: str


def random_case(
    seed: int, height: int, width: int, window: int, stored: str, dtype: str, hostile: bool
) -> Case:
    """A scene of random values; with `hostile`, NaN, infinities and denormals among them."""
    rng = np.random.default_rng(seed)
    image: Array
    if stored == "float32":
        image = rng.uniform(-10, 300, (3, height, width)).astype(np.float32)
    else:
        top = np.iinfo(stored).max
        image = rng.integers(0, top, (3, height, width), stored, endpoint=True)
        image[rng.random(image.shape) < 0.1] = top
    dsm = rng.uniform(200, 400, (height, width)).astype(np.float32)
    if hostile:
        for array in (image, dsm) if stored == "float32" else (dsm,):
            place = rng.random(array.shape) < 0.3
            array[place] = rng.choice(HOSTILE, place.sum())
    valid = rng.random((2, height, width)) < rng.choice([0.0, 0.5, 1.0])
    last = max(height - window, 0), max(width - window, 0)
    offsets = [tuple(rng.integers(0, last, endpoint=True).tolist()) for _ in range(3)]
    return Case(
        SceneData(image, dsm, *valid),
        window,
        [*offsets, last],
        ImageRule(full_scale=float(rng.choice([1.0, 255.0, 65535.0, 3e-3]))),
        SPANS[rng.integers(len(SPANS))],
        dtype,
    )


def check_cut(device: CudaDevice, case: Case, spare: int = 0) -> None:
    """Assert that the kernel cuts the windows numpy cuts.

    Args:
        device: Its context must be current.
        case: Scene and windows.
        spare: Rows that the ring on the device has beyond those it needs.
    """
    with np.errstate(all="ignore"):
        wanted = _cut_by_numpy(case)
    for found, reference in zip(_cut_by_kernel(device, case, spare), wanted, strict=True):
        # Any NaN will do, and either zero: numpy 1 clips -0.0 to 0.0.
        same = (found == reference) | (np.isnan(found) & np.isnan(reference))
        assert same.all(), f"{found[~same][:5]} instead of {reference[~same][:5]}"


def _cut_by_numpy(case: Case) -> tuple[Array, Array]:
    side = case.window
    image = scale_image(case.rows.image, case.rows.image_valid, case.rule)
    dsm = scale_dsm(case.rows.dsm, case.rows.dsm_valid, case.span)[None]
    cuts = [
        [
            pad_to_window(plane[:, row : row + side, column : column + side], side)
            for plane in (image, dsm)
        ]
        for row, column in case.offsets
    ]
    images, dsms = zip(*cuts, strict=True)
    return np.stack(images).astype(case.dtype), np.stack(dsms).astype(case.dtype)


def _cut_by_kernel(device: CudaDevice, case: Case, spare: int) -> tuple[Array, Array]:
    rows, side = case.rows, case.window
    height, width = rows.dsm.shape
    starts = [row for row, _ in case.offsets]
    held = np.arange(min(starts), min(max(starts) + side, height))
    slots = len(held) + spare
    mask = rows.image_valid * np.uint8(IMAGE_VALID) + rows.dsm_valid * np.uint8(DSM_VALID)
    host = np.array([(*offset, 0, 0) for offset in case.offsets], PLACEMENT)
    arrays = DeviceArrays(device)
    pointers = []
    for plane in (rows.image, rows.dsm, mask):
        ring: Array = np.zeros((*plane.shape[:-2], slots, width), plane.dtype)
        ring[..., held % slots, :] = plane[..., held, :]
        pointers.append(arrays.put(ring))
    image, dsm = (np.zeros((len(host), bands, side, side), case.dtype) for bands in (3, 1))
    outs = arrays.put(image), arrays.put(dsm)
    first, second, third = pointers
    piece = Piece(
        first, second, third, rows.image.dtype, slots, height, width, case.rule, case.span
    )
    placements = Placements(host, arrays.put(host))
    Kernels(device, side, case.dtype).cut(piece, placements, *outs, arrays.stream)
    found = arrays.get(outs[0], image), arrays.get(outs[1], dsm)
    arrays.free()
    return found


def check_blend(
    device: CudaDevice,
    grid: WindowGrid,
    blend: BlendName,
    dtype: str,
    *,
    seed: int = 0,
    batch: int = 4,
    spare: int = 0,
) -> None:
    """Assert that sums and classes are those of `LogitMosaic`, over a whole scene.

    Batches run over the ends of window rows, and the ring of sums wraps.

    Args:
        device: Its context must be current.
        grid: Of the scene.
        blend: Weights.
        dtype: Of the logits.
        seed: Of logits and valid pixels.
        batch: Windows a launch.
        spare: Rows that the ring has beyond those it needs.
    """
    rng = np.random.default_rng(seed)
    count, classes, window = len(grid), int(rng.integers(1, 7)), grid.window
    height, width = grid.height, grid.width
    logits = rng.normal(0, 100, (count, classes, window, window)).astype(dtype)
    valid = rng.random((height, width)) < 0.8
    finished = list(_mosaicked(grid, blend, logits.astype(np.float32)))
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
    arrays = DeviceArrays(device)
    kernels = Kernels(device, window, dtype)
    sums: Array = np.zeros((classes, slots, width), np.float32)
    ring = Sums(arrays.put(sums), classes, slots, height, width)
    tables = [
        np.stack([AxisWeights(blend, axis, window).share(offset) for offset in axis])
        for axis in (grid.rows, grid.columns)
    ]
    shares = Shares(*map(arrays.put, tables))
    mask = arrays.put(valid * np.uint8(BOTH))
    flag = arrays.put(np.zeros(1, np.int32))
    for first in starts:
        host = places[first : first + batch]
        of_batch = Placements(host, arrays.put(host))
        kernels.blend(
            ring, shares, of_batch, arrays.put(logits[first : first + batch]), arrays.stream
        )
        below = places["row"][first + batch] if first + batch < count else height
        while finished and finished[0][0].stop <= below:
            rows, wanted = finished.pop(0)
            held = np.array(rows) % slots
            summed = arrays.get(ring.pointer, sums)[:, held]
            np.testing.assert_array_equal(summed.view(np.uint32), wanted.view(np.uint32))
            out = np.zeros((len(rows), width), np.uint8)
            pointer = arrays.put(out)
            kernels.finish(ring, mask, height, rows, pointer, 0, flag, arrays.stream)
            found = arrays.get(pointer, out)
            np.testing.assert_array_equal(found, classes_from_logits(wanted, valid[rows]))
            assert not arrays.get(ring.pointer, sums)[:, held].any()
    assert not finished
    assert not arrays.get(flag, np.zeros(1, np.int32)).any()
    arrays.free()


def _mosaicked(grid: WindowGrid, blend: BlendName, logits: Array) -> Iterator[tuple[range, Array]]:
    """Yield finished rows by numpy, with the scene rows they are."""
    mosaic, each = LogitMosaic(grid, logits.shape[1], blend), iter(logits)
    stops = [row.start for row in grid.rows[1:]] + [grid.height]
    for row, stop in zip(grid.rows, stops, strict=True):
        for column in grid.columns:
            mosaic.add(row, column, next(each))
        yield range(row.start, stop), mosaic.finish_above(stop).copy()


def finish(
    device: CudaDevice, logits: Array, mask: Array, rows: range, slots: int
) -> tuple[Array, Array, bool]:
    """Run `Kernels.finish` on sums of logits, and assert that it leaves zeros.

    Args:
        device: Its context must be current.
        logits: (classes, rows, width) float32.
        mask: (rows, width) uint8.
        rows: The scene rows that these are.
        slots: Rows of the ring of sums.

    Returns:
        Classes and confidence, (rows, width) uint8, and whether a logit was not finite.
    """
    classes, _, width = logits.shape
    ring: Array = np.zeros((classes, slots, width), np.float32)
    mask_ring = np.zeros((slots + 3, width), np.uint8)
    for index, row in enumerate(rows):
        ring[:, row % slots] = logits[:, index]
        mask_ring[row % len(mask_ring)] = mask[index]
    arrays = DeviceArrays(device)
    sums = Sums(arrays.put(ring), classes, slots, rows.stop, width)
    out, percent = (arrays.put(np.zeros(mask.shape, np.uint8)) for _ in range(2))
    flag = np.zeros(1, np.int32)
    flagged = arrays.put(flag)
    held = arrays.put(mask_ring)
    kernels = Kernels(device, 8, "float32")
    kernels.finish(sums, held, len(mask_ring), rows, out, percent, flagged, arrays.stream)
    assert not arrays.get(sums.pointer, ring).any()
    found, confidence = arrays.get(out, mask), arrays.get(percent, mask)
    not_finite = bool(arrays.get(flagged, flag)[0])
    arrays.free()
    return found, confidence, not_finite
