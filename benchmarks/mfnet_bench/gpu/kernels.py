"""The CUDA kernels on the device at hand against the numpy path, bit by bit, on hostile scenes.

The tests do this with the kernels compiled for the CPU; here they run where they are meant to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
from mfnet_runtime.scene.normalize import DsmRange, padded, scaled_dsm, scaled_image
from mfnet_runtime.tiling.blend import AxisWeights, LogitMosaic
from mfnet_runtime.tiling.classes import classes_from_logits, confidence_from_logits
from mfnet_runtime.tiling.grid import WindowGrid

Array = npt.NDArray[Any]
WINDOW, STRIDE, CLASSES = 32, 12, 5
SIZES = ((75, 90), (20, 41), (1, 1))  # rows, columns: larger and smaller than a window
STORED = (np.uint8, np.uint16, np.float32)
HALVES = (np.float16, np.float32)


def kernels_agree() -> dict[str, bool]:
    """Whether each kernel gives numpy's bits (confidence: to one unit), by its name."""
    found: dict[str, bool] = {}
    with CudaDevice() as device, device.current():
        for half in HALVES:
            kernels = Kernels(device, WINDOW, half)
            cases = [
                _Case.drawn(size, stored, seed)
                for seed, (size, stored) in enumerate((s, k) for s in SIZES for k in STORED)
            ]
            for case in cases:
                name = f"cut {np.dtype(case.image.dtype).name} to {np.dtype(half).name}"
                found[name] = found.get(name, True) and _cut_agrees(device, kernels, case, half)
            blended = [_blend_agrees(device, kernels, case, half) for case in cases]
            for place, part in enumerate(("blend", "classes", "confidence")):
                found[f"{part} of {np.dtype(half).name}"] = all(case[place] for case in blended)
    return found


@dataclass(frozen=True, eq=False)
class _Case:
    """A scene held whole, its ring as long as the scene."""

    image: Array  # (3, row, column)
    dsm: npt.NDArray[np.float32]
    image_valid: npt.NDArray[np.bool_]
    dsm_valid: npt.NDArray[np.bool_]
    rule: ImageRule
    span: DsmRange
    seed: int

    @staticmethod
    def drawn(size: tuple[int, int], stored: Any, seed: int) -> _Case:
        """Random pixels; where they are not valid, NaN and infinities among them."""
        rng = np.random.default_rng(seed)
        full = {np.uint8: 255.0, np.uint16: 65535.0, np.float32: 1.0}[stored]
        image = (rng.random((3, *size)) * full).astype(stored)
        dsm = rng.normal(100, 30, size).astype(np.float32)
        valid = [rng.random(size) < 0.9 for _ in range(2)]
        dsm[~valid[1]] = rng.choice([np.nan, np.inf, -np.inf, -9999.0], size)[~valid[1]]
        if stored is np.float32:
            image[:, ~valid[0]] = np.nan
        span = DsmRange(60.0, 140.0) if seed % 4 else DsmRange(100.0, 100.0)
        return _Case(image, dsm, valid[0], valid[1], ImageRule(full_scale=full), span, seed)

    @property
    def grid(self) -> WindowGrid:
        height, width = self.dsm.shape
        return WindowGrid(height, width, WINDOW, STRIDE)

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        both = self.image_valid * np.uint8(IMAGE_VALID) + self.dsm_valid * np.uint8(DSM_VALID)
        return np.asarray(both, np.uint8)

    @property
    def placements(self) -> npt.NDArray[np.void]:
        rows, columns = self.grid.rows, self.grid.columns
        return np.array(
            [
                (row.start, column.start, i, j)
                for i, row in enumerate(rows)
                for j, column in enumerate(columns)
            ],
            PLACEMENT,
        )

    def windows(self, half: Any) -> tuple[Array, Array]:
        """What numpy cuts."""
        with np.errstate(invalid="ignore"):
            image = scaled_image(self.image, self.image_valid, self.rule)
            dsm = scaled_dsm(self.dsm, self.dsm_valid, self.span)[None]
        return tuple(
            np.stack(
                [
                    padded(whole[:, r : r + WINDOW, c : c + WINDOW], WINDOW)
                    for r, c in zip(self.placements["row"], self.placements["column"], strict=True)
                ]
            ).astype(half)
            for whole in (image, dsm)
        )  # type: ignore[return-value]


