"""Batches of a scene: full ones, every window once, memory that does not grow with height."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from memory_scene import MemoryScene
from support import RGBD

from mfnet_runtime.contract import Contract
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.batches import MAX_STRIPS, Place, Strip, window_batches
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.pipeline import HostBatch, NormalizedRows

CONTRACT = Contract(32, RGBD)


@dataclass(frozen=True)
class RecordedScene(MemoryScene):
    """A scene that remembers which rows were read."""

    reads: list[int] = field(default_factory=list)

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        self.reads.extend(range(start, stop))
        return super().read(start, stop, columns)


def random_scene(height: int, width: int) -> RecordedScene:
    """A scene without holes; heights are the values of the first band."""
    image = np.random.default_rng(0).integers(0, 255, (3, height, width), dtype=np.uint8)
    valid = np.ones((height, width), bool)
    return RecordedScene(image, image[0].astype(np.float32), valid, valid)


def batches(
    scene: MemoryScene, grid: WindowGrid, sizes: BatchSize, dtype: npt.DTypeLike = np.float32
) -> Iterator[HostBatch]:
    """Batches in two buffers, used in turn."""
    buffers = [HostBatch.allocate(8, CONTRACT, np.dtype(dtype)) for _ in range(2)]
    rows = NormalizedRows(scene, grid, CONTRACT, DsmRange(0.0, 255.0))
    return window_batches(rows, sizes, buffers)


@pytest.mark.parametrize("size", [(100, 90), (32, 32), (10, 70), (70, 10), (1, 1)])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("stride", [32, 16, 5])
def test_every_window_comes_once_and_whole(size: tuple[int, int], batch: int, stride: int) -> None:
    scene = random_scene(*size)
    grid = WindowGrid(*size, 32, stride)
    below, right = max(32 - size[0], 0), max(32 - size[1], 0)
    image = np.pad(
        scene.image.astype(np.float32) * np.float32(1 / 255),
        [(0, 0), (0, below), (0, right)],
        mode="reflect",
    )
    places, stops, counts = [], [], []
    for item in batches(scene, grid, BatchSize(batch)):
        counts.append(item.windows)
        cuts = iter(zip(item.image, item.dsm, strict=True))
        for step in item.steps:
            if isinstance(step, Strip):
                stops.append(step.stop)
                continue
            places.append((step.row, step.column))
            cut, heights = next(cuts)
            top, left = step.row.start, step.column.start
            np.testing.assert_array_equal(cut, image[:, top : top + 32, left : left + 32])
            np.testing.assert_allclose(heights[0], cut[0], rtol=1e-6)
    assert places == list(grid)
    assert stops == [row.start for row in grid.rows[1:]] + [size[0]]
    assert all(count == batch for count in counts[:-1]), "only the last may be short"
    assert scene.reads == list(range(size[0])), "every row is read once"


def test_empty_windows_leave_no_holes() -> None:
    scene = random_scene(64, 320)
    scene.image_valid[:, 40:300] = False
    grid = WindowGrid(64, 320, 32, 32)
    found = [
        (item.windows, item.skipped, [step for step in item.steps if isinstance(step, Place)])
        for item in batches(scene, grid, BatchSize(3))
    ]
    assert [windows for windows, *_ in found] == [3, 3, 0]  # of 10 a row, 3 have a valid pixel
    assert sum(skipped for _, skipped, _ in found) == 14
    assert [place.column.start for _, _, places in found for place in places] == [0, 32, 288] * 2


def test_a_scene_without_valid_pixels_holds_few_rows_at_a_time() -> None:
    scene = random_scene(32 * 100, 32)
    scene.image_valid[:] = False
    grid = WindowGrid(32 * 100, 32, 32, 32)
    strips = [len(item.steps) for item in batches(scene, grid, BatchSize(4))]
    assert sum(strips) == 100
    assert max(strips) <= MAX_STRIPS


def test_a_strip_does_not_change_when_the_rows_move_on() -> None:
    scene = random_scene(96, 40)
    scene.image_valid[:16] = False
    grid = WindowGrid(96, 40, 32, 16)
    strips = [
        step
        for item in list(batches(scene, grid, BatchSize(8)))
        for step in list(item.steps)
        if isinstance(step, Strip)
    ]
    np.testing.assert_array_equal(
        np.concatenate([strip.valid for strip in strips]), scene.image_valid
    )


def test_windows_for_an_fp16_model_are_rounded_to_nearest() -> None:
    scene = random_scene(50, 40)
    grid = WindowGrid(50, 40, 32, 16)
    exact = [item.image[0].copy() for item in batches(scene, grid, BatchSize(1))]
    half = [item.image[0].copy() for item in batches(scene, grid, BatchSize(1), np.float16)]
    assert half[0].dtype == np.float16
    for one, other in zip(exact, half, strict=True):
        np.testing.assert_array_equal(one.astype(np.float16), other)
