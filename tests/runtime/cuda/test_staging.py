"""How many rows are held for a scene: bounded for wide ones, never too few for any batch."""

from __future__ import annotations

import numpy as np
import pytest

from mfnet_runtime.tiling.batches import MAX_STRIPS
from mfnet_runtime.tiling.gpu_staging import STAGED, Layout, stored_type
from mfnet_runtime.tiling.grid import WindowGrid

UINT8 = np.dtype(np.uint8)


def test_a_narrow_scene_fills_batches_with_many_rows_of_windows() -> None:
    layout = Layout(WindowGrid(100_000, 300, 256, 128), UINT8)
    assert layout.max_strips == MAX_STRIPS
    assert layout.rows == 256 + (MAX_STRIPS - 1) * 128
    assert layout.rows * layout.row_bytes <= STAGED


def test_a_wide_scene_holds_the_rows_of_two_batches_of_one_row_each() -> None:
    layout = Layout(WindowGrid(100_000, 10_000, 256, 128), UINT8)
    assert (layout.max_strips, layout.rows, layout.slots) == (1, 256, 384)
    locked = 4 * layout.rows * layout.row_bytes
    on_gpu = layout.slots * 10_000 * (3 + 5) + layout.rows * 10_000 * 4 * (6 + 1)
    assert (round(locked / 1e6), round(on_gpu / 1e6)) == (92, 102), "as the docstring says"


@pytest.mark.parametrize("stride", [1, 32, 256])
def test_memory_does_not_grow_with_the_height(stride: int) -> None:
    low, high = (Layout(WindowGrid(rows, 3000, 256, stride), UINT8) for rows in (5000, 50_000))
    assert (low.rows, low.slots) == (high.rows, high.slots)


def test_a_low_scene_is_held_as_a_whole() -> None:
    layout = Layout(WindowGrid(100, 3000, 256, 128), UINT8)
    assert (layout.rows, layout.slots) == (100, 100)


@pytest.mark.parametrize(
    ("image", "stored"),
    [("u1", "u1"), ("u2", "u2"), ("i2", "f4"), ("f4", "f4"), ("f8", "f4"), ("u4", "f4")],
)
def test_images_go_as_they_are_or_as_float(image: str, stored: str) -> None:
    assert stored_type(np.dtype(image)) == np.dtype(stored)