def _cut_agrees(device: CudaDevice, kernels: Kernels, case: _Case, half: Any) -> bool:
    expected = case.windows(half)
    with _Memory.of(device) as memory:
        image, dsm, mask = (memory.holding(array) for array in (case.image, case.dsm, case.mask))
        piece = Piece(
            image=image,
            dsm=dsm,
            mask=mask,
            stored=case.image.dtype,
            slots=case.dsm.shape[0],
            height=case.dsm.shape[0],
            width=case.dsm.shape[1],
            rule=case.rule,
            span=case.span,
        )
        places = Placements(case.placements, memory.holding(case.placements))
        image_out, dsm_out = (memory.holding(np.zeros_like(array)) for array in expected)
        kernels.cut(piece, places, image_out, dsm_out, memory.stream)
        return all(
            _bits(memory.content(pointer, array)) == _bits(array)
            for pointer, array in zip((image_out, dsm_out), expected, strict=True)
        )


def _blend_agrees(
    device: CudaDevice, kernels: Kernels, case: _Case, half: Any
) -> tuple[bool, bool, bool]:
    """Whether sums, classes and confidence agree."""
    (rows, columns), grid = case.dsm.shape, case.grid
    rng = np.random.default_rng(case.seed)
    shape = (len(grid), CLASSES, WINDOW, WINDOW)
    logits = rng.normal(0, 5, shape).astype(half)
    logits[:, 1] = logits[:, 0]  # equal classes
    mosaic = LogitMosaic(grid, CLASSES, "hann")
    valid, total = case.image_valid & case.dsm_valid, np.zeros((CLASSES, rows, columns), np.float32)
    at = iter(logits.astype(np.float32))
    for row, stop in zip(
        grid.rows, [row.start for row in grid.rows[1:]] + [grid.height], strict=True
    ):
        for column in grid.columns:
            mosaic.add(row, column, next(at))
        total[:, row.start : stop] = mosaic.finish_above(stop)
    shares = [
        np.stack([AxisWeights("hann", axis, WINDOW).share(offset) for offset in axis])
        for axis in (grid.rows, grid.columns)
    ]
    classes, confidence = classes_from_logits(total, valid), confidence_from_logits(total, valid)
    with _Memory.of(device) as memory:
        sums = Sums(memory.holding(np.zeros_like(total)), CLASSES, rows, rows, columns)
        places = Placements(case.placements, memory.holding(case.placements))
        tables = Shares(*(memory.holding(table) for table in shares))
        kernels.blend(sums, tables, places, memory.holding(logits), memory.stream)
        found = memory.content(sums.pointer, total)
        flag = memory.holding(np.zeros(1, np.int32))
        out = [memory.holding(np.zeros_like(array)) for array in (classes, confidence)]
        mask = memory.holding(case.mask)
        kernels.finish(sums, mask, rows, range(rows), out[0], out[1], flag, memory.stream)
        ends = [
            memory.content(pointer, array)
            for pointer, array in zip(out, (classes, confidence), strict=True)
        ]
    unit = np.abs(ends[1].astype(int) - confidence).max()
    return _bits(found) == _bits(total), _bits(ends[0]) == _bits(classes), bool(unit <= 1)


def _bits(array: Array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


class _Memory:
    """Arrays on a device until the block ends; copies are waited for."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self.stream = device.stream()
        self._buffers: list[Any] = [self.stream]

    @staticmethod
    @contextmanager
    def of(device: CudaDevice) -> Iterator[_Memory]:
        memory = _Memory(device)
        try:
            yield memory
        finally:
            for held in reversed(memory._buffers):
                held.free()

    def holding(self, array: Array) -> int:
        """A pointer to a copy."""
        buffer = self._device.buffer(array.nbytes)
        self._buffers.append(buffer)
        self._device.upload(buffer.pointer, np.ascontiguousarray(array), self.stream)
        self.stream.synchronize()
        return int(buffer.pointer)

    def content(self, pointer: int, like: Array) -> Array:
        """What lies there, once the stream is done."""
        found = np.empty(like.shape, like.dtype)
        self._device.download(found, pointer, self.stream)
        self.stream.synchronize()
        return found
