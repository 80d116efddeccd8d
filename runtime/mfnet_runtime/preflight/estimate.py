"""Estimate the cost of a run: windows, memory, disk, and time in the backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError
from mfnet_runtime.preflight.results import Estimate
from mfnet_runtime.run.plan import scene_blocks
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.memory import pixel_memory
from mfnet_runtime.tiling.options import SegmentOptions

logger = logging.getLogger(__name__)

CALLS = 3  # timed calls of the network, after one that is not timed


def estimate_scenes(
    backend: Backend, scenes: Sequence[Scene], options: SegmentOptions, read: ReadOptions
) -> list[dict[str, Any]]:
    """Estimate scenes, reading no pixels but those that the options ask for.

    Args:
        backend: Entered; times a few windows.
        scenes: The scenes to segment.
        options: How to segment.
        read: How to read.

    Returns:
        A row of the JSON summary for each scene, with the error of one that cannot be read.

    Raises:
        UsageError: a scene's pixels do not fit in the memory allowed, or the model states no pixel
            size to resample to.
        ResourceError: the backend has not enough memory for the batch.
    """
    sizes, contract = BatchSize(options.batch, backend.batches), backend.contract
    read = read.for_model(contract)
    seconds = seconds_per_window(backend, sizes.chosen)
    rows = []
    for scene in scenes:
        try:
            with SceneReader(scene, contract.image.full_scale, read) as reader:
                found = estimate(reader, contract, sizes.largest, options, seconds)
                rows.append(found.to_json())
        except SceneError as error:
            logger.error("%s", error)
            rows.append({"scene": scene.name, "status": "failed", "error": str(error)})
    return rows


def seconds_per_window(backend: Backend, batch: int) -> float:
    """Time a few calls of the network with windows of noise."""
    rng = np.random.default_rng(0)
    feed = {
        spec.name: rng.random((batch, *spec.shape[1:]), np.float32).astype(spec.dtype)
        for spec in backend.inputs
    }
    times = []
    for _ in range(CALLS + 1):
        started = time.perf_counter()
        backend.infer(feed)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / batch


def estimate(
    reader: SceneReader, contract: Contract, batch: int, options: SegmentOptions, seconds: float = 0
) -> Estimate:
    """Estimate an open scene.

    Args:
        reader: The scene.
        contract: Of the model.
        batch: The most windows that one call may have.
        options: How to segment.
        seconds: Time of the network for a window.

    Raises:
        UsageError: the scene's pixels do not fit in the memory allowed.
    """
    grid = options.grid(reader.height, reader.width, contract.window)
    needs = pixel_memory(reader, grid, contract, batch, options.sum)
    blocks = scene_blocks(reader, contract, options, batch)
    windows = sum(len(block) for block in blocks)
    planes = 1 + options.confidence + options.probabilities * len(contract.classes)
    image = reader.scaling.image
    pixels = image.height * image.width * planes
    return Estimate(
        reader.scene.name,
        image.height,
        image.width,
        reader.scaling.to_json(),
        windows,
        len(blocks),
        needs.of(max(len(block.under) for block in blocks)),
        # a warped DSM; blocks, overviews, and both once more in the finished file
        reader.disk + pixels + pixels // 3 + pixels * 4 // 3,
        windows * seconds,
    )
