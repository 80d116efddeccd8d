"""Scenes in blocks of columns and bands of rows: the same bits however they are cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_scene import MemoryScene, class_map, noise_scene
from place_backend import WINDOW, PlaceBackend
from support import RGBD, UTM, write_raster, write_scene

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import BLENDS, PUBLISHED, SumName
from mfnet_runtime.tiling.pipeline import SceneReport, SegmentOptions, segment_scene


def segmented(
    found: MemoryScene, options: SegmentOptions, parts: list[WindowGrid] | None = None
) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.uint8]], SceneReport]:
    """Classes, probabilities of each class, and report."""
    rows: list[FinishedRows] = []
    report = segment_scene(PlaceBackend(), found, rows.append, options, parts=parts)
    planes = [
        [FinishedRows(done.probabilities[index], place=done.place) for done in rows]  # type: ignore[index]
        for index in range(len(RGBD))
    ]
    size = (found.height, found.width)
    return class_map(rows, *size), [class_map(plane, *size) for plane in planes], report


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 150),
    block=st.integers(5, 160),
    cuts=st.lists(st.integers(1, 119), max_size=3),
    stride=st.integers(5, WINDOW),
    blend=st.sampled_from((*BLENDS, PUBLISHED)),
    batch=st.sampled_from([1, 3, 8]),
)
def test_maps_do_not_depend_on_blocks_and_bands(
    height: int, width: int, block: int, cuts: list[int], stride: int, blend: SumName, batch: int
) -> None:
    """Bands are made separately, as after an interruption."""
    how: dict[str, Any] = {"protocol": blend} if blend == PUBLISHED else {"blend": blend}
    options = SegmentOptions(stride, probabilities=True, **how)
    found = noise_scene(height, width)
    whole = segmented(found, options)
    edges = sorted({0, height, *(cut for cut in cuts if cut < height)})
    blocks = options.grid(height, width, WINDOW).blocks(block)
    bands = [replace(part, band=range(*rows)) for rows in pairwise(edges) for part in blocks]
    cut = replace(options, batch=batch)
    for parts in (segmented(found, replace(cut, block=block)), segmented(found, cut, bands)):
        np.testing.assert_array_equal(parts[0], whole[0])
        np.testing.assert_array_equal(parts[1], whole[1])
        assert parts[2].dsm == whole[2].dsm
    assert len(blocks) == -(-width // block)


@pytest.mark.parametrize("block", [1, 17, 64, 65, 300])
def test_files_are_read_in_blocks(tmp_path: Path, model: Path, block: int) -> None:
    """Also where heights are warped, and within an area of interest."""
    scene = write_scene(tmp_path, height=70, width=190)
    coarse = write_raster(
        tmp_path / "coarse.tif",
        np.random.default_rng(0).uniform(90, 120, (40, 100)).astype(np.float32),
        crs=UTM["crs"],
        transform=UTM["transform"] * Affine.scale(2) * Affine.translation(-1.3, -0.6),
    )
    box = (500_003, 5_399_970, 500_090, 5_399_995)
    read = ReadOptions(align=True, resampling="cubic", bbox=box)
    for files, how in ((scene, ReadOptions()), (replace(scene, dsm=coarse), read)):
        maps = []
        with backend_from_file(model) as backend, SceneReader(files, options=how) as reader:
            for columns in (None, block):
                rows: list[FinishedRows] = []
                segment_scene(backend, reader, rows.append, SegmentOptions(16, block=columns))
                maps.append(class_map(rows, 70, 190))
        np.testing.assert_array_equal(maps[0], maps[1])
        assert len(np.unique(maps[0])) >= 4


def test_only_windows_on_borders_are_inferred_twice() -> None:
    found, inferred = noise_scene(64, 10 * WINDOW), []
    for block in (None, 5 * WINDOW):
        backend = PlaceBackend()
        options = SegmentOptions(16, block=block)
        report = segment_scene(backend, found, lambda rows: None, options)
        assert report.windows == sum(backend.seen)
        inferred.append(report.windows)
    assert inferred == [3 * 19, 3 * 20]


def test_batches_of_one_window_are_exact_on_any_engine() -> None:
    """Logits may depend on the other windows of a call, as on a GPU."""
    found = noise_scene(64, 200)

    def classes(block: int | None, batch: int) -> npt.NDArray[np.uint8]:
        rows: list[FinishedRows] = []
        options = SegmentOptions(16, batch=batch, block=block)
        segment_scene(PlaceBackend(by_batch=0.1), found, rows.append, options)
        return class_map(rows, 64, 200)

    np.testing.assert_array_equal(classes(None, 1), classes(70, 1))
    assert (classes(None, 4) != classes(70, 4)).any()
